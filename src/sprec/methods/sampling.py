"""Drawing items without rejection: exclusions per example, weights per item."""

import numpy as np

MISSING = -1


def draw(rng: np.random.Generator, excluded: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """Draw ``k`` different items per row, without replacement, with p proportional to their weights, shape (n, k).

    Args:
        rng: source of randomness.
        excluded: see :func:`~sprec.methods.exclusion.excluded_items`.
        weights: integer weight of each item, shape (items,). If no item with a weight is left, -1 is drawn.
        k: items per row.
    """
    items = len(weights)
    weights = np.append(weights, 0).astype(np.int64)  # the padding of `excluded` has weight 0
    drawn = np.empty((len(excluded), k), dtype=np.int64)
    for column in range(k):
        drawn[:, column] = _draw_one(rng, excluded, weights)
        taken = np.where(drawn[:, column] == MISSING, items, drawn[:, column])
        excluded = np.sort(np.column_stack([excluded, taken]), axis=1)
    return drawn


def _draw_one(rng: np.random.Generator, excluded: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Draw one item per row, shape (n,).

    Think of the items as segments of their weight on a line. A point of the line without the excluded
    segments is drawn, then shifted to the right past every excluded segment that starts at or before it.
    """
    starts = np.cumsum(weights) - weights
    widths = weights[excluded]
    before = np.cumsum(widths, axis=1) - widths
    room = weights.sum() - widths.sum(1)
    point = rng.integers(0, np.maximum(room, 1))
    passed = starts[excluded] - before <= point[:, None]
    item = np.searchsorted(np.cumsum(weights), point + (widths * passed).sum(1), side="right")
    return np.where(room > 0, item, MISSING)
