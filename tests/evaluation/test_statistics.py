"""Intervals against closed forms, a jackknife by hand, and coverage on a small process whose truth is known."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from sprec.evaluation import (
    Bootstrap,
    Cases,
    Interval,
    accumulate,
    bootstrap,
    compare,
    marks,
    mean_over_datasets,
    parsed,
    plain_marks,
    randomisation_p,
    replicates,
    shared_seeds,
    t_interval,
)
from sprec.evaluation.statistics import flip_p, t_quantile

ITEMS = 80
POPULARITY = 1 / np.arange(1, ITEMS + 1)
POPULARITY /= POPULARITY.sum()
GENRES = np.eye(4)[np.arange(ITEMS) % 4]


def cases_of(recs: np.ndarray, targets: np.ndarray | None = None, ks: tuple[int, ...] = (1,)) -> Cases:
    n = len(recs)
    return accumulate(recs, np.zeros(n) if targets is None else targets, np.arange(n) % ITEMS, range(n + 1), GENRES, ks)


def hits_of(hits: np.ndarray) -> Cases:
    """Cases with these hits at rank 0: item 0 is wanted, item 1 is the miss."""
    return cases_of(np.where(hits, 0, 1)[:, None])


def draw_lists(rng: np.random.Generator, n: int) -> np.ndarray:
    first = rng.choice(ITEMS, n, p=POPULARITY)
    return np.stack([first, (first + 1) % ITEMS], axis=1)


def test_accuracy_interval_is_the_binomial_one() -> None:
    hits = np.arange(1000) < 40
    sample = bootstrap([hits_of(hits)], resamples=20_000)
    assert sample.per_seed["HR@1"] == pytest.approx([0.04])
    assert sample.replicates["HR@1"].std() == pytest.approx(np.sqrt(0.04 * 0.96 / 1000), rel=0.02)
    interval = sample.interval("HR@1")
    assert interval.low == pytest.approx(0.04 - 1.96 * 0.0062, abs=0.001)
    assert interval.high == pytest.approx(0.04 + 1.96 * 0.0062, abs=0.001)


def test_no_hit_does_not_mean_certainty() -> None:
    interval = bootstrap([hits_of(np.zeros(100, bool))], resamples=50).interval("HR@1")
    assert (interval.value, interval.low) == (0, 0)
    assert (1 - interval.high) ** 100 == pytest.approx(0.025)


def test_diversity_spread_is_the_delete_one_jackknife() -> None:
    lists = draw_lists(np.random.default_rng(3), 60)
    distinct = len(set(lists.ravel().tolist()))
    lost = [distinct - len(set(np.delete(lists, i, axis=0).ravel().tolist())) for i in range(60)]
    jackknife = np.sqrt(np.sum((np.array(lost) - np.mean(lost)) ** 2)) / 120
    sample = bootstrap([cases_of(lists, ks=(2,))], resamples=20_000)
    assert sample.replicates["DivRatio@2"].std() == pytest.approx(jackknife, rel=0.02)
    interval = sample.interval("DivRatio@2")
    assert interval.value == pytest.approx(distinct / 120)
    assert interval.low < interval.value < interval.high


def covered(samples: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in samples]))


def test_intervals_cover_the_truth_where_the_plain_bootstrap_fails() -> None:
    """300 test sets of 150 cases; the true value is a closed form for DivRatio, a simulation for the others."""
    rng, n = np.random.default_rng(0), 150
    missing = (1 - POPULARITY) ** n
    truth = {"DivRatio@1": (1 - missing).sum() / n}
    many = [replicates(cases_of(draw_lists(rng, n), ks=(1, 2))) for _ in range(3000)]
    for name in (
        "DivRatio@2",
        "ORRatio@1",
        "ORRatio@2",
        "MGU@1",
        "DGU@2",
        "Coverage@2",
        "Gini@1",
        "Gini@2",
        "Entropy@2",
    ):
        truth[name] = float(np.mean([values[name][0] for values in many]))
    intervals: dict[str, list[tuple[float, float]]] = {name: [] for name in truth}
    plain: list[tuple[float, float]] = []
    plain_gini: list[float] = []
    for trial in range(300):
        cases = cases_of(draw_lists(rng, n), ks=(1, 2))
        sample = bootstrap([cases], resamples=200, seed=trial, metrics=list(truth))
        for name in truth:
            interval = sample.interval(name)
            intervals[name].append((interval.low, interval.high))
        weights = rng.multinomial(n, np.full(n, 1 / n), 200)
        ordinary = replicates(cases, weights, ["DivRatio@1", "Gini@1"])
        plain_gini.append(float(ordinary["Gini@1"].std()))
        low, high = np.quantile(ordinary["DivRatio@1"], [0.025, 0.975])
        plain.append((float(low), float(high)))
    coverage = {name: covered(values, truth[name]) for name, values in intervals.items()}
    assert all(0.92 <= value <= 1 for value in coverage.values()), coverage
    assert covered(plain, truth["DivRatio@1"]) < 0.1
    width = np.mean([high - low for low, high in intervals["DivRatio@1"]]) / 3.92
    spread = np.std([values["DivRatio@1"][0] for values in many])
    assert 1 <= width / spread < 1.4  # conservative, but not wasteful
    assert np.mean(plain_gini) < 0.8 * np.std([values["Gini@1"][0] for values in many])


def test_paired_difference_of_diversity_covers_the_truth() -> None:
    """Two methods that agree on half of the cases; the second one is less popularity-driven on the rest."""
    rng, n = np.random.default_rng(1), 150
    mixed = POPULARITY / 2 + 1 / (2 * ITEMS)
    truth = ((1 - POPULARITY) ** n - (1 - mixed) ** n).sum() / n
    found = []
    for trial in range(200):
        popular = rng.choice(ITEMS, (n, 1), p=POPULARITY)
        other = np.where(rng.random((n, 1)) < 0.5, popular, rng.integers(0, ITEMS, (n, 1)))
        samples = [bootstrap([cases_of(recs)], 200, trial) for recs in (other, popular)]
        difference = compare(*samples)["DivRatio@1"]
        found.append((difference.low, difference.high))
    assert 0.93 <= covered(found, truth) <= 1


def test_few_seeds_are_covered_by_students_t() -> None:
    """Three seeds whose accuracy scatters as much as the cases: resampling three numbers would cover under 80%."""
    rng, n, truth = np.random.default_rng(2), 200, 0.3
    found = []
    for trial in range(300):
        shifts = rng.normal(0, 0.05, 3)
        runs = [hits_of(rng.random(n) < truth + shift) for shift in shifts]
        interval = bootstrap(runs, resamples=200, seed=trial).interval("HR@1")
        found.append((interval.low, interval.high))
    assert 0.92 <= covered(found, truth) <= 0.99


def test_equal_seeds_add_nothing_and_unequal_ones_widen() -> None:
    rng = np.random.default_rng(4)
    same = hits_of(rng.random(300) < 0.2)
    alone, tripled = bootstrap([same]).interval("HR@1"), bootstrap([same] * 3).interval("HR@1")
    assert (alone.value, alone.low, alone.high) == pytest.approx((tripled.value, tripled.low, tripled.high))
    spread = [hits_of(rng.random(300) < p) for p in (0.1, 0.2, 0.3)]
    wide = bootstrap(spread).interval("HR@1")
    assert wide.high - wide.low > 2 * (alone.high - alone.low)


def test_a_method_does_not_differ_from_itself() -> None:
    sample = bootstrap([cases_of(draw_lists(np.random.default_rng(5), 100))] * 2, resamples=100)
    for name, difference in compare(sample, sample).items():
        share = parsed(name)[0].each  # a case of another run may differ
        unseen = 1 - 0.025 ** (1 / 100) if share else 0
        assert (difference.value, difference.effect) == (0, 0)
        assert (difference.low, difference.high) == pytest.approx((-unseen, unseen))
        assert difference.p == 1
        assert not difference.real


def test_difference_of_accuracies_by_hand() -> None:
    """30 against 50 hits of 400, 20 of them shared: the per-case differences are -1 (10), +1 (30), 0 (360)."""
    ids = np.arange(400)
    ours, theirs = bootstrap([hits_of(ids < 50)], 20_000), bootstrap([hits_of((ids >= 30) & (ids < 60))], 20_000)
    difference = compare(ours, theirs)["HR@1"]
    deviation = np.sqrt(40 / 400 - 0.05**2)
    assert difference.value == pytest.approx(20 / 400)
    assert difference.relative == pytest.approx(20 / 30)
    assert difference.effect == pytest.approx(0.05 / deviation, rel=0.02)
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * deviation / 20, rel=0.05)
    assert difference.real
    assert 0.0005 < difference.p < 0.005  # z = 3.2


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(4, 0, 2 / 16), (5, 0, 2 / 32), (6, 0, 2 / 64), (7, 1, 2 * (1 + 8) / 256), (3, 3, 1), (12, 2, 0.0129)],
)
def test_few_hits_are_judged_by_the_sign_test(wins: int, losses: int, p: float) -> None:
    """The share of coins, tossed as often as cases differ, that fall as unevenly; 12:2 by draws, as there are many."""
    ids = np.arange(1000)
    ours, theirs = (
        bootstrap([hits_of((ids >= low) & (ids < high))]) for low, high in ((0, 10 + wins), (wins, 10 + wins + losses))
    )
    difference = compare(ours, theirs)["HR@1"]
    assert difference.value == pytest.approx((wins - losses) / 1000)
    assert difference.p == pytest.approx(p, rel=1e-9 if wins + losses <= 12 else 0.2)
    assert difference.real == (p < 0.05)
    assert (difference.low <= 0 <= difference.high) == (p > 0.05)


def test_many_flips_are_normal_and_a_shared_size_does_not_matter() -> None:
    rng = np.random.default_rng(12)
    contributions = rng.normal(0.05, 1, 900)
    drawn, normal = flip_p(contributions), flip_p(np.concatenate([contributions, np.full(200, 1e-9)]))
    assert drawn == pytest.approx(normal, abs=0.02)
    assert flip_p(3 * contributions) == drawn
    assert flip_p(np.zeros(5)) == 1


def test_pairing_removes_what_methods_share() -> None:
    rng = np.random.default_rng(6)
    easy = rng.random(500) < 0.5
    ours, theirs = hits_of(easy), hits_of(easy & (rng.random(500) < 0.95))
    difference = compare(bootstrap([ours]), bootstrap([theirs]))["HR@1"]
    alone = bootstrap([ours]).interval("HR@1")
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


def test_seeds_are_paired_too() -> None:
    """Every seed gains exactly .1, however much the seeds themselves scatter."""
    ids = np.arange(500)
    theirs = bootstrap([hits_of(ids < 500 * p) for p in (0.1, 0.3, 0.5)])
    ours = bootstrap([hits_of(ids < 500 * (p + 0.1)) for p in (0.1, 0.3, 0.5)])
    difference = compare(ours, theirs)["HR@1"]
    assert difference.value == pytest.approx(0.1)
    assert difference.real
    assert difference.high - difference.low < 0.06


def test_methods_are_compared_over_the_seeds_that_both_have() -> None:
    """Hits by seed: 20, 30, 40 (seeds 0, 1, 2) against 12 and 31 (seeds 2 and 1): +28 and -1, seed 0 is left out."""
    ids = np.arange(100)
    three = bootstrap([hits_of(ids < h) for h in (20, 30, 40)], training_seeds=[0, 1, 2])
    two = bootstrap([hits_of(ids < h) for h in (12, 31)], training_seeds=[2, 1])
    assert shared_seeds(three, two) == [1, 2]
    difference = compare(three, two)["HR@1"]
    assert difference.value == pytest.approx((0.28 - 0.01) / 2)
    assert difference.relative == pytest.approx(0.135 / 0.215)
    alone = compare(bootstrap([hits_of(ids < h) for h in (30, 40)], training_seeds=[1, 2]), two)["HR@1"]
    assert alone == difference, "the order of the runs does not matter"


def test_methods_without_a_common_seed_are_not_compared() -> None:
    ids = np.arange(1000)
    low, high = (bootstrap([hits_of(ids < h)], training_seeds=[s]) for h, s in ((100, 0), (900, 1)))
    with pytest.raises(ValueError, match=r"no training seed in common: \[0\] and \[1\]"):
        compare(low, high)
    assert marks({"low": low, "high": high}, "HR@1") == {"low": "", "high": ""}
    for seeds in ([0], [0, 0]):
        with pytest.raises(ValueError, match="2 runs need as many different training seeds"):
            bootstrap([hits_of(ids < 1)] * 2, training_seeds=seeds)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (30, 2.0423)])
def test_quantiles_of_student_t_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, so 2 +- 4.3027 / sqrt(3)."""
    interval = t_interval([1, 2, 3])
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert t_interval([1, 2, 3], low=0, high=4) == Interval(2, 0, 4)
    assert t_interval([0.5, 0.5]) == Interval(0.5, 0.5, 0.5)
    one, none = t_interval([0.3]), t_interval([])
    assert one.value == 0.3
    assert np.isnan([one.low, one.high, none.value, none.low]).all()


def test_datasets_count_alike_and_their_cases_are_drawn_independently() -> None:
    parts = [
        bootstrap([hits_of(np.arange(n) < hits)], 20_000, seed) for seed, (n, hits) in enumerate([(100, 50), (25, 5)])
    ]
    together = mean_over_datasets(parts)
    assert together.per_seed["HR@1"] == pytest.approx([(0.5 + 0.2) / 2])
    assert together.n == 125
    assert together.gains["HR@1"].mean(axis=1) == pytest.approx([0.35])
    spread = np.sqrt(0.5 * 0.5 / 100 + 0.2 * 0.8 / 25) / 2
    assert together.replicates["HR@1"].std() == pytest.approx(spread, rel=0.02)
    twice = mean_over_datasets([bootstrap([hits_of(np.arange(100) < 50)], 20_000, seed) for seed in (0, 1)])
    assert twice.replicates["HR@1"].std() == pytest.approx(0.05 / np.sqrt(2), rel=0.02)


def test_datasets_that_cannot_be_averaged_are_refused() -> None:
    one = hits_of(np.arange(10) < 5)
    with pytest.raises(ValueError, match="different seeds"):
        mean_over_datasets([bootstrap([one], 10), bootstrap([one], 10)])
    with pytest.raises(ValueError, match="at least"):
        mean_over_datasets([])
    with pytest.raises(ValueError, match="same training seeds"):
        mean_over_datasets([bootstrap([one], 10), bootstrap([one], 10, seed=1, training_seeds=[3])])


def test_swapping_the_methods_negates_the_difference() -> None:
    rng = np.random.default_rng(7)
    a, b = (bootstrap([cases_of(draw_lists(rng, 100), ks=(1, 2)) for _ in range(3)], 300) for _ in range(2))
    forth, back = compare(a, b), compare(b, a)
    for name in forth:
        assert (forth[name].value, forth[name].low) == pytest.approx((-back[name].value, -back[name].high))
        assert forth[name].p == pytest.approx(back[name].p)


def test_methods_must_be_resampled_alike() -> None:
    sample = bootstrap([hits_of(np.ones(10, bool))], 50)
    for other in (
        bootstrap([hits_of(np.ones(11, bool))], 50),
        bootstrap([hits_of(np.ones(10, bool))], 51),
        bootstrap([hits_of(np.ones(10, bool))], 50, seed=1),
    ):
        with pytest.raises(ValueError, match="resampled over the same cases"):
            compare(sample, other)
    with pytest.raises(ValueError, match="share their test cases"):
        bootstrap([hits_of(np.ones(10, bool)), hits_of(np.ones(11, bool))])
    with pytest.raises(ValueError, match="share their test cases"):
        bootstrap([])


def test_large_test_sets_are_resampled_in_chunks_of_one_stream() -> None:
    n, resamples = 30_000, 300
    hits = np.arange(n) < 900
    weights = np.random.default_rng(5).multinomial(n, np.full(n, 1 / n), resamples)
    sample = bootstrap([hits_of(hits)], resamples, seed=5)
    np.testing.assert_allclose(sample.replicates["HR@1"][0], weights[:, :900].sum(axis=1) / n, rtol=1e-12)


def test_randomisation_equals_the_enumeration_of_all_swaps() -> None:
    ours, theirs = np.array([[0], [2], [3], [4], [5], [0]]), np.array([[1], [1], [1], [4], [6], [1]])
    count, total = Counter[str](), 0
    observed: dict[str, float] = {}
    for swap in product([False, True], repeat=6):
        chosen = np.array(swap)[:, None]
        pair = [replicates(cases_of(np.where(chosen, x, y))) for x, y in ((theirs, ours), (ours, theirs))]
        gaps = {name: abs(pair[0][name][0] - pair[1][name][0]) for name in pair[0]}
        observed = observed or gaps
        total += 1
        count.update(name for name in gaps if gaps[name] >= observed[name] - 1e-12)
    found = randomisation_p([cases_of(ours)], [cases_of(theirs)], resamples=20_000)
    assert found == pytest.approx({name: count[name] / total for name in observed}, abs=0.015)


def test_randomisation_is_uniform_without_a_difference_and_small_with_one() -> None:
    rng = np.random.default_rng(9)
    null = [
        randomisation_p([hits_of(rng.random(60) < 0.3)], [hits_of(rng.random(60) < 0.3)], 200, trial)["HR@1"]
        for trial in range(200)
    ]
    assert np.mean(np.array(null) <= 0.05) <= 0.09
    far = randomisation_p([hits_of(rng.random(60) < 0.8)], [hits_of(rng.random(60) < 0.2)], 999)["HR@1"]
    assert far == pytest.approx(1 / 1000)


def shares(*hits: int) -> dict[str, Bootstrap]:
    ids = np.arange(1000)
    return {f"m{h}": bootstrap([hits_of((ids * 7) % 1000 < h)], 1000) for h in hits}


def test_marks_only_where_the_difference_is_real() -> None:
    assert marks(shares(100, 300, 500), "HR@1") == {"m100": "", "m300": "second", "m500": "best"}
    assert marks(shares(100), "HR@1") == {"m100": ""}


def test_who_leads_by_other_seeds_and_is_really_worse_gets_no_mark() -> None:
    """Hits of 1,000 by seed: 100, 400, 400 (mean 300) against 200 on seed 0, the only one that both have."""
    ids = np.arange(1000)
    leader = bootstrap([hits_of(ids < h) for h in (100, 400, 400)], training_seeds=[0, 1, 2])
    other = bootstrap([hits_of(ids < 200)], training_seeds=[0])
    assert compare(leader, other)["HR@1"].high < 0
    assert marks({"leader": leader, "other": other}, "HR@1") == {"leader": "", "other": ""}


def test_one_case_of_a_thousand_is_no_real_difference() -> None:
    """The difference is never negative in a resample, but it is 0 in 37% of them: centring must not hide that."""
    methods = shares(100, 499, 500)
    assert not compare(methods["m500"], methods["m499"])["HR@1"].real
    assert marks(methods, "HR@1") == {"m100": "", "m499": "", "m500": ""}


def test_no_mark_for_chance() -> None:
    rng = np.random.default_rng(10)
    methods = {name: bootstrap([hits_of(rng.random(300) < p)]) for name, p in (("a", 0.1), ("b", 0.5), ("c", 0.51))}
    assert marks(methods, "HR@1") == {"a": "", "b": "", "c": ""}


def test_lower_is_better_for_over_recommendation() -> None:
    rng = np.random.default_rng(11)
    spread, narrow = rng.integers(0, ITEMS, (400, 1)), rng.integers(0, 4, (400, 1))
    methods = {"narrow": bootstrap([cases_of(narrow)]), "spread": bootstrap([cases_of(spread)])}
    assert marks(methods, "ORRatio@1") == {"narrow": "", "spread": "best"}
    assert marks(methods, "DivRatio@1") == {"narrow": "", "spread": "best"}


def test_undefined_metrics_stay_undefined_and_unmarked() -> None:
    cases = accumulate([[0], [1]], [0, 1], [0, 1], [0, 1, 2], np.zeros((2, 0)), (1,))
    sample = bootstrap([cases], 20)
    interval, difference = sample.interval("MGU@1"), compare(sample, sample)["MGU@1"]
    assert np.isnan([interval.value, interval.low, interval.high, difference.value, difference.p]).all()
    assert not difference.real
    assert marks({"a": sample, "b": sample}, "MGU@1") == {"a": "", "b": ""}


def test_plain_marks_share_ties_and_skip_undefined() -> None:
    values = {"a": 0.3, "b": 0.3, "c": 0.1, "d": 0.2, "e": float("nan")}
    assert plain_marks(values, "HR@5") == {"a": "best", "b": "best", "c": "", "d": "second", "e": ""}
    assert plain_marks(values, "MGU@5") == {"a": "", "b": "", "c": "best", "d": "second", "e": ""}
