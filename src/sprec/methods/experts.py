"""Product of experts: recommenders that multiply their probabilities of items.

s(y|x) = sum over e of w_e log p_e(y|x),   w on the simplex, each p_e normalised over the catalog
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from sprec.methods.ranking import top_columns
from sprec.methods.tilt import LIST, ndcg


def normalised(scores: np.ndarray) -> np.ndarray:
    """``scores`` of all items (n, items), such as logits, as log-probabilities over the catalog, same shape."""
    top = scores.max(1, keepdims=True)
    log_probs: np.ndarray = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
    return log_probs


def of_titles(found: np.ndarray, log_probs: np.ndarray, sharing: np.ndarray) -> np.ndarray:
    """Log-probabilities of all items from those of the best titles under a language model, (n, items).

    Items that share a title divide its probability. The other items' probabilities are unknown: each gets an equal part
    of the rest, but no more than the worst item found,

        floor = min((1 - sum of the found) / number of the others, worst found)

    and the result is normalised over the catalog.

    Args:
        found: different items per row, -1 for none (n, K).
        log_probs: of their titles under the model (n, K); ignored where ``found`` is -1.
        sharing: how many items have the title of each item of the catalog (items,).

    Raises:
        ValueError: a row has no item.
    """
    known = found >= 0
    if not known.any(1).all():
        raise ValueError("an expert needs at least one item for each example")
    own = np.where(
        known, log_probs - np.log(sharing[found]), -np.inf
    )  # as logarithms: probabilities of long titles underflow
    left = np.maximum(1 - np.exp(own).sum(1), np.finfo(np.float64).tiny)
    others = len(sharing) - known.sum(1)
    worst = np.where(known, own, np.inf).min(1)
    floor = np.minimum(np.log(left) - np.log(np.maximum(others, 1)), worst)
    dense = np.repeat(floor[:, None], len(sharing) + 1, axis=1)
    np.put_along_axis(dense, np.where(known, found, len(sharing)), own, axis=1)
    return normalised(dense[:, :-1])


def product(experts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The sum of the ``experts``' log-probabilities of all items, each (n, items), by ``weights``; not normalised.

    An expert with weight 0 is not read.
    """
    parts = [weight * expert for expert, weight in zip(experts, weights, strict=True) if weight]
    total: np.ndarray = np.sum(parts, axis=0)
    return total


def simplex(experts: int, parts: int) -> Iterator[tuple[float, ...]]:
    """All weights of so many ``experts`` that are multiples of 1/``parts`` and sum to 1; first the first one alone."""
    for bars in combinations(range(parts + experts - 1), experts - 1):
        ends = (-1, *bars, parts + experts - 1)
        yield tuple((b - a - 1) / parts for a, b in pairwise(ends))[::-1]


def choose_weights(
    blocks: Iterable[tuple[Sequence[np.ndarray], np.ndarray]], experts: int, parts: int = 5, *, diverse: bool = False
) -> tuple[float, ...]:
    """The weights of a grid with the best NDCG@5; ties go to fewer experts, then to earlier ones.

    By accuracy alone, weights may win that show the same few items to all. ``diverse`` takes the largest NDCG@5 times
    DivRatio@1, the area that a recommender dominates in the plane of both.

    Args:
        blocks: validation examples in blocks: each expert's log-probabilities of all items (n, items), and the targets
            (n,).
        experts: their number.
        parts: the grid has the multiples of 1/parts.
        diverse: whether diversity counts, too.
    """
    tried = sorted(simplex(experts, parts), key=lambda weights: (sum(w > 0 for w in weights), [-w for w in weights]))
    gains, first = np.zeros(len(tried)), [set[int]() for _ in tried]
    for log_probs, targets in blocks:
        for place, weights in enumerate(tried):
            lists = top_columns(product(log_probs, weights), LIST)
            gains[place] += len(targets) * ndcg(lists, targets)
            first[place].update(lists[:, 0].tolist())
    worth = gains * [len(items) for items in first] if diverse else gains
    return tried[int(worth.argmax())]
