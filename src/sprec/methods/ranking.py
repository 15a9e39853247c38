"""Top-k of score matrices."""

import numpy as np


def top_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the ``k`` highest scores of each row, best first, ties by column, shape (n, k)."""
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    rows, columns = np.nonzero(scores >= bar)
    order = np.lexsort((columns, -scores[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(scores)))
    kept: np.ndarray = columns[order[first[:, None] + np.arange(k)]]
    return kept
