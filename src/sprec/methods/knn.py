"""Item kNN with recency: what followed the items of the history in other people's sequences.

It only counts, in a second, and is the first recommender to beat.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sprec.data import Split
from sprec.methods.exclusion import Excluded
from sprec.methods.histories import item_counts, longest, padded
from sprec.methods.ranking import at_places, top_columns

_ROWS = 256  # examples scored at once
_ITEMS = 1 << 22  # of sequences, counted at once


@dataclass(frozen=True)
class Settings:
    """How neighbours are counted and weighted.

    Attributes:
        decay: weight of an item of the history relative to the next newer one.
        window: items after an item that count as its neighbours.
        popular: share of the probability that is distributed by popularity, so that every item has some.
    """

    decay: float = 0.7
    window: int = 5
    popular: float = 0.02


@dataclass(frozen=True)
class ItemKnn:
    """Neighbours and popularity of each item.

    With C(a, b) the sum of 1/gap over all places in the training sequences where b follows a at most ``window`` items
    later, and ages counted from the newest item of the history (0):

        S(b|h) = sum over a in h of decay^age(a) C(a, b) / (sqrt(pop(a)) + 1)
        p(b|h) = (1 - popular) S(b|h) / sum S + popular (pop(b) + 1) / (sum pop + |I|)

    and popularity alone if sum S is 0. A dataset has no users: if sequences are overlapping windows of a user, a pair
    counts in each window that contains it.

    Attributes:
        pop: occurrences of each item in the training sequences (items,).
        start: where the neighbours of each item begin in the next two, and the last item's end (items+1,).
        neighbour: the items b that follow each item a (m,).
        weight: C(a, b) / (sqrt(pop(a)) + 1) of each (m,).
        settings: see :class:`Settings`.
    """

    pop: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    weight: np.ndarray
    settings: Settings

    @classmethod
    def count(cls, train: Split, items: int, settings: Settings) -> "ItemKnn":
        """Count the neighbours in the sequences of ``train``, including targets, by the ``settings``.

        ``items`` is the size of the catalog.
        """
        code: np.ndarray = np.zeros(0, np.int64)
        counted: np.ndarray = np.zeros(0)
        window = min(settings.window, longest(train))  # no sequence holds a wider pair
        ends = (train.offsets + np.arange(len(train) + 1))[1:]  # of the sequences, with their targets
        for rows in np.split(np.arange(len(train)), np.searchsorted(ends, range(_ITEMS, int(ends[-1:].sum()), _ITEMS))):
            codes, weights = _pairs(train.take(rows), items, window)
            code, which = np.unique(np.concatenate([code, codes]), return_inverse=True)
            counted = np.bincount(which, np.concatenate([counted, weights]), minlength=len(code))
        first, neighbour = np.divmod(code, items)
        pop = item_counts(train, items)
        start = np.searchsorted(first, np.arange(items + 1))
        return cls(pop, start, neighbour, counted / (np.sqrt(pop[first]) + 1), settings)

    def batches(self, split: Split) -> Iterator[np.ndarray]:
        """Log-probabilities for the examples of a ``split`` in blocks, (up to 256, items) float64."""
        items = len(self.pop)
        popular = (self.pop + 1) / (self.pop.sum() + items)
        histories = padded(split, longest(split), items)
        ages = np.diff(split.offsets)[:, None] - 1 - np.arange(histories.shape[1])
        for rows in np.split(np.arange(len(split)), range(_ROWS, len(split), _ROWS)) if len(split) else ():
            scores = self._scores(histories[rows], ages[rows])
            total = scores.sum(1, keepdims=True)
            mixed = self.settings.popular * popular + (1 - self.settings.popular) * scores / np.where(total, total, 1)
            yield np.log(np.where(total, mixed, popular))

    def _scores(self, histories: np.ndarray, ages: np.ndarray) -> np.ndarray:
        """S of each item: histories (B, L) with their ages, padded with ``items``, to (B, items)."""
        items = len(self.pop)
        row, place = np.nonzero(histories < items)
        item = histories[row, place]
        count = self.start[item + 1] - self.start[item]
        entry = np.arange(count.sum()) + np.repeat(self.start[item] - (np.cumsum(count) - count), count)
        weight = np.repeat(self.settings.decay ** ages[row, place].astype(float), count) * self.weight[entry]
        cell = np.repeat(row, count) * items + self.neighbour[entry]
        return np.bincount(cell, weight, minlength=len(histories) * items).reshape(-1, items)

    def log_probs(self, split: Split) -> np.ndarray:
        """Log-probabilities of all items for each example of a ``split``, shape (n, items)."""
        return np.concatenate([np.zeros((0, len(self.pop))), *self.batches(split)])

    def top_k(self, split: Split, k: int, excluded: Excluded) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most probable items, ties by item id, and their log-probabilities.

        Args:
            split: the examples.
            k: items per example, no more than the catalog has.
            excluded: what each list leaves out.

        Returns:
            Items, padded with -1, and log-probabilities, padded with -inf; both of shape (n, k).
        """
        best, values = [np.zeros((0, k), dtype=np.int64)], [np.zeros((0, k))]
        for number, block in enumerate(self.batches(split)):
            rows = slice(number * _ROWS, number * _ROWS + len(block))
            best.append(top_columns(block, k, excluded.take(rows)))
            values.append(at_places(block, best[-1], -np.inf))
        return np.concatenate(best), np.concatenate(values)

    def save(self, folder: Path) -> None:
        """Write ``knn.safetensors`` and ``knn.json`` into a ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ("pop", "start", "neighbour", "weight")}
        save_file(arrays, folder / "knn.safetensors")
        (folder / "knn.json").write_text(json.dumps(asdict(self.settings), indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ItemKnn":
        """Read the files of :meth:`save` in a ``folder``."""
        settings = Settings(**json.loads((folder / "knn.json").read_text("utf-8")))
        return cls(**load_file(folder / "knn.safetensors"), settings=settings)


def _pairs(train: Split, items: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """All places where b follows a within the window: a times ``items`` plus b, and 1/gap; both (m,)."""
    sequences = np.insert(train.items, train.offsets[1:], train.targets)
    row = np.repeat(np.arange(len(train)), np.diff(train.offsets) + 1)
    codes, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    for gap in range(1, window + 1):
        together = row[:-gap] == row[gap:]
        codes.append((sequences[:-gap] * items + sequences[gap:])[together])
        weights.append(np.full(together.sum(), 1 / gap))
    return np.concatenate(codes), np.concatenate(weights)
