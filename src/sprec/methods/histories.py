"""Histories of a split as arrays."""

import numpy as np

from sprec.data import Split


def padded(split: Split, width: int, fill: int) -> np.ndarray:
    """The last ``width`` items of each history of a ``split``, padded at the end with ``fill``, shape (n, width)."""
    starts, ends = split.offsets[:-1, None], split.offsets[1:, None]
    place = np.maximum(ends - width, starts) + np.arange(width)
    items = np.append(split.items, fill)
    rows: np.ndarray = items[np.where(place < ends, place, len(split.items))]
    return rows


def longest(split: Split) -> int:
    """Length of the longest history of a ``split``."""
    return int(np.diff(split.offsets).max(initial=0))


def item_counts(split: Split, items: int) -> np.ndarray:
    """How often each of ``items`` items occurs in the histories and as target of a ``split``, shape (items,)."""
    return np.bincount(split.items, minlength=items) + np.bincount(split.targets, minlength=items)
