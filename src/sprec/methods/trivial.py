"""The floor of every comparison: recommend what is popular to all, or anything to anyone."""

import numpy as np

from sprec.methods.exclusion import require_room
from sprec.methods.ranking import first_allowed, top_columns
from sprec.methods.sampling import draw


def popular_top_k(counts: np.ndarray, excluded: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` most frequent items for every example, ties by item id, shape (n, k).

    Args:
        counts: occurrences of each item in the training data, shape (items,).
        excluded: of :func:`~sprec.methods.exclusion.excluded_items`, shape (n, width).
        k: items per example.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    require_room(excluded, len(counts), k)
    enough = min(k + excluded.shape[1], len(counts))
    best = np.broadcast_to(top_columns(counts[None], enough), (len(excluded), enough))
    return first_allowed(best, excluded, k)


def random_top_k(rng: np.random.Generator, excluded: np.ndarray, items: int, k: int) -> np.ndarray:
    """``k`` different random items for every example, shape (n, k).

    Args:
        rng: source of randomness.
        excluded: of :func:`~sprec.methods.exclusion.excluded_items`, shape (n, width).
        items: size of the catalog.
        k: items per example.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    require_room(excluded, items, k)
    return draw(rng, excluded, np.ones(items, dtype=np.int64), k)
