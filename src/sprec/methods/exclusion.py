"""Items that a list or draw must not contain: for a row, and for all rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    """Exclude all items that share the title of an excluded one, shape (n, width or more).

    Args:
        excluded: of :func:`excluded_items`.
        items: size of the catalog.
        twins: each item that shares its title, to all items with this title.
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
    """Sorted rows without repetitions, padded with ``items``."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = items
    return np.sort(rows, axis=1)


def nothing_excluded(rows: int, items: int) -> np.ndarray:
    """The result of :func:`excluded_items` if nothing is excluded, shape (rows, 1).

    Args:
        rows: number of rows.
        items: size of the catalog.
    """
    return np.full((rows, 1), items)


@dataclass(frozen=True)
class Excluded:
    """What the lists of n cases leave out. All methods treat barred items as if they were not in the catalog.

    Attributes:
        own: what each case leaves out besides the barred items, in the form of :func:`excluded_items`, (n, width).
        barred: which items no list may contain, shape (items,), bool.
    """

    own: np.ndarray
    barred: np.ndarray

    @classmethod
    def of(cls, own: np.ndarray, items: int, barred: np.ndarray | None = None) -> "Excluded":
        """Make both parts disjoint.

        Args:
            own: of :func:`excluded_items`, or such rows concatenated.
            items: size of the catalog.
            barred: items that no list may contain, shape (items,), bool; none by default.
        """
        if barred is None:
            barred = np.zeros(items, dtype=bool)
        return cls(_distinct(np.where(np.append(barred, False)[own], items, own), items), barred)

    @property
    def items(self) -> int:
        """Size of the catalog."""
        return len(self.barred)

    @property
    def most(self) -> int:
        """The largest number of items that a case leaves out besides the barred ones."""
        return int((self.own < self.items).sum(1).max(initial=0))

    @property
    def room(self) -> np.ndarray:
        """How many items are left for each case, shape (n,)."""
        left: np.ndarray = self.items - self.barred.sum() - (self.own < self.items).sum(1)
        return left

    def contains(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Whether each item is excluded in its row.

        Args:
            rows: row of each item, any shape that broadcasts to that of ``ids``.
            ids: the items, any shape.
        """
        span = self.items + 1
        hit: np.ndarray = np.isin(ids + span * rows, self.own + span * np.arange(len(self.own))[:, None])
        found: np.ndarray = hit | self.barred[ids]
        return found

    def take(self, rows: slice | list[int]) -> "Excluded":
        """The same for the cases ``rows``."""
        return Excluded(self.own[rows], self.barred)


def require_room(excluded: np.ndarray, items: int, k: int) -> None:
    """Check that every row has ``k`` items left.

    Args:
        excluded: of :func:`excluded_items`.
        items: size of the catalog.
        k: wanted items.

    Raises:
        UserError: a row has fewer.
    """
    room = items - int((excluded < items).sum(1).max(initial=0))
    if room < k:
        raise UserError(
            f"cannot find {k} different items: of the catalog's {items} only {room} are left beside those that are "
            "excluded for some example; ask for fewer"
        )
