"""The metrics of top-k lists, each a row of :data:`METRICS`: the SPRec paper's, and others of diversity and bias.

There are three denominators, as in the paper's published code. Accuracy is divided by all n cases: a case
whose target is unknown counts as a miss. DivRatio and ORRatio are divided by the slots of the cases with a
known target, and only their lists count. The genre shares of the histories come from all n cases, those of the
lists from the cases with a known target. The metrics beyond the paper's use all n lists.

All of it is a function of per-case sums. :class:`sprec.evaluation.cases.Cases` holds those sums and :func:`replicates`
evaluates them under many case weights at once, which the resampling in :mod:`sprec.evaluation.statistics` needs.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from sprec.evaluation.cases import Cases, CatalogFacts, Floats, Ints, accumulate

OVER_RECOMMENDED = 3
"""How many of the most recommended items ORRatio counts (paper, definition of ORRatio)."""


@dataclass(frozen=True)
class Metric:
    """A metric: a mean over cases, or a function of all lists.

    Attributes:
        name: without the cut-off.
        about: a description in one line (docs/metrics.md has the formulas).
        direction: 1 if a higher value is better, -1 if a lower one is.
        high: the largest possible value; the smallest is 0.
        each: the contribution of every case to the mean, ``(cases, k) -> (n,)``; NaN if it has none.
        whole: the value over all cases under B weightings, ``(cases, k, weights (B, n)) -> (B,)``, if it is no mean.
        resampled: the same if the weightings are resamples, for metrics that a plain resample would bias.
        needs: attribute of :class:`Cases` without which it cannot be measured; "" for none.
        first_k: the smallest cut-off at which it exists; 0 if it has no cut-off.
        undefined: the reason to warn of when it is NaN; "" for no warning.
    """

    name: str
    about: str
    direction: int
    high: float = 1.0
    each: Callable[[Cases, int], Floats] | None = None
    whole: Callable[[Cases, int, Floats], Floats] | None = None
    resampled: Callable[[Cases, int, Floats], Floats] | None = None
    needs: str = ""
    first_k: int = 1
    undefined: str = ""

    def at(self, k: int) -> str:
        """The name with the cut-off ``k``: ``HR@5``."""
        return f"{self.name}@{k}" if self.first_k else self.name

    def values(self, cases: Cases, k: int, weights: Floats, resampled: bool = False) -> Floats:
        """The metric at ``k`` of ``cases`` under B ``weights`` (B, n), (B,); ``resampled`` as in :func:`replicates`."""
        if self.each:
            each = self.each(cases, k)
            defined = ~np.isnan(each)
            return _ratio(weights @ np.where(defined, each, 0.0), weights @ defined)
        whole = self.resampled if resampled and self.resampled else self.whole
        assert whole, f"{self.name} has no formula"
        return whole(cases, k, weights)


def parsed(name: str) -> tuple[Metric, int]:
    """The row and the cut-off of a metric by its ``name``: ``HR@5`` is (HR, 5); 0 if it has no cut-off.

    Raises:
        KeyError: there is no such metric.
    """
    row, _, text = name.partition("@")
    k = int(text) if text.isdecimal() else 0
    if METRICS[row].at(k) != name or k < METRICS[row].first_k:
        raise KeyError(name)
    return METRICS[row], k


def measurable(cases: Cases) -> list[str]:
    """The metrics that can be measured on ``cases``, cut-off by cut-off; those without a cut-off come last."""
    able = [row for row in METRICS.values() if not row.needs or getattr(cases, row.needs) is not None]
    cut = [row.at(k) for k in cases.ks for row in able if row.first_k and k >= row.first_k]
    return [*cut, *(row.name for row in able if not row.first_k)]


def direction(name: str) -> int:
    """1 if a higher value of the metric ``name`` is better, -1 if a lower one is, 0 if it is no metric."""
    row = METRICS.get(name.partition("@")[0])
    return row.direction if row else 0


def evaluate(
    recommendations: ArrayLike,
    targets: ArrayLike,
    history_items: ArrayLike,
    history_offsets: ArrayLike,
    genre_matrix: ArrayLike,
    ks: Sequence[int] = (1, 5),
    facts: CatalogFacts | None = None,
    exact: ArrayLike | None = None,
) -> dict[str, float]:
    """Measure top-k lists: every row of :data:`METRICS` that the arguments suffice for, at every cut-off.

    Args:
        recommendations: item ids, best first, padded with -1, shape (n, at least max k).
        targets: item ids, -1 if unknown, shape (n,).
        history_items: all histories, concatenated (``Split.items``), -1 = unknown.
        history_offsets: where each history starts and the last one ends, shape (n+1,) (``Split.offsets``).
        genre_matrix: share of each item in each selected genre, (items, |G|) (``Catalog.genre_matrix``).
        ks: the cut-offs.
        facts: popularity and genres of the items, for the metrics that need them.
        exact: share of the titles generated for each case that exist, (n,) (:func:`exact_titles`).

    Returns:
        ``{"HR@1": ..., "NDCG@1": ..., ...}``; undefined metrics are NaN: MGU and DGU, with a warning, if no history
        item or no recommended item has a selected genre; diversity if no target is known.

    Raises:
        ValueError: shapes do not match, there is no case, an item is outside the catalogue, or a cut-off is larger
            than the lists or the catalogue.

    Examples:
        Two cases; the target of the first is in second place, that of the second is not in the list:

        >>> lists, genres = [[0, 1], [0, 2]], [[1, 0], [1, 0], [0, 1]]
        >>> metrics = evaluate(lists, targets=[1, 1], history_items=[2, 0], history_offsets=[0, 1, 2],
        ...                    genre_matrix=genres, ks=[2])
        >>> metrics["HR@2"], round(metrics["NDCG@2"], 4), metrics["DivRatio@2"], metrics["MGU@2"]
        (0.5, 0.3155, 0.75, 0.25)
    """
    return measure(accumulate(recommendations, targets, history_items, history_offsets, genre_matrix, ks, facts, exact))


def measure(cases: Cases) -> dict[str, float]:
    """All metrics of ``cases``, name to value; undefined ones are NaN, some with a warning."""
    values = {name: float(value[0]) for name, value in replicates(cases).items()}
    undefined: dict[str, dict[str, None]] = {}
    for name in values:
        row, _ = parsed(name)
        if row.undefined and math.isnan(values[name]):
            undefined.setdefault(row.undefined, {})[row.name] = None
    for reason, names in undefined.items():
        warnings.warn(f"{' and '.join(names)} are undefined (NaN): {reason}", stacklevel=3)
    return values


def replicates(
    cases: Cases, weights: ArrayLike | None = None, names: Iterable[str] | None = None, *, resampled: bool = False
) -> dict[str, Floats]:
    """Measure the cases under B weightings at once.

    Args:
        cases: of :func:`accumulate`.
        weights: how often each case occurs, shape (B, n); by default every case once (B = 1).
        names: the metrics to measure; by default all that can be.
        resampled: the weightings are resamples, in which a case that occurs twice stands for two different ones;
            metrics of the spread of exposure are then linearised (:mod:`sprec.evaluation.statistics`).

    Returns:
        Metric name to B values, each that of :func:`evaluate` for the cases repeated by these weights.

    Raises:
        KeyError: a metric does not exist, or cannot be measured on these cases.
    """
    w = np.ones((1, len(cases))) if weights is None else np.asarray(weights, np.float64)
    rows = {name: parsed(name) for name in (measurable(cases) if names is None else names)}
    return {name: row.values(cases, k, w, resampled) for name, (row, k) in rows.items()}


def genre_unfairness(cases: Cases, k: int) -> Floats:
    """GU(g) = GP(g) - GH(g) of every selected genre at ``k`` over ``cases``, (|G|,): above 0 = over-recommended."""
    recommended = cases.recommended[cases.ks.index(k)]
    unfairness: Floats = _normalised(recommended.sum(axis=0)) - _normalised(cases.histories.sum(axis=0))
    return unfairness


def _hit(cases: Cases, k: int) -> Floats:
    """``1[r_i < k]``, r_i the target's place in the list of case i."""
    return (cases.ranks < k).astype(np.float64)


def _gain(cases: Cases, k: int) -> Floats:
    """``1[r_i < k] / log2(r_i + 2)`` (Järvelin & Kekäläinen 2002, with one relevant item)."""
    gain: Floats = (cases.ranks < k) / np.log2(cases.ranks + 2)
    return gain


def _div_ratio(cases: Cases, k: int, weights: Floats) -> Floats:
    """``|union of R_i| / (m k)``, R_i the first k items of the m cases with a known target (paper)."""
    distinct = [np.count_nonzero(counts) for counts in _counts(cases, k, weights * cases.known)]
    return _ratio(np.array(distinct), k * (weights @ cases.known))


def _linear_div_ratio(cases: Cases, k: int, weights: Floats) -> Floats:
    distinct = _distinct_of_copies(np.where(cases.known[:, None], cases.lists[:, :k], -1), weights)
    return _ratio(distinct, np.full(len(weights), cases.known.sum() * k))


def _or_ratio(cases: Cases, k: int, weights: Floats) -> Floats:
    """``(c_1 + c_2 + c_3) / (m k)``, c_j the j-th largest item count over all m k slots (paper)."""

    def largest(counts: Floats) -> float:
        top = counts if len(counts) <= OVER_RECOMMENDED else np.partition(counts, -OVER_RECOMMENDED)
        return float(top[-OVER_RECOMMENDED:].sum())

    found = [largest(counts) for counts in _counts(cases, k, weights * cases.known)]
    return _ratio(np.array(found), k * (weights @ cases.known))


def _mgu(cases: Cases, k: int, weights: Floats) -> Floats:
    """Mean over g of ``|GP(g) - GH(g)|``, the genre shares of lists and histories (IFairLRS, Jiang et al. 2024)."""
    unfairness = _unfairness(cases, k, weights)
    return np.abs(unfairness).mean(axis=-1) if unfairness.shape[-1] else np.full(len(weights), np.nan)


def _dgu(cases: Cases, k: int, weights: Floats) -> Floats:
    """Largest minus smallest ``GP(g) - GH(g)`` (IFairLRS, Jiang et al. 2024)."""
    unfairness = _unfairness(cases, k, weights)
    return np.ptp(unfairness, axis=-1) if unfairness.shape[-1] else np.full(len(weights), np.nan)


def _entropy(cases: Cases, k: int, weights: Floats) -> Floats:
    """``-sum p ln p``, p the shares of the items in all recommended slots (Shannon 1948)."""

    def entropy(counts: Floats) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum()) if len(shares) else math.nan

    return np.array([entropy(counts) for counts in _counts(cases, k, weights)])


def _linear_entropy(cases: Cases, k: int, weights: Floats) -> Floats:
    """``ln N - S / N``, N the slots and S the sum of ``c ln c``."""

    def scaled(counts: Floats) -> Floats:
        products: Floats = counts * np.log(np.maximum(counts, 1))
        return products

    (counts,) = _counts(cases, k, np.ones((1, len(cases))))
    lost = _lost(cases.lists[:, :k], lambda before, after: scaled(before) - scaled(after))
    slots = weights @ (cases.lists[:, :k] >= 0).sum(axis=1)
    entropy: Floats = np.log(np.maximum(slots, 1)) - _ratio(scaled(counts).sum() + (weights - 1) @ lost, slots)
    return entropy


def _coverage(cases: Cases, k: int, weights: Floats) -> Floats:
    """``|union of R_i| / |I|``: catalogue coverage (Ge, Delgado-Battenfeld & Jannach 2010)."""
    distinct = [np.count_nonzero(counts) for counts in _counts(cases, k, weights)]
    return np.array(distinct) / cases.items


def _linear_coverage(cases: Cases, k: int, weights: Floats) -> Floats:
    return _distinct_of_copies(cases.lists[:, :k], weights) / cases.items


def _gini(cases: Cases, k: int, weights: Floats) -> Floats:
    """``sum_j (2 j - |I| - 1) c_(j) / (|I| sum_j c_j)``, c_(j) the j-th smallest of all |I| item counts.

    0 if all items are recommended equally often (Shani & Gunawardana 2011, Eq. 8.22 over |I| instead of |I| - 1).
    """

    def gini(counts: Floats) -> float:
        ordered = np.sort(counts)  # without the items that are not recommended, which come first and add nothing
        places = np.arange(cases.items - len(ordered) + 1, cases.items + 1)
        total = ordered.sum()
        return float((2 * places - cases.items - 1) @ ordered / (cases.items * total)) if total else math.nan

    return np.array([gini(counts) for counts in _counts(cases, k, weights)])


def _linear_gini(cases: Cases, k: int, weights: Floats) -> Floats:
    """The sum of ``|c_i - c_j|`` over all pairs of items, over |I| times the slots, which is the same as above."""
    (counts,) = _counts(cases, k, np.ones((1, len(cases))))
    ordered = np.sort(np.concatenate([np.zeros(cases.items - len(counts)), counts]))
    below = np.concatenate([[0.0], np.cumsum(ordered)])

    def apart(count: Floats) -> Floats:
        """The sum of ``|count - c_j|`` over all items."""
        place = np.searchsorted(ordered, count)
        distance: Floats = count * (2 * place - cases.items) + below[-1] - 2 * below[place]
        return distance

    lost = _lost(cases.lists[:, :k], lambda before, after: apart(before) - apart(after) + before - after)
    slots = weights @ (cases.lists[:, :k] >= 0).sum(axis=1)
    return _ratio(apart(ordered).sum() / 2 + (weights - 1) @ lost, cases.items * slots)


def _mean_popularity(cases: Cases, k: int) -> Floats:
    """Mean popularity of the list's items (Yin et al. 2012; ARP of Abdollahpouri, Burke & Mobasher 2019)."""
    return _mean_in_list(cases, k, _facts(cases).popularity)


def _long_tail(cases: Cases, k: int) -> Floats:
    """Share of the list's items in the long tail (Abdollahpouri, Burke & Mobasher 2019)."""
    return _mean_in_list(cases, k, _facts(cases).tail)


def _novelty(cases: Cases, k: int) -> Floats:
    """Mean self-information of the list's items, ``-log2((pop + 1) / (sum pop + |I|))`` (Zhou et al. 2010)."""
    return _mean_in_list(cases, k, _facts(cases).information)


def _genre_diversity(cases: Cases, k: int) -> Floats:
    """Mean ``1 - |A & B| / |A | B|`` over the pairs of the list's items, A and B their genres (Ziegler et al. 2005).

    Pairs in which an item has no genres are left out, as their diversity is unknown.
    """
    genres = [frozenset(own) for own in _facts(cases).genres]

    def diversity(items: list[int]) -> float:
        pairs = combinations([genres[item] for item in items if item >= 0 and genres[item]], 2)
        distances = [1 - len(a & b) / len(a | b) for a, b in pairs]
        return sum(distances) / len(distances) if distances else math.nan

    return np.array([diversity(items) for items in cases.lists[:, :k].tolist()])


def _exact(cases: Cases, _: int) -> Floats:
    """Share of the case's generated titles that exist."""
    return np.asarray(cases.exact, np.float64)


_NO_GENRE = "no selected genre on one side"
_ROWS = (
    Metric("HR", "share of cases whose target is in the list", 1, each=_hit),
    Metric("NDCG", "the same, worth less further down", 1, each=_gain),
    Metric("DivRatio", "distinct items per recommended slot", 1, whole=_div_ratio, resampled=_linear_div_ratio),
    Metric("ORRatio", "share of the slots that the three most recommended items fill", -1, whole=_or_ratio),
    Metric("MGU", "mean distance between genres recommended and consumed", -1, whole=_mgu, undefined=_NO_GENRE),
    Metric("DGU", "span of these distances", -1, 2.0, whole=_dgu, undefined=_NO_GENRE),
    Metric("Coverage", "share of the catalogue that is recommended to anyone", 1,
           whole=_coverage, resampled=_linear_coverage),
    Metric("Gini", "inequality of exposure among all items", -1, whole=_gini, resampled=_linear_gini),
    Metric("Entropy", "entropy of the recommended items, in nats", 1, math.inf,
           whole=_entropy, resampled=_linear_entropy),
    Metric("ARP", "average popularity of the recommended items", -1, math.inf, each=_mean_popularity, needs="facts"),
    Metric("APLT", "share of the long tail in a list", 1, each=_long_tail, needs="facts"),
    Metric("Novelty", "mean self-information of the recommended items, in bits", 1, math.inf, each=_novelty,
           needs="facts"),
    Metric("GenreDiversity", "mean distance of two items of a list by their genres", 1, each=_genre_diversity,
           needs="facts", first_k=2),
    Metric("ExactTitles", "share of generated titles that exist", 1, each=_exact, needs="exact", first_k=0),
)  # fmt: skip
METRICS = {row.name: row for row in _ROWS}
"""Name without cut-off to its row, in the order of tables."""


def _facts(cases: Cases) -> CatalogFacts:
    if cases.facts is None:
        raise KeyError("these cases have no facts of the catalogue")
    return cases.facts


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN if the denominator is 0."""
    quotient: Floats = np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
    return quotient


def _unfairness(cases: Cases, k: int, weights: Floats) -> Floats:
    """GU of every selected genre under each weighting, (B, |G|)."""
    recommended = cases.recommended[cases.ks.index(k)]
    return _normalised(weights @ recommended) - _normalised(weights @ cases.histories)


def _normalised(mass: Floats) -> Floats:
    total = mass.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(mass, total, out=np.full_like(mass, np.nan), where=total > 0)
    return shares


def _mean_in_list(cases: Cases, k: int, values: Floats | Ints) -> Floats:
    """Mean of the items' values (items,) over the first k of each list, (n,); NaN for a list without items."""
    lists = cases.lists[:, :k]
    there = lists >= 0
    return _ratio(np.where(there, values[lists], 0.0).sum(axis=1), there.sum(axis=1))


def _counts(cases: Cases, k: int, weights: Floats) -> Iterator[Floats]:
    """How often each item that occurs in the first k columns is recommended, for each row of weights."""
    rows, columns = np.nonzero(cases.lists[:, :k] >= 0)
    codes = np.unique(cases.lists[rows, columns], return_inverse=True)[1]  # short count vectors, any catalogue
    for weight in weights:
        yield np.bincount(codes, weight[rows]).astype(np.float64, copy=False)


def _distinct_of_copies(lists: Ints, weights: Floats) -> Floats:
    """Distinct items where each copy of a case brings the items that only this case has, (B,)."""
    return len(np.unique(lists[lists >= 0])) + (weights - 1) @ _lost(lists, lambda _, after: (after == 0) * 1.0)


def _lost(lists: Ints, loss: Callable[[Floats, Floats], Floats]) -> Floats:
    """How much a sum over items decreases without one case, for every case, (n,).

    Args:
        lists: items of the cases, -1 = no item, (n, k).
        loss: of an item, given how often it is recommended with and without the case.
    """
    rows, columns = np.nonzero(lists >= 0)
    items, codes = np.unique(lists[rows, columns], return_inverse=True)
    pairs, times = np.unique(rows * len(items) + codes, return_counts=True)
    row, code = np.divmod(pairs, max(len(items), 1))
    counts = np.bincount(codes, minlength=len(items)).astype(np.float64)[code]
    lost: Floats = np.bincount(row, loss(counts, counts - times), minlength=len(lists)).astype(np.float64, copy=False)
    return lost
