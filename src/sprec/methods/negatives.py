"""Negative samplers: which items stand as rejected answers beside the target of an example.

Every sampler returns item ids, shape (n, K) for n examples; -1 marks a missing negative. Randomness comes
from the generator that is passed in and from nowhere else.
"""

import numpy as np

from sprec.data import Split
from sprec.errors import UserError

MISSING = -1
_BLOCK = 1 << 24  # scores held at once by the semantic sampler: 64 MiB of float32


def uniform(
    rng: np.random.Generator, split: Split, items: int, k: int, exclude_history: bool = True
) -> np.ndarray:
    """Draw ``k`` different items per example, all equally likely; never the target, shape (n, k).

    Args:
        rng: source of randomness.
        split: the examples.
        items: size of the catalog.
        k: negatives per example.
        exclude_history: never draw an item of the example's history.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    return popularity(rng, split, np.ones(items, dtype=np.int64), k, exclude_history)


def popularity(
    rng: np.random.Generator, split: Split, counts: np.ndarray, k: int, exclude_history: bool = True
) -> np.ndarray:
    """Draw ``k`` different items per example with p proportional to their counts, shape (n, k).

    The popularity-aware sampler of RosePO. Each further item is drawn from those left. A negative is
    missing where no item with a count is left.

    Args:
        rng: source of randomness.
        split: the examples.
        counts: integer count of each item in the training data, shape (items,).
        k: negatives per example.
        exclude_history: never draw an item of the example's history; the target is never drawn.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    excluded = _excluded(split, len(counts), exclude_history)
    _require_room(excluded, len(counts), k)
    weights = np.append(counts, 0).astype(np.int64)
    drawn = np.empty((len(split), k), dtype=np.int64)
    for column in range(k):
        drawn[:, column] = _draw_one(rng, excluded, weights)
        taken = np.where(drawn[:, column] == MISSING, len(counts), drawn[:, column])
        excluded = np.sort(np.column_stack([excluded, taken]), axis=1)
    return drawn


def semantic(
    split: Split,
    embeddings: np.ndarray,
    k: int = 1,
    *,
    top: int | None = None,
    rng: np.random.Generator | None = None,
    least: bool = False,
) -> np.ndarray:
    """Take the ``k`` items with the highest mean cosine to the items of the history, shape (n, k).

    The semantic-similar sampler of RosePO: neither an item of the history nor the target; ties go to the
    lowest id. An example without history finds all items equally similar.

    Args:
        split: the examples.
        embeddings: text embedding of each item, shape (items, d).
        k: negatives per example.
        top: draw the ``k`` items from the ``top`` most similar ones instead; needs ``rng``.
        rng: source of randomness.
        least: the research code of SPRec: the least similar items, history and target not excluded.

    Raises:
        UserError: the catalog has fewer than ``k`` (or ``top``) items left for some example.
    """
    items, pool = len(embeddings), top or k
    excluded = np.full((len(split), 1), items) if least else _excluded(split, items, True)
    _require_room(excluded, items, pool)
    unit = np.vstack([_unit_rows(embeddings), np.zeros_like(embeddings[:1])])  # the padding of `excluded`
    best = np.empty((len(split), pool), dtype=np.int64)
    step = max(1, _BLOCK // items)
    for start in range(0, len(split), step):
        rows = slice(start, start + step)
        scores = _mean_history(split[rows], unit) @ (-unit.T if least else unit.T)
        np.put_along_axis(scores, excluded[rows], -np.inf, axis=1)
        best[rows] = _top(scores[:, :items], pool)
    if top is None:
        return best
    if rng is None or top < k:
        raise ValueError("drawing from the top needs rng and top >= k")
    return rng.permuted(best, axis=1)[:, :k]


def mix(rng: np.random.Generator, own: np.ndarray, uniform: np.ndarray, ratio: float) -> np.ndarray:
    """Replace the negatives of floor(ratio * n) random examples by uniform ones, shape (n, K) (Figure 5).

    Args:
        rng: source of randomness.
        own: self-play negatives, shape (n, K).
        uniform: uniform negatives, shape (n, K).
        ratio: share of the examples that are replaced, in [0, 1].
    """
    replaced = rng.permutation(len(own))[: int(ratio * len(own) + 1e-9)]
    mixed = own.copy()
    mixed[replaced] = uniform[replaced]
    return mixed


def _excluded(split: Split, items: int, exclude_history: bool) -> np.ndarray:
    """Sorted distinct items that an example must not draw, padded with ``items``, shape (n, width)."""
    lengths = np.diff(split.offsets) * exclude_history
    width = int(lengths.max(initial=0))
    inside = np.arange(width) < lengths[:, None]
    histories = np.full((len(split), width), items)
    if exclude_history:
        histories[inside] = split.items
    rows = np.sort(np.column_stack([histories, split.targets]), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = items
    return np.sort(rows, axis=1)


def _require_room(excluded: np.ndarray, items: int, k: int) -> None:
    room = items - int((excluded < items).sum(1).max(initial=0))
    if room < k:
        raise UserError(
            f"cannot draw {k} negatives: of the catalog's {items} items only {room} are neither history "
            "nor target of some example; ask for fewer negatives"
        )


def _draw_one(rng: np.random.Generator, excluded: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Draw one item per row with p proportional to ``weights``, given that it is not excluded, shape (n,).

    Think of the items as segments of their weight on a line. A point of the line without the excluded
    segments is drawn, then shifted to the right past every excluded segment that starts at or before it:
    exact, no rejection.
    """
    starts = np.cumsum(weights) - weights
    widths = weights[excluded]
    before = np.cumsum(widths, axis=1) - widths
    room = weights.sum() - widths.sum(1)
    point = rng.integers(0, np.maximum(room, 1))
    passed = starts[excluded] - before <= point[:, None]
    item = np.searchsorted(np.cumsum(weights), point + (widths * passed).sum(1), side="right")
    return np.where(room > 0, item, MISSING)


def _unit_rows(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: np.ndarray = embeddings / np.maximum(norms, np.finfo(embeddings.dtype).tiny)
    return unit


def _mean_history(split: Split, unit: np.ndarray) -> np.ndarray:
    """Mean of the unit embeddings of each history, shape (n, d): times a unit vector, the mean cosine."""
    lengths = np.diff(split.offsets)
    sums = np.zeros((len(split), unit.shape[1]), dtype=unit.dtype)
    np.add.at(sums, np.repeat(np.arange(len(split)), lengths), unit[split.items])
    return np.divide(sums, np.maximum(lengths, 1)[:, None], dtype=unit.dtype)


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the ``k`` highest scores of each row, best first, ties by column, shape (n, k)."""
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    rows, columns = np.nonzero(scores >= bar)
    order = np.lexsort((columns, -scores[rows, columns], rows))
    first = np.searchsorted(rows, np.arange(len(scores)))
    kept: np.ndarray = columns[order[first[:, None] + np.arange(k)]]
    return kept
