"""Top-k of scores and of ranked lists, without excluded items."""

import numpy as np

from sprec.methods.exclusion import Excluded


def top_columns(scores: np.ndarray, k: int, excluded: Excluded | None = None) -> np.ndarray:
    """Columns of the ``k`` highest scores of each row, best first, ties by column, shape (n, k).

    Args:
        scores: shape (n, columns).
        k: columns per row, at most all.
        excluded: columns to leave out of each row; if fewer than ``k`` are left, the row is padded with -1.
    """
    if excluded is not None:
        scores = without(scores, excluded)
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    rows, columns = np.nonzero(scores >= bar)
    order = np.lexsort((columns, -scores[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(scores)))
    kept: np.ndarray = columns[order[first[:, None] + np.arange(k)]]
    if excluded is not None:
        kept[np.arange(k) >= excluded.room[:, None]] = -1
    return kept


def without(scores: np.ndarray, excluded: Excluded) -> np.ndarray:
    """A copy of the scores with -inf for excluded columns, shape (n, columns).

    Args:
        scores: shape (n, columns).
        excluded: columns to leave out of each row.
    """
    padded = np.pad(scores, ((0, 0), (0, 1)))  # a column for the padding of the rows
    np.put_along_axis(padded, excluded.own, -np.inf, axis=1)
    padded[:, :-1][:, excluded.barred] = -np.inf
    return padded[:, :-1]


def sampled_columns(rng: np.random.Generator, log_probs: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """``k`` different columns of each row, drawn without replacement from p^(1/T), shape (n, k).

    The top k of log p / T with Gumbel noise are such a draw (Kool et al., ICML 2019): it gives a user other items at
    each visit. As T approaches 0 it becomes :func:`top_columns`.

    Args:
        rng: source of randomness.
        log_probs: up to a constant of each row (n, columns); -inf for what must not be drawn.
        k: columns per row.
        temperature: T, above 0.
    """
    return top_columns(log_probs / temperature + rng.gumbel(size=log_probs.shape), k)


def first_allowed(ranked: np.ndarray, excluded: Excluded, k: int) -> np.ndarray:
    """The first ``k`` items of each row that are not excluded there, padded with -1, shape (n, k).

    Args:
        ranked: items, best first, shape (n, m).
        excluded: what each row leaves out.
        k: items per row.
    """
    return at_places(ranked, allowed_places(ranked, excluded, k), -1)


def allowed_places(ranked: np.ndarray, excluded: Excluded, k: int) -> np.ndarray:
    """The positions of the items of :func:`first_allowed` in their rows, padded with -1, shape (n, k).

    Args:
        ranked: items, best first, shape (n, m).
        excluded: what each row leaves out.
        k: items per row.
    """
    hit = excluded.contains(np.arange(len(ranked))[:, None], ranked)
    order = np.argsort(hit, axis=1, kind="stable")[:, :k]
    places = np.where(np.take_along_axis(hit, order, axis=1), -1, order)
    return np.pad(places, ((0, 0), (0, k - places.shape[1])), constant_values=-1)


def at_places(values: np.ndarray, places: np.ndarray, missing: float) -> np.ndarray:
    """Values of each row at given positions, shape (n, k).

    Args:
        values: shape (n, m).
        places: of :func:`allowed_places`, shape (n, k).
        missing: the value for -1.
    """
    padded = np.pad(values, ((0, 0), (0, 1)), constant_values=missing)
    return np.take_along_axis(padded, places, axis=1)
