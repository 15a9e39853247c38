"""The uncertainty of metrics: bootstrap intervals over test cases and training seeds, paired differences, marks.

The estimand is the expected value of the metric on a test set of the same size n, averaged over training seeds. The
size is part of the definition because DivRatio and ORRatio depend on it.

*Cases* are resampled with replacement, the same draw for all seeds and all methods, so that differences are paired.
Two corrections make this valid for the set-level metrics:

* The plain bootstrap is wrong for a distinct count. A resample contains only 63% of the cases, so DivRatio is far below
  its value on the data (bias), and its spread is too small as well. Here a case that is drawn w times stands for w
  different users: the items that no other case received count w times. This is the first-order (Hájek) expansion of the
  count. Coverage, Gini and Entropy, which also depend on how many items are recommended at all, are expanded likewise:
  a case counts as much as the sum over items would lose without it. The variance is that of the delete-one jackknife,
  which by the Efron-Stein inequality (Efron & Stein, Annals of Statistics 1981) is on average not too small.
  Subsampling m < n cases would estimate DivRatio at another n, and the delete-half jackknife has a larger upward bias.
* The largest counts of ORRatio and the absolute values of MGU are larger in a resample than in the data. Before
  quantiles are taken, the replicates are therefore shifted to the value of the data, by as much as their mean deviates
  beyond its Monte Carlo error: a shift of the size of the error would turn ties with zero into differences.

*Seeds* are usually too few (3) to be resampled: three values underestimate their own spread. Instead each replicate is
spread over Student's t with S-1 degrees of freedom times the standard error of the mean over seeds. With one seed the
interval covers the test cases only.

Methods are compared over the training seeds that both have, each seed with itself.

*Hits are few.* If one method finds 4 targets that the other misses, and misses none, only 2% of the resamples contain
none of the four, and the bootstrap would call the difference real; but a coin falls on one side four times in a row in
12% of all cases. So a difference of shares (HR, and every other mean over cases of values between 0 and 1) must also
pass the exact test that flips the sign of each case's contribution (Fisher's randomisation test, jointly over seeds),
and if no case differs, the true difference may be anything below the binomial bound.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from sprec.evaluation.cases import Cases, Floats, Ints
from sprec.evaluation.metrics import direction, measurable, parsed, replicates

LEVEL = 0.95
_GRID = 401  # quantiles that represent Student's t
_ENUMERATED, _FLIPS, _MANY = 12, 10_000, 1000  # cases that differ: all flips, draws of them, the normal distribution


@dataclass(frozen=True)
class Interval:
    """The ``value`` of a metric, averaged over seeds, and the bounds ``low`` and ``high`` of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One method minus another on the same cases and seeds.

    Attributes:
        value: the difference of the metric, with the bounds ``low`` and ``high`` of its 95% interval, which contains
            zero whenever p is above 5%.
        relative: the difference divided by the other method's value.
        effect: the difference in standard deviations of one case's contribution to it (Cohen's d_z).
        p: two-sided p-value of no difference, of the bootstrap; for shares, if that is larger, of the exact test.
    """

    value: float
    low: float
    high: float
    relative: float
    effect: float
    p: float

    @property
    def real(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Bootstrap:
    """One method's metrics and their variation over resampled cases.

    Attributes:
        n: number of test cases.
        seed: seed of the resampling; methods resampled with the same seed are paired.
        training_seeds: the S training seeds, by which methods are paired as well.
        per_seed: metric name to its value for every training seed, shape (S,).
        replicates: metric name to its value for every training seed in every resample, shape (S, B).
        gains: for shares, such as HR and NDCG, every case's contribution under every training seed, shape (S, n):
            their mean is the metric; NaN if a case has none.
    """

    n: int
    seed: int
    training_seeds: tuple[int, ...]
    per_seed: Mapping[str, Floats]
    replicates: Mapping[str, Floats]
    gains: Mapping[str, Floats]

    def interval(self, name: str) -> Interval:
        """The 95% interval of the metric ``name``."""
        value, samples = _samples(self.per_seed[name], self.replicates[name].mean(axis=0))
        low, high = _bounds(samples)
        if name in self.gains and not self.per_seed[name].any():
            high = _never_seen(self.n)
        if name in self.gains and (self.per_seed[name] == 1).all():
            low = 1 - _never_seen(self.n)
        return Interval(value, max(low, 0.0), min(high, parsed(name)[0].high))


def bootstrap(
    runs: Sequence[Cases],
    resamples: int = 2000,
    seed: int = 0,
    training_seeds: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
) -> Bootstrap:
    """Resample the test cases of one method.

    Args:
        runs: the method's cases, one element per training seed, all over the same test cases in the same order.
        resamples: number of replicates B.
        seed: seed of the resampling; give all methods the same one.
        training_seeds: the training seed of each run; 0, 1, ... by default.
        metrics: which ones, of those that all runs have; by default all.

    Raises:
        ValueError: there is no run, runs have different numbers of cases, or training seeds are not one per run, all
            different.
    """
    n = _common_length(runs)
    own = tuple(range(len(runs)) if training_seeds is None else training_seeds)
    if len(own) != len(runs) or len(set(own)) != len(own):
        raise ValueError(f"{len(runs)} runs need as many different training seeds, got {list(own)}")
    able = [measurable(cases) for cases in runs]
    names = [name for name in metrics or able[0] if all(name in own for own in able)]
    per_seed = {name: values[:, 0] for name, values in _for_each(runs, None, names).items()}
    rng = np.random.default_rng(seed)
    draws = (rng.multinomial(n, np.full(n, 1 / n), size) for size in _chunk_sizes(resamples, n))
    chunks = [_for_each(runs, weights, names, resampled=True) for weights in draws]
    drawn = {name: np.concatenate([chunk[name] for chunk in chunks], axis=1) for name in names}
    rows = {name: parsed(name) for name in names}
    shares = {name: (row.each, k) for name, (row, k) in rows.items() if row.each and row.high == 1}
    each = {name: np.array([of(cases, k) for cases in runs]) for name, (of, k) in shares.items()}
    return Bootstrap(n, seed, own, per_seed, drawn, each)


def mean_over_datasets(samples: Sequence[Bootstrap]) -> Bootstrap:
    """One method on several datasets as one: each metric that all have, averaged with equal weights.

    Args:
        samples: one for each dataset, resampled with different seeds, as cases of different datasets are independent.

    Raises:
        ValueError: there is none, a resampling seed occurs twice, or training seeds or numbers of replicates differ.
    """
    if not samples or len({sample.seed for sample in samples}) < len(samples):
        raise ValueError("datasets must be resampled by different seeds, and there must be one at least")
    if len({(sample.training_seeds, next(iter(sample.replicates.values())).shape) for sample in samples}) > 1:
        raise ValueError("the datasets must have the same training seeds and numbers of replicates")
    first = samples[0]
    shared = [name for name in first.per_seed if all(name in sample.per_seed for sample in samples)]
    per_seed = {name: np.mean([sample.per_seed[name] for sample in samples], axis=0) for name in shared}
    drawn = {name: np.mean([sample.replicates[name] for sample in samples], axis=0) for name in shared}
    n = sum(sample.n for sample in samples)
    contributed = {
        name: np.concatenate([sample.gains[name] * n / (len(samples) * sample.n) for sample in samples], axis=1)
        for name in first.gains
        if name in shared
    }
    return Bootstrap(n, first.seed, first.training_seeds, per_seed, drawn, contributed)


def compare(method: Bootstrap, other: Bootstrap) -> dict[str, Difference]:
    """Paired differences ``method - other`` of every metric that both have, over the training seeds that both have.

    Raises:
        ValueError: the two were resampled differently (other cases, seed or number of replicates), or have no training
            seed in common.
    """
    _check_paired(method, other)
    return {name: _difference(method, other, name) for name in method.per_seed if name in other.per_seed}


def shared_seeds(method: Bootstrap, other: Bootstrap) -> list[int]:
    """The training seeds that both ``method`` and ``other`` have, in the order of the first."""
    return [seed for seed in method.training_seeds if seed in other.training_seeds]


def randomisation_p(
    method: Sequence[Cases], other: Sequence[Cases], resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Exact two-sided p-values of "the two methods are exchangeable on every case" (paired randomisation test).

    The lists of the two methods are swapped case by case at random, jointly over seeds, and both sides are
    measured again. This assumes nothing about the metric, but is valid only for these cases and seeds.

    Args:
        method: cases per training seed.
        other: cases per training seed of the other method.
        resamples: the number of random swaps.
        seed: of the swaps.

    Raises:
        ValueError: the numbers of seeds or of cases differ.
    """
    n = _common_length([*method, *other])
    both = [_stack(a, b) for a, b in zip(method, other, strict=True)]
    rng = np.random.default_rng(seed)
    chunks = [_swapped(both, np.zeros((1, n), np.int64))]
    chunks += [_swapped(both, rng.integers(0, 2, (size, n))) for size in _chunk_sizes(resamples, 2 * n)]
    return {name: _share_as_extreme(np.concatenate([chunk[name] for chunk in chunks])) for name in chunks[0]}


def marks(methods: Mapping[str, Bootstrap], name: str) -> dict[str, str]:
    """Mark as "best" the method that is significantly better than all others in the metric ``name``, then "second".

    Unlike the usual marking of the largest number, nothing is marked if the interval of the leader's difference to any
    of the other ``methods`` includes zero; there is no "second" without a "best".
    """
    order = sorted(
        (method for method, sample in methods.items() if not np.isnan(sample.per_seed[name]).any()),
        key=lambda method: -direction(name) * float(methods[method].per_seed[name].mean()),
    )
    given = dict.fromkeys(methods, "")
    for place, mark in enumerate(("best", "second")):
        leader, rest = order[place : place + 1], order[place + 1 :]
        if not rest or not all(_really_better(methods[leader[0]], methods[other], name) for other in rest):
            break
        given[leader[0]] = mark
    return given


def t_interval(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Interval:
    """Mean of a few values, one per training seed, and its 95% interval by Student's t: mean +- t s / sqrt(S).

    Args:
        values: the values, (S,). For one the interval is undefined (NaN), for none the mean as well.
        low: smallest possible value; the interval is cut there.
        high: largest possible value.
    """
    count = len(values)
    mean = float(np.mean(values)) if count else math.nan
    if count < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, max(mean - half, low), min(mean + half, high))


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| < t) = ``level``, for Student's T with a whole number of degrees of ``freedom``.

    Inverts the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, by bisection.
    """
    inside, outside = 0.0, math.pi / 2
    for _ in range(60):  # halves pi/2 to the limit of rounding
        angle = (inside + outside) / 2
        inside, outside = (angle, outside) if _t_mass(angle, freedom) < level else (inside, angle)
    return math.sqrt(freedom) * math.tan(inside)


def _t_mass(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle))."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= step / (step + 1) * math.cos(angle) ** 2
    series = math.sin(angle) * total
    return (angle + series) * 2 / math.pi if odd else series


def plain_marks(values: Mapping[str, float], name: str) -> dict[str, str]:
    """The paper's marks: the best and second best of the ``values`` of a metric by ``name``; ties share a mark."""
    ranking = sorted({value for value in values.values() if not np.isnan(value)}, reverse=direction(name) > 0)
    mark = dict(zip(ranking, ("best", "second"), strict=False))
    return {method: mark.get(value, "") for method, value in values.items()}


def _common_length(runs: Sequence[Cases]) -> int:
    lengths = {len(cases) for cases in runs}
    if len(lengths) != 1:
        raise ValueError(f"runs must share their test cases, got runs over {sorted(lengths)} cases")
    return lengths.pop()


def _chunk_sizes(resamples: int, n: int) -> list[int]:
    """Split the replicates so that the weights of a chunk stay under 32 MiB."""
    size = max(1, (1 << 22) // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _for_each(
    runs: Sequence[Cases], weights: Ints | None, names: Sequence[str], resampled: bool = False
) -> dict[str, Floats]:
    """Metric name to its value for every run under every weighting, shape (S, B)."""
    measured = [replicates(cases, weights, names, resampled=resampled) for cases in runs]
    return {name: np.array([values[name] for values in measured]) for name in names}


def _mean_over(runs: Sequence[Cases], weights: Ints) -> dict[str, Floats]:
    return {name: values.mean(axis=0) for name, values in _for_each(runs, weights, measurable(runs[0])).items()}


def _stack(a: Cases, b: Cases) -> Cases:
    """The concatenated cases of two methods, for weightings that choose one of the two for each case."""
    return replace(
        a,
        ranks=np.concatenate([a.ranks, b.ranks]),
        known=np.concatenate([a.known, b.known]),
        lists=np.concatenate([a.lists, b.lists]),
        histories=np.concatenate([a.histories, b.histories]),
        recommended=tuple(np.concatenate(pair) for pair in zip(a.recommended, b.recommended, strict=True)),
        exact=None if a.exact is None or b.exact is None else np.concatenate([a.exact, b.exact]),
    )


def _swapped(both: Sequence[Cases], swaps: Ints) -> dict[str, Floats]:
    """Differences of two methods after the lists of some cases are swapped, (B, n) of 0 and 1; metric name to (B,)."""
    ours, theirs = (_mean_over(both, np.concatenate(pair, axis=1)) for pair in ((1 - swaps, swaps), (swaps, 1 - swaps)))
    return {name: ours[name] - theirs[name] for name in ours}


def _share_as_extreme(differences: Floats) -> float:
    """Share of differences at least as far from 0 as the first, the observed one."""
    if np.isnan(differences[0]):
        return float("nan")
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12))


def _check_paired(a: Bootstrap, b: Bootstrap) -> None:
    sizes = [(s.n, s.seed, next(iter(s.replicates.values())).shape[1]) for s in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError("the methods must be resampled over the same cases, with one seed and number of replicates")
    if not shared_seeds(a, b):
        raise ValueError(f"no training seed in common: {list(a.training_seeds)} and {list(b.training_seeds)}")


def _really_better(method: Bootstrap, other: Bootstrap, name: str) -> bool:
    """Whether the first method is significantly better; False if they share no training seed."""
    found = _difference(method, other, name) if shared_seeds(method, other) else None
    return found is not None and found.real and found.value * direction(name) > 0


def _difference(method: Bootstrap, other: Bootstrap, name: str) -> Difference:
    seeds = shared_seeds(method, other)
    ours, theirs = ([sample.training_seeds.index(seed) for seed in seeds] for sample in (method, other))
    per_seed = method.per_seed[name][ours] - other.per_seed[name][theirs]
    drawn = method.replicates[name][ours].mean(axis=0) - other.replicates[name][theirs].mean(axis=0)
    value, samples = _samples(per_seed, drawn)
    low, high, p = *_bounds(samples), _two_sided(samples, len(drawn))
    if name in method.gains:
        each = np.nan_to_num(method.gains[name][ours].mean(axis=0) - other.gains[name][theirs].mean(axis=0))
        p = max(p, flip_p(each))
        if not each.any():  # no case differs
            low, high = min(low, -_never_seen(method.n)), max(high, _never_seen(method.n))
    if p > 1 - LEVEL:  # False if p is undefined
        low, high = min(low, 0.0), max(high, 0.0)
    reference = float(other.per_seed[name][theirs].mean())
    spread = float(np.std(drawn) * np.sqrt(method.n))
    return Difference(
        value,
        low,
        high,
        relative=value / reference if reference else float("nan"),
        effect=value / spread if spread else 0.0,
        p=p,
    )


def flip_p(contributions: Floats) -> float:
    """Two-sided p-value of "each case's contribution is as likely to have the opposite sign" (Fisher's randomisation).

    Exact for up to 12 cases that differ, by 10,000 draws for up to 1,000, by the normal distribution beyond that.

    Args:
        contributions: of the cases to a difference of two methods, (n,).
    """
    sizes = np.abs(contributions[np.abs(contributions) > 1e-12])
    observed = abs(float(contributions.sum())) - 1e-12
    if len(sizes) > _MANY:
        return math.erfc(observed / math.sqrt(2 * float(sizes @ sizes)))
    if len(sizes) <= _ENUMERATED:
        signs = np.array(list(product((-1, 1), repeat=len(sizes))))
        return float(np.mean(np.abs(signs @ sizes) >= observed))
    signs = np.random.default_rng(0).integers(0, 2, (_FLIPS, len(sizes)), dtype=np.int8) * 2 - 1
    return (1 + np.count_nonzero(np.abs(signs @ sizes) >= observed)) / (1 + _FLIPS)


def _never_seen(n: int) -> float:
    """The probability with which an event is absent from n cases 2.5% of the time: about 3.7/n."""
    return float(1 - ((1 - LEVEL) / 2) ** (1 / n))


def _samples(per_seed: Floats, drawn: Floats) -> tuple[float, Floats]:
    """The mean over training seeds, and its possible values, shape (B grid,), without undefined ones."""
    value = float(per_seed.mean())
    defined = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(defined):
        return float("nan"), np.empty(0)
    bias, error = defined.mean() - value, 3 * defined.std() / np.sqrt(len(defined))
    centred = defined - np.sign(bias) * max(abs(bias) - error, 0.0)
    spread = np.add.outer(centred, _seed_noise(per_seed)).ravel()
    return value, np.round(spread, 12)  # equal methods differ by exactly 0


def _seed_noise(per_seed: Floats) -> Floats:
    """Quantiles of the error of a mean over few training seeds; only 0 for one seed."""
    count = len(per_seed)
    if count < 2:
        return np.zeros(1)
    noise: Floats = _t_grid(count - 1) * per_seed.std(ddof=1) / np.sqrt(count)
    return noise


@cache
def _t_grid(freedom: int) -> Floats:
    """Student's t as the quantiles at the middle of 401 equal parts: not drawn, so that A - B mirrors B - A."""
    upper = [t_quantile(freedom, 2 * place / _GRID) for place in range(1, _GRID // 2 + 1)]
    return np.array([*(-value for value in reversed(upper)), 0.0, *upper])


def _bounds(samples: Floats) -> tuple[float, float]:
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _two_sided(samples: Floats, drawn: int) -> float:
    """Two-sided p-value of zero among samples that stand for this many draws."""
    if not len(samples):
        return float("nan")
    tail = min(np.count_nonzero(samples <= 0), np.count_nonzero(samples >= 0)) / len(samples)
    return min(1.0, 2 * (tail * drawn + 1) / (drawn + 1))
