"""Trivial baselines: the same popular items for all, or random items."""

import numpy as np

from sprec.methods.exclusion import Excluded
from sprec.methods.ranking import first_allowed, top_columns
from sprec.methods.sampling import draw


def popular_top_k(counts: np.ndarray, excluded: Excluded, k: int) -> np.ndarray:
    """The ``k`` most frequent items for every example, ties by item id, padded with -1, shape (n, k).

    Args:
        counts: occurrences of each item in the training data, shape (items,).
        excluded: what each list leaves out.
        k: items per example.
    """
    enough = min(k + excluded.most, len(counts))
    best = top_columns(np.where(excluded.barred, -1, counts)[None], enough)
    return first_allowed(np.broadcast_to(best, (len(excluded.own), enough)), excluded, k)


def random_top_k(rng: np.random.Generator, excluded: Excluded, k: int) -> np.ndarray:
    """``k`` different random items for every example, padded with -1, shape (n, k).

    Args:
        rng: source of randomness.
        excluded: what each list leaves out.
        k: items per example.
    """
    return draw(rng, excluded.own, np.where(excluded.barred, 0, 1), k)
