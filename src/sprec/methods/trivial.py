"""The floor of every comparison: recommend what is popular to all, or anything to anyone."""

import numpy as np

from sprec.data import Split
from sprec.methods.ranking import top_columns
from sprec.methods.sampling import draw, excluded_items, require_room


def popular_top_k(counts: np.ndarray, split: Split, k: int, *, exclude_history: bool = False) -> np.ndarray:
    """The ``k`` most frequent items for every example, ties by item id, shape (n, k).

    Args:
        counts: occurrences of each item in the training data, shape (items,).
        split: the examples.
        k: items per example.
        exclude_history: leave out the items of the example's history.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    excluded = excluded_items(split, len(counts), history=exclude_history, target=False)
    require_room(excluded, len(counts), k)
    enough = min(k + excluded.shape[1], len(counts))
    best = np.broadcast_to(top_columns(counts[None], enough), (len(split), enough))
    banned = (best[:, :, None] == excluded[:, None, :]).any(2)
    allowed = np.argsort(banned, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(best, allowed, axis=1)


def random_top_k(
    rng: np.random.Generator, split: Split, items: int, k: int, *, exclude_history: bool = False
) -> np.ndarray:
    """``k`` different random items for every example, shape (n, k).

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    excluded = excluded_items(split, items, history=exclude_history, target=False)
    require_room(excluded, items, k)
    return draw(rng, excluded, np.ones(items, dtype=np.int64), k)
