"""Coverage, Gini, popularity, long tail, novelty, genre diversity: by hand, by brute force and beside LensKit."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sprec.evaluation import METRICS, CatalogFacts, accumulate, bootstrap, evaluate, measurable, parsed, replicates

# Items 0..4 in genres A, B: A | A and B | B | none | B; 10 interactions, 8 of them with items 0 and 1, the head
GENRES = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 0], [0, 1]], dtype=float)
FACTS = CatalogFacts(np.array([6, 2, 1, 1, 0]), [["A"], ["A", "B"], ["B"], [], ["B"]])
LISTS = [[0, 1], [0, 2], [3, 0], [2, 4]]


def measure(
    lists: list[list[int]] | np.ndarray, facts: CatalogFacts, ks: tuple[int, ...], items: int
) -> dict[str, float]:
    n = len(lists)
    return evaluate(lists, [0] * n, [0] * n, list(range(n + 1)), np.ones((items, 1)), ks, facts)


def test_by_hand() -> None:
    values = measure(LISTS, FACTS, (1, 2), 5)
    assert (values["Coverage@1"], values["Coverage@2"]) == (3 / 5, 1)
    # counts 0 0 1 1 2 and 1 1 1 2 3, times -4 -2 0 2 4
    assert (values["Gini@1"], values["Gini@2"]) == pytest.approx(((2 + 8) / (5 * 4), (-4 - 2 + 4 + 12) / (5 * 8)))
    assert values["ARP@1"] == pytest.approx((6 + 6 + 1 + 1) / 4)
    assert values["ARP@2"] == pytest.approx((4 + 3.5 + 3.5 + 0.5) / 4)
    assert values["APLT@1"] == pytest.approx(2 / 4)
    assert values["APLT@2"] == pytest.approx((0 + 1 / 2 + 1 / 2 + 1) / 4)
    # shares of 15: 7, 3, 2, 2, 1
    assert values["Novelty@1"] == pytest.approx((2 * math.log2(15 / 7) + 2 * math.log2(15 / 2)) / 4)
    second = (
        math.log2(15 / 3) + 2 * math.log2(15 / 2) + math.log2(15 / 1) + math.log2(15 / 7) * 3 + math.log2(15 / 2)
    ) / 8
    assert values["Novelty@2"] == pytest.approx(second)
    # A with A and B: 1/2; A with B: 1; an item without genres; B with B: 0
    assert values["GenreDiversity@2"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert "GenreDiversity@1" not in values


def test_three_items_have_three_pairs() -> None:
    """A | A and B | B: 1/2, 1, 1/2; with one of them unknown one pair is left."""
    assert measure([[0, 1, 2]], FACTS, (3,), 5)["GenreDiversity@3"] == pytest.approx(2 / 3)
    assert measure([[0, 1, 3]], FACTS, (3,), 5)["GenreDiversity@3"] == pytest.approx(1 / 2)
    assert math.isnan(measure([[0, 3, -1]], FACTS, (3,), 5)["GenreDiversity@3"])


@pytest.mark.parametrize(
    ("popularity", "tail"),
    [
        ([6, 2, 1, 1, 0], [0, 0, 1, 1, 1]),  # 8 of 10 are enough
        ([5, 2, 1, 1, 1], [0, 0, 0, 1, 1]),  # 7 are not; of equal items the first one
        ([1, 1, 1, 1, 1], [0, 0, 0, 0, 1]),
        ([0, 0, 9, 0, 0], [1, 1, 0, 1, 1]),
        ([0, 0, 0, 0, 0], [math.nan] * 5),
    ],
)
def test_the_long_tail_is_what_the_most_popular_items_leave(popularity: list[int], tail: list[float]) -> None:
    np.testing.assert_equal(CatalogFacts(np.array(popularity), [()] * 5).tail, tail)


@pytest.mark.parametrize(
    ("items", "lists", "gini"),
    [
        (5, LISTS, {1: 0.5, 2: 0.25}),
        (7, LISTS, {1: 0.6428571428571429, 2: 0.4642857142857143}),
        (50, [[(7 * i * i + 3 * j + i) % 50 for j in range(5)] for i in range(40)], {1: 0.819, 2: 0.638, 5: 0.4218}),
        (80, [[(5 * i + 11 * j) % 13 for j in range(5)] for i in range(40)], {1: 0.84125, 2: 0.8409375, 5: 0.84}),
    ],
)
def test_gini_is_that_of_lenskit(items: int, lists: list[list[int]], gini: dict[int, float]) -> None:
    """What ``ListGini(n=k, items=items)`` of LensKit 2025.8.1 gives for these lists."""
    values = measure(lists, CatalogFacts(np.ones(items), [()] * items), tuple(gini), items)
    assert {k: values[f"Gini@{k}"] for k in gini} == pytest.approx(gini, abs=1e-12)


Drawn = tuple[list[list[int]], list[int], list[set[int]]]


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Lists of four items, -1 among them, popularity and genres of up to 9 items."""
    n, items = draw(st.integers(1, 8)), draw(st.integers(4, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lists = rng.integers(-1, items, (n, 4))
    lists[0, 0] = 0
    genres = [set(np.flatnonzero(rng.random(3) < 0.5).tolist()) for _ in range(items)]
    return lists.tolist(), rng.integers(0, 20, items).tolist(), genres


def brute_force(case: Drawn, k: int) -> dict[str, float]:
    """List by list, slot by slot."""
    lists, popularity, genres = case
    total, items = sum(popularity), len(popularity)
    order = sorted(range(items), key=lambda item: (-popularity[item], item))
    head = next(h for h in range(items + 1) if sum(popularity[i] for i in order[:h]) >= 0.8 * total - 1e-9)
    found: dict[str, list[float]] = {name: [] for name in ("ARP", "APLT", "Novelty", "GenreDiversity")}
    for row in lists:
        own = [item for item in row[:k] if item >= 0]
        if own:
            found["ARP"].append(sum(popularity[item] for item in own) / len(own))
            found["APLT"].append(sum(item not in order[:head] for item in own) / len(own))
            shares = [(popularity[item] + 1) / (total + items) for item in own]
            found["Novelty"].append(-sum(map(math.log2, shares)) / len(own))
        pairs = [(genres[a], genres[b]) for a, b in combinations(own, 2) if genres[a] and genres[b]]
        if pairs:
            found["GenreDiversity"].append(sum(1 - len(a & b) / len(a | b) for a, b in pairs) / len(pairs))
    return {f"{name}@{k}": sum(own) / len(own) if own else math.nan for name, own in found.items()}


@given(drawn().filter(lambda case: sum(case[1]) > 0), st.integers(2, 4))
@settings(deadline=None)
def test_equals_the_definitions_list_by_list(case: Drawn, k: int) -> None:
    lists, popularity, genres = case
    facts = CatalogFacts(np.array(popularity), [[str(genre) for genre in own] for own in genres])
    values, expected = measure(lists, facts, (k,), len(popularity)), brute_force(case, k)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(drawn(), st.integers(0, 2**32))
@settings(deadline=None)
def test_weights_are_repetitions(case: Drawn, seed: int) -> None:
    lists, popularity, genres = case
    n, items = len(lists), len(popularity)
    weights = np.random.default_rng(seed).integers(0, 4, n)
    weights[0] = 1
    rows = np.repeat(np.arange(n), weights)
    facts = CatalogFacts(np.array(popularity), [[str(genre) for genre in own] for own in genres])
    cases = accumulate(lists, [0] * n, [0] * n, range(n + 1), np.ones((items, 1)), (1, 4), facts)
    weighted = {name: value[0] for name, value in replicates(cases, [weights]).items()}
    repeated = measure(np.array(lists)[rows], facts, (1, 4), items)
    assert weighted == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@given(drawn())
@settings(deadline=None)
def test_a_case_counts_for_what_is_lost_without_it(case: Drawn) -> None:
    """The linear form of a resample from which one case is missing: the sum over items without that case, by hand."""
    lists, popularity, _ = case
    n, items = len(lists), len(popularity)
    cases = accumulate(lists, [0] * n, [0] * n, range(n + 1), np.ones((items, 1)), (4,))
    without = 1 - np.eye(n)
    found = replicates(cases, without, ["Coverage@4", "Gini@4", "Entropy@4"], resampled=True)
    for left in range(n):
        rest = lists[:left] + lists[left + 1 :]
        if all(item < 0 for row in rest for item in row):
            continue
        exact = measure(rest, CatalogFacts(np.ones(items), [()] * items), (4,), items)
        assert found["Coverage@4"][left] == pytest.approx(exact["Coverage@4"])
        assert found["Entropy@4"][left] == pytest.approx(exact["Entropy@4"], abs=1e-12)
        if sum(item >= 0 for item in lists[left]) == 1:  # of several items the expansion is the first order
            assert found["Gini@4"][left] == pytest.approx(exact["Gini@4"], abs=1e-12)


def test_concentrating_on_what_is_popular_moves_every_metric_the_wrong_way() -> None:
    rng = np.random.default_rng(0)
    items = 200
    facts = CatalogFacts(np.arange(items, 0, -1) ** 2, [[str(item % 20), str(item % 7)] for item in range(items)])
    lists = np.array([rng.permutation(items)[:5] for _ in range(300)])
    wide = measure(lists, facts, (5,), items)
    lists[:200] = [0, 140, 1, 141, 2]  # popular items of few genres
    narrow = measure(np.where(np.arange(300)[:, None] < 250, [0, 20, 40, 60, 80], lists), facts, (5,), items)
    for name in ("Coverage@5", "Gini@5", "Entropy@5", "ARP@5", "APLT@5", "Novelty@5", "GenreDiversity@5"):
        assert (narrow[name] - wide[name]) * parsed(name)[0].direction < 0, name


def test_lists_whose_target_is_unknown_count() -> None:
    """Unlike in DivRatio: exposure does not depend on targets."""
    values = evaluate([[0], [1]], [0, -1], [0, 0], [0, 1, 2], GENRES, (1,), FACTS)
    assert (values["DivRatio@1"], values["Coverage@1"], values["ARP@1"]) == (1, 2 / 5, (6 + 2) / 2)


def test_without_facts_the_rest_is_measured() -> None:
    names = {name.partition("@")[0] for name in evaluate([[0], [1]], [0, 1], [0, 0], [0, 1, 2], GENRES, (1,))}
    assert names == {name for name, row in METRICS.items() if not row.needs}


def test_facts_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="facts of 5 items are needed, got 4 and 5"):
        measure(LISTS, CatalogFacts(np.ones(4), [()] * 5), (1,), 5)


def test_rows_and_their_names() -> None:
    cases = accumulate(LISTS, [0] * 4, [0] * 4, range(5), GENRES, (1, 2), FACTS, exact=[1, 1, 1, 1])
    names = measurable(cases)
    assert len(names) == 2 * (len(METRICS) - 1) - 1 + 1, "all at 1 and 2 but GenreDiversity@1, and ExactTitles"
    assert {parsed(name)[0].name for name in names} == set(METRICS)
    assert all(parsed(name)[0].at(parsed(name)[1]) == name for name in names)
    for wrong in ("HR", "HR@0", "HR@05", "HR@x", "GenreDiversity@1", "ExactTitles@1", "loss", ""):
        with pytest.raises(KeyError):
            parsed(wrong)


def test_intervals_end_where_the_row_says_so() -> None:
    """Popularity and bits go beyond 1, DGU up to 2, shares end at 1."""
    rng = np.random.default_rng(3)
    facts = CatalogFacts(np.arange(100) * 10, [["a"]] * 100)
    lists = rng.integers(0, 100, (60, 2))
    cases = accumulate(lists, [0] * 60, [0] * 60, range(61), np.ones((100, 1)), (2,), facts, exact=np.ones(60))
    sample = bootstrap([cases], 200)
    for name in ("ARP@2", "Novelty@2", "Entropy@2"):
        found = sample.interval(name)
        assert 1 < found.low < found.value < found.high, name
    exact = sample.interval("ExactTitles")
    assert (exact.value, exact.high) == (1, 1)
    assert exact.low**60 == pytest.approx(0.025), "no title missed in 60 is no proof that none ever is"
