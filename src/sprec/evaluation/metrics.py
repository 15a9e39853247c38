"""The metrics of the SPRec paper: accuracy, diversity, over-recommendation and genre fairness of top-k lists.

Three denominators meet here, as in the paper's published code. Accuracy is divided by all n cases: a case
whose target is unknown counts as a miss. Diversity and over-recommendation are divided by the slots of the
cases with a known target, and only their lists count. The genre shares of the histories come from all n
cases, those of the lists from the cases with a known target.

All of it is a function of per-case sums. :class:`Cases` holds those sums and :func:`replicates` evaluates
them under many case weights at once, which the resampling in :mod:`sprec.evaluation.statistics` needs.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OVER_RECOMMENDED = 3
"""How many of the most recommended items ORRatio adds up (paper, definition of ORRatio)."""

_DIRECTIONS = {"HR": 1, "NDCG": 1, "DivRatio": 1, "ExactTitles": 1, "ORRatio": -1, "MGU": -1, "DGU": -1}


@dataclass(frozen=True)
class Cases:
    """What the metrics need to know of n test cases, case by case.

    Attributes:
        ks: the cut-offs.
        ranks: position of the target in its list, 0 = first, (n,); max k where it does not occur.
        known: whether the target is known, (n,).
        lists: the first items of each list, -1 = no item, (n, max k); all -1 where the target is unknown.
        histories: genre mass of each history, (n, |G|).
        recommended: genre mass of the first k items of each list, one (n, |G|) array per cut-off.
    """

    ks: tuple[int, ...]
    ranks: Ints
    known: NDArray[np.bool_]
    lists: Ints
    histories: Floats
    recommended: tuple[Floats, ...]

    def __len__(self) -> int:
        return len(self.ranks)


def direction(name: str) -> int:
    """1 where a higher value of the metric is better, -1 where a lower one is, 0 where neither holds."""
    return _DIRECTIONS.get(name.partition("@")[0], 0)


def evaluate(
    recommendations: ArrayLike,
    targets: ArrayLike,
    history_items: ArrayLike,
    history_offsets: ArrayLike,
    genre_matrix: ArrayLike,
    ks: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """Measure top-k lists: ``{"HR@1": ..., "NDCG@1": ..., "DivRatio@1": ..., ...}`` for every cut-off.

    With n cases, m of them with a known target, R_i the first k items of case i, r_i the target's place:

    * HR@k = (1/n) sum 1[r_i < k]; NDCG@k = (1/n) sum 1[r_i < k] / log2(r_i + 2).
    * DivRatio@k = |union of R_i| / (m k).
    * ORRatio@k = (c_1 + c_2 + c_3) / (m k), c_j the j-th largest item count over all m k slots.
    * MGU@k = mean over g of |GP(g) - GH(g)| and DGU@k = max - min of GP(g) - GH(g), GP and GH the genre
      distributions of the lists and of the histories (IFairLRS, Jiang et al. 2024).

    Args:
        recommendations: item ids, best first, -1 where a list is shorter, shape (n, at least max k).
        targets: item ids, -1 where unknown, shape (n,).
        history_items: all histories behind each other (``Split.items``), -1 = unknown.
        history_offsets: where each history starts and the last one ends, shape (n+1,) (``Split.offsets``).
        genre_matrix: share of each item in each selected genre, (items, |G|) (``Catalog.genre_matrix``).
        ks: the cut-offs.

    Returns:
        The metrics. MGU and DGU are NaN, with one warning, when no history item or no recommended item has a
        selected genre; diversity is NaN when no target is known.

    Raises:
        ValueError: shapes that do not fit, no case, an item outside the catalogue, or a cut-off larger than
            the lists or the catalogue.

    Examples:
        Two cases; the first one's target is in second place, the second one's is not found:

        >>> lists, genres = [[0, 1], [0, 2]], [[1, 0], [1, 0], [0, 1]]
        >>> metrics = evaluate(lists, targets=[1, 1], history_items=[2, 0], history_offsets=[0, 1, 2],
        ...                    genre_matrix=genres, ks=[2])
        >>> metrics["HR@2"], round(metrics["NDCG@2"], 4), metrics["DivRatio@2"], metrics["MGU@2"]
        (0.5, 0.3155, 0.75, 0.25)
    """
    cases = accumulate(recommendations, targets, history_items, history_offsets, genre_matrix, ks)
    values = {name: float(value[0]) for name, value in replicates(cases).items()}
    if any(np.isnan(values[f"MGU@{k}"]) for k in cases.ks):
        warnings.warn("MGU and DGU are undefined (NaN): no selected genre on one side", stacklevel=2)
    return values


def accumulate(
    recommendations: ArrayLike,
    targets: ArrayLike,
    history_items: ArrayLike,
    history_offsets: ArrayLike,
    genre_matrix: ArrayLike,
    ks: Sequence[int] = (1, 5),
) -> Cases:
    """Reduce lists, targets and histories to per-case sums; arguments and errors as in :func:`evaluate`."""
    recs, wanted = np.asarray(recommendations, np.int64), np.asarray(targets, np.int64)
    items, offsets = np.asarray(history_items, np.int64), np.asarray(history_offsets, np.int64)
    genres = np.asarray(genre_matrix, np.float64)
    _check(recs, wanted, items, offsets, len(genres), ks)
    known, width = wanted >= 0, max(ks)
    recs = np.where(known[:, None], recs[:, :width], -1)
    hits = (recs == wanted[:, None]) & known[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), width)
    owners = np.repeat(np.arange(len(wanted)), np.diff(offsets))
    histories = np.zeros((len(wanted), genres.shape[1]))
    np.add.at(histories, owners, _masses(items, genres))
    masses = np.cumsum(_masses(recs, genres), axis=1)
    return Cases(tuple(ks), ranks, known, recs, histories, tuple(masses[:, k - 1] for k in ks))


def replicates(cases: Cases, weights: ArrayLike | None = None) -> dict[str, Floats]:
    """Measure the cases under B weightings at once.

    Args:
        cases: what :func:`accumulate` returned.
        weights: how often each case occurs, shape (B, n); every case once when left out (B = 1).

    Returns:
        Metric name to B values, each what :func:`evaluate` gives for the cases repeated by these weights.
    """
    w = np.ones((1, len(cases))) if weights is None else np.asarray(weights, np.float64)
    values: dict[str, Floats] = {}
    each = gains(cases)
    for k, recommended in zip(cases.ks, cases.recommended, strict=True):
        for name in (f"HR@{k}", f"NDCG@{k}"):
            values[name] = w @ each[name] / w.sum(axis=1)
        distinct, largest = _concentration(cases.lists[:, :k], w)
        slots = np.where(w @ cases.known > 0, k * (w @ cases.known), np.nan)
        values[f"DivRatio@{k}"], values[f"ORRatio@{k}"] = distinct / slots, largest / slots
        unfairness = _normalised(w @ recommended) - _normalised(w @ cases.histories)
        values[f"MGU@{k}"], values[f"DGU@{k}"] = summarise_unfairness(unfairness)
    return values


def gains(cases: Cases) -> dict[str, Floats]:
    """What every case contributes to HR and NDCG, metric name to (n,): the metric is the mean."""
    found: dict[str, Floats] = {}
    for k in cases.ks:
        hit = cases.ranks < k
        found[f"HR@{k}"], found[f"NDCG@{k}"] = hit.astype(np.float64), hit / np.log2(cases.ranks + 2)
    return found


def genre_unfairness(cases: Cases, k: int) -> Floats:
    """GU(g) = GP(g) - GH(g) of every selected genre at cut-off k, (|G|,): above 0 = over-recommended."""
    recommended = cases.recommended[cases.ks.index(k)]
    unfairness: Floats = _normalised(recommended.sum(axis=0)) - _normalised(cases.histories.sum(axis=0))
    return unfairness


def summarise_unfairness(unfairness: Floats) -> tuple[Floats, Floats]:
    """MGU (mean of |GU|) and DGU (max - min of GU) over the last axis; NaN without genres."""
    if not unfairness.shape[-1]:
        return np.full(unfairness.shape[:-1], np.nan), np.full(unfairness.shape[:-1], np.nan)
    return np.abs(unfairness).mean(axis=-1), unfairness.max(axis=-1) - unfairness.min(axis=-1)


def exact_title_share(titles: Iterable[str], catalog: Iterable[str]) -> float:
    """Share of generated titles that are, to the letter, titles of the catalogue; NaN when there are none."""
    known = set(catalog)
    exact = [title in known for title in titles]
    return sum(exact) / len(exact) if exact else float("nan")


def entropy(recommendations: ArrayLike, k: int) -> float:
    """Shannon entropy, in nats, of the items over all slots of the first k columns; -1 (no item) is left out.

    exp(entropy) is the number of equally frequent items that would be as diverse. NaN without any item.
    """
    items = np.asarray(recommendations, np.int64)[:, :k]
    counts = np.unique(items[items >= 0], return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if len(counts) else float("nan")


def _check(recs: Ints, targets: Ints, items: Ints, offsets: Ints, size: int, ks: Sequence[int]) -> None:
    if recs.ndim != 2 or targets.shape != recs.shape[:1] or offsets.shape != (len(targets) + 1,):
        shapes = f"{recs.shape}, {targets.shape}, {offsets.shape}"
        raise ValueError(f"recommendations, targets and history offsets do not fit: shapes {shapes}")
    if not len(targets):
        raise ValueError("there are no cases to evaluate")
    longest = min(recs.shape[1], size)
    if not ks or min(ks) < 1 or max(ks) > longest:
        raise ValueError(f"cut-offs {tuple(ks)} must lie in 1..{longest} (list length, catalogue size)")
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ValueError("history offsets must rise from 0 to the number of history items")
    for ids in (recs, targets, items):
        if ids.size and not -1 <= ids.min() <= ids.max() < size:
            raise ValueError(f"item ids must lie in -1..{size - 1}, got {ids.min()}..{ids.max()}")


def _masses(items: Ints, genre_matrix: Floats) -> Floats:
    """Genre mass of each item id, any shape (*s) -> (*s, |G|); nothing for -1."""
    masses: Floats = np.where(items[..., None] >= 0, genre_matrix[items], 0.0)
    return masses


def _normalised(mass: Floats) -> Floats:
    total = mass.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
    return shares


def _concentration(lists: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """Distinct items, and slots of the most frequent items, for each row of weights."""
    rows, columns = np.nonzero(lists >= 0)
    codes = np.unique(lists[rows, columns], return_inverse=True)[1]  # short count vectors, any catalogue
    distinct, largest = np.zeros(len(weights)), np.zeros(len(weights))
    for b, weight in enumerate(weights):
        counts = np.bincount(codes, weight[rows])
        distinct[b] = np.count_nonzero(counts)
        top = counts if len(counts) <= OVER_RECOMMENDED else np.partition(counts, -OVER_RECOMMENDED)
        largest[b] = top[-OVER_RECOMMENDED:].sum()
    return distinct, largest
