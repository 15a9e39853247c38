"""Top-k of scores and of ranked lists, without what is excluded."""

import numpy as np

from sprec.methods.exclusion import is_excluded


def top_columns(scores: np.ndarray, k: int, excluded: np.ndarray | None = None) -> np.ndarray:
    """Columns of the ``k`` highest scores of each row, best first, ties by column, shape (n, k).

    Args:
        scores: shape (n, columns).
        k: columns per row.
        excluded: of :func:`~sprec.methods.exclusion.excluded_items`: columns to leave out of each row, at least ``k``
            are left.
    """
    if excluded is not None:
        scores = without(scores, excluded)
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    rows, columns = np.nonzero(scores >= bar)
    order = np.lexsort((columns, -scores[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(scores)))
    kept: np.ndarray = columns[order[first[:, None] + np.arange(k)]]
    return kept


def without(scores: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """The scores (n, columns) with -inf for what is excluded, a copy.

    Args:
        scores: shape (n, columns).
        excluded: of :func:`~sprec.methods.exclusion.excluded_items`, shape (n, width).
    """
    padded = np.pad(scores, ((0, 0), (0, 1)))  # a column for what pads `excluded`
    np.put_along_axis(padded, excluded, -np.inf, axis=1)
    return padded[:, :-1]


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


def first_allowed(ranked: np.ndarray, excluded: np.ndarray, k: int) -> np.ndarray:
    """The first ``k`` items of each row that are not excluded there, shape (n, k).

    Args:
        ranked: items, best first, shape (n, m) with at least ``k`` allowed ones in each row.
        excluded: of :func:`~sprec.methods.exclusion.excluded_items`, shape (n, width).
        k: items per row.
    """
    hit = is_excluded(np.arange(len(ranked))[:, None], ranked, excluded)
    order = np.argsort(hit, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ranked, order, axis=1)
