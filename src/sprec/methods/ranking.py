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


def sampled_columns(rng: np.random.Generator, log_probs: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """``k`` different columns of each row, drawn one after the other from p^(1/T) among those left, shape (n, k).

    The top k of log p / T with Gumbel noise are such a draw (Kool et al., ICML 2019): variety between two visits of one
    user. As T falls to 0 it becomes :func:`top_columns`.

    Args:
        rng: source of randomness.
        log_probs: up to a constant of each row (n, columns); -inf for what must not be drawn.
        k: columns per row.
        temperature: T, above 0.
    """
    return top_columns(log_probs / temperature + rng.gumbel(size=log_probs.shape), k)
