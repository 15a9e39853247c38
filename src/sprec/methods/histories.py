"""Histories of a split as arrays."""

import numpy as np

from sprec.data import Split


def padded(split: Split, width: int, fill: int) -> np.ndarray:
    """The last ``width`` items of each history, right-aligned, ``fill`` before the first one, shape (n, width)."""
    place = split.offsets[1:, None] - width + np.arange(width)
    inside = place >= split.offsets[:-1, None]
    items = np.append(split.items, fill)
    rows: np.ndarray = items[np.where(inside, place, len(split.items))]
    return rows


def longest(split: Split) -> int:
    """Length of the longest history."""
    return int(np.diff(split.offsets).max(initial=0))


def item_counts(split: Split, items: int) -> np.ndarray:
    """How often each item occurs in the histories and as target, shape (items,)."""
    return np.bincount(split.items, minlength=items) + np.bincount(split.targets, minlength=items)


def with_prefixes(split: Split) -> Split:
    """The split and, as further examples, every beginning of a history with the item that follows it."""
    lengths = np.diff(split.offsets)
    pieces = np.maximum(lengths - 1, 0)
    sizes = np.concatenate([np.arange(1, pieces.max(initial=0) + 1)[:n] for n in pieces.tolist()] or [pieces])
    starts = np.repeat(split.offsets[:-1], pieces)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, sizes)
    return split + Split(split.items[place], offsets, split.items[starts + sizes])
