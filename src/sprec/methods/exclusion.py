"""Items that a list or a draw must not contain, row by row."""

from collections.abc import Mapping, Sequence

import numpy as np

from sprec.data import Split
from sprec.methods.histories import longest, padded
from sprec.system.errors import UserError


def excluded_items(split: Split, items: int, *, history: bool, target: bool) -> np.ndarray:
    """Sorted distinct items that an example must not get, padded with ``items``, shape (n, width).

    Args:
        split: the examples.
        items: size of the catalog.
        history: exclude the items of the history.
        target: exclude the target.
    """
    parts = [nothing_excluded(len(split), items)]
    if history:
        parts.append(padded(split, longest(split), items))
    if target:
        parts.append(split.targets[:, None])
    return _distinct(np.concatenate(parts, axis=1), items)


def with_twins(excluded: np.ndarray, items: int, twins: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Exclude with an item all items that share its title, shape (n, width or more).

    Args:
        excluded: of :func:`excluded_items`.
        items: size of the catalog.
        twins: each item that shares its title to all items that carry it.
    """
    sharing = np.isin(excluded, list(twins))
    if not sharing.any():
        return excluded
    rows = zip(excluded, sharing, strict=True)
    also = [[twin for item in row[chosen].tolist() for twin in twins[item]] for row, chosen in rows]
    padding = np.full((len(excluded), max(map(len, also))), items)
    for row, own in zip(padding, also, strict=True):
        row[: len(own)] = own
    return _distinct(np.concatenate([excluded, padding], axis=1), items)


def _distinct(rows: np.ndarray, items: int) -> np.ndarray:
    """Sorted rows in which an item stands once, padded with ``items``."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = items
    return np.sort(rows, axis=1)


def nothing_excluded(rows: int, items: int) -> np.ndarray:
    """What :func:`excluded_items` gives where nothing is excluded, shape (rows, 1).

    Args:
        rows: number of rows.
        items: size of the catalog.
    """
    return np.full((rows, 1), items)


def is_excluded(rows: np.ndarray, ids: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Whether each item is excluded in its row; what pads ``excluded`` is.

    Args:
        rows: row of each item, any shape that broadcasts to that of ``ids``.
        ids: the items, any shape.
        excluded: of :func:`excluded_items`.
    """
    span = int(max(ids.max(initial=0), excluded.max(initial=0))) + 1
    return np.isin(ids + span * rows, excluded + span * np.arange(len(excluded))[:, None])


def require_room(excluded: np.ndarray, items: int, k: int) -> None:
    """Check that every row has ``k`` items left.

    Args:
        excluded: of :func:`excluded_items`.
        items: size of the catalog.
        k: items that are wanted.

    Raises:
        UserError: some row has fewer.
    """
    room = items - int((excluded < items).sum(1).max(initial=0))
    if room < k:
        raise UserError(
            f"cannot find {k} different items: of the catalog's {items} only {room} are left beside those that are "
            "excluded for some example; ask for fewer"
        )
