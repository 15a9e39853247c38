"""Metrics against hand-computed fractions, a brute-force count, directions and invariants."""

import math
import subprocess
import sys
import warnings
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from sprec.evaluation import accumulate, evaluate, exact_titles, genre_unfairness, parsed, replicates

# Items 0..4 in genres A, B: A | A and B | B | none | B
GENRES = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 0], [0, 1]], dtype=float)


Run = tuple[np.ndarray, np.ndarray, list[list[int]], list[set[int]], int]


def flat(histories: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(histories))


def offsets_of(histories: list[list[int]]) -> list[int]:
    return [0, *np.cumsum([len(history) for history in histories]).tolist()]


def measure(
    recs: ArrayLike,
    targets: list[int],
    histories: list[list[int]] | None = None,
    genres: np.ndarray = GENRES,
    ks: tuple[int, ...] = (1,),
) -> dict[str, float]:
    histories = histories or [[0, 2]] * len(targets)
    return evaluate(recs, targets, flat(histories), offsets_of(histories), genres, ks)


def brute_force(
    recs: list[list[int]],
    targets: list[int],
    histories: list[list[int]],
    genres: list[set[int]],
    size: int,
    k: int,
) -> dict[str, float]:
    """The published evaluation's loops: natural logarithms, running sets and counters, one k per call.

    The last three are over all lists, by their definitions.
    """
    exposure = Counter(chain.from_iterable(row[:k] for row in recs))
    every = [exposure[item] for item in range(len(genres))]
    shares = [count / sum(every) for count in every if count]
    hits = gain = known = 0.0
    seen: set[int] = set()
    counts: Counter[int] = Counter()
    recommended, consumed = [0.0] * size, [0.0] * size
    for row, target in zip(recs, targets, strict=True):
        if target < 0:
            continue
        known += 1
        if target in row[:k]:
            hits += 1
            gain += 1 / math.log(row.index(target) + 2)
        for item in row[:k]:
            seen.add(item)
            counts[item] += 1
            for genre in genres[item]:
                recommended[genre] += 1 / len(genres[item])
    for item in flat(histories):
        for genre in genres[item]:
            consumed[genre] += 1 / len(genres[item])
    gaps = [p / sum(recommended) - h / sum(consumed) for p, h in zip(recommended, consumed, strict=True)]
    return {
        f"HR@{k}": hits / len(targets),
        f"NDCG@{k}": gain / len(targets) / (1 / math.log(2)),
        f"DivRatio@{k}": len(seen) / (known * k),
        f"ORRatio@{k}": sum(count for _, count in counts.most_common(3)) / (known * k),
        f"MGU@{k}": sum(map(abs, gaps)) / size,
        f"DGU@{k}": max(gaps) - min(gaps),
        f"Coverage@{k}": len(exposure) / len(genres),
        f"Gini@{k}": sum(abs(a - b) for a in every for b in every) / (2 * len(every) * sum(every)),
        f"Entropy@{k}": -sum(share * math.log(share) for share in shares),
    }


@pytest.mark.parametrize(("rank", "gain"), [(0, 1.0), (1, 0.630930), (4, 0.386853), (5, 0.0)])
def test_ndcg_by_rank(rank: int, gain: float) -> None:
    genres = np.ones((8, 1))
    row = [7, 1, 2, 3, 4, 5]
    row[rank], row[0] = row[0], row[rank]
    values = measure([row], [7], genres=genres, ks=(5,))
    assert values["NDCG@5"] == pytest.approx(gain, abs=1e-6)
    assert values["HR@5"] == (rank < 5)


def test_diversity_and_over_recommendation_of_a_a_b_c_d() -> None:
    values = measure([[0], [0], [1], [2], [3]], [4] * 5)
    assert values["DivRatio@1"] == pytest.approx(4 / 5)
    assert values["ORRatio@1"] == pytest.approx(4 / 5)


def test_genre_unfairness_of_70_30_against_50_50() -> None:
    recs = [[0]] * 7 + [[2]] * 3
    values = measure(recs, [1] * 10)
    assert values["MGU@1"] == pytest.approx(0.2)
    assert values["DGU@1"] == pytest.approx(0.4)


def test_all_metrics_by_hand() -> None:
    recs = [[0, 1], [0, 2], [3, 0], [2, 4]]
    histories = [[0, 1], [2], [4, 3], [0]]
    values = measure(recs, [1, 0, 4, 3], histories, ks=(1, 2))
    assert values["HR@1"] == values["NDCG@1"] == pytest.approx(1 / 4)
    assert values["HR@2"] == pytest.approx(2 / 4)
    assert values["NDCG@2"] == pytest.approx((1 + 1 / math.log2(3)) / 4)
    assert values["DivRatio@1"] == pytest.approx(3 / 4)  # 0, 3, 2
    assert values["DivRatio@2"] == pytest.approx(5 / 8)
    assert values["ORRatio@1"] == pytest.approx(4 / 4)
    assert values["ORRatio@2"] == pytest.approx((3 + 2 + 1) / 8)  # item 0 three times, 2 twice
    # histories: A 1 + 1/2 + 1 = 5/2, B 1/2 + 1 + 1 = 5/2; first items: A 2, B 1 (item 3 has no genre)
    assert values["MGU@1"] == pytest.approx(1 / 6)
    assert values["DGU@1"] == pytest.approx(1 / 3)
    # both items: A 1 + 1/2 + 1 + 1 = 7/2, B 1/2 + 1 + 1 + 1 = 7/2
    assert values["MGU@2"] == pytest.approx(0, abs=1e-15)


def test_per_genre_unfairness_keeps_its_sign() -> None:
    cases = accumulate([[0]] * 7 + [[2]] * 3, [1] * 10, [0, 2] * 10, list(range(0, 21, 2)), GENRES, (1,))
    assert genre_unfairness(cases, 1) == pytest.approx([0.2, -0.2])


def test_unknown_targets_are_misses_and_their_lists_do_not_count() -> None:
    values = measure([[0], [1], [2], [2]], [0, -1, -1, 2], [[0], [0], [2], [2]])
    assert values["HR@1"] == pytest.approx(2 / 4)  # over all four cases
    assert values["DivRatio@1"] == pytest.approx(2 / 2)  # items 0 and 2 over the two known ones
    assert values["ORRatio@1"] == pytest.approx(2 / 2)
    assert values["MGU@1"] == pytest.approx(0)  # all four histories, half A, half B
    alone = measure([[0], [1]], [0, -1], [[0], [2]])
    assert alone["MGU@1"] == pytest.approx(1 / 2)  # lists: all A; histories: half A, half B


def test_an_unknown_target_never_matches_an_empty_slot() -> None:
    assert measure([[-1], [0]], [-1, 1])["HR@1"] == 0


def test_empty_slots_stay_in_the_denominator() -> None:
    values = measure([[0, -1], [1, -1]], [0, 0], ks=(2,))
    assert values["DivRatio@2"] == pytest.approx(2 / 4)
    assert values["ORRatio@2"] == pytest.approx(2 / 4)


def test_first_occurrence_of_a_repeated_target_counts() -> None:
    assert measure([[1, 0, 0]], [0], ks=(3,))["NDCG@3"] == pytest.approx(1 / math.log2(3))


def test_no_genres_gives_nan_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="MGU and DGU") as caught:
        values = measure([[0, 1]], [0], genres=np.zeros((5, 0)), ks=(1, 2))
    assert len(caught) == 1
    assert all(math.isnan(values[name]) for name in ("MGU@1", "DGU@1", "MGU@2", "DGU@2"))
    assert values["HR@1"] == 1


@pytest.mark.parametrize(("recs", "history"), [([[3]], [0]), ([[0]], [3])])
def test_one_side_without_genres_gives_nan_not_zero(recs: list[list[int]], history: list[int]) -> None:
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(measure(recs, [0], [history])["MGU@1"])


def test_no_known_target_gives_nan_diversity() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = measure([[0], [1]], [-1, -1])
    assert values["HR@1"] == 0
    assert math.isnan(values["DivRatio@1"])
    assert math.isnan(values["ORRatio@1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0]], [0], [0], [0, 1], GENRES, (2,)), r"cut-offs \(2,\) must lie in 1..1"),
        ((np.zeros((1, 9)), [0], [0], [0, 1], GENRES, (6,)), r"1\.\.5 \(list length, catalogue size\)"),
        (([[0]], [0], [0], [0, 1], GENRES, (0,)), "cut-offs"),
        (([[0]], [0], [0], [0, 1], GENRES, ()), "cut-offs"),
        (([[5]], [0], [0], [0, 1], GENRES, (1,)), r"item ids must lie in -1\.\.4"),
        (([[0]], [-2], [0], [0, 1], GENRES, (1,)), "item ids"),
        (([[0]], [0, 1], [0], [0, 1], GENRES, (1,)), "do not fit"),
        (([[0]], [0], [0], [0, 2], GENRES, (1,)), "offsets must rise"),
        ((np.zeros((0, 1)), [], [], [0], GENRES, (1,)), "no cases"),
    ],
)
def test_impossible_input_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments)  # type: ignore[arg-type]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    n, items = draw(st.integers(1, 12)), draw(st.integers(5, 9))
    size = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    recs = np.stack([rng.permutation(items)[:5] for _ in range(n)])
    targets = rng.integers(-1, items, n)
    targets[0] = abs(targets[0])
    histories = [rng.integers(0, items, rng.integers(1, 4)).tolist() for _ in range(n)]
    genres = [set(np.flatnonzero(rng.random(size) < 0.7).tolist()) | {int(rng.integers(size))} for _ in range(items)]
    return recs, targets, histories, genres, size


def matrix_of(genres: list[set[int]], size: int) -> np.ndarray:
    return np.array([[(g in own) / len(own) for g in range(size)] for own in genres])


@given(runs(), st.integers(1, 5))
@settings(deadline=None)
def test_equals_the_published_loops(run: Run, k: int) -> None:
    recs, targets, histories, genres, size = run
    values = measure(recs, targets.tolist(), histories, matrix_of(genres, size), ks=(k,))
    assert values == pytest.approx(brute_force(recs.tolist(), targets.tolist(), histories, genres, size, k), abs=1e-12)


@given(runs(), st.integers(0, 2**32))
@settings(deadline=None)
def test_bounds_and_order_of_cases(run: Run, seed: int) -> None:
    recs, targets, histories, genres, size = run
    values = measure(recs, targets.tolist(), histories, matrix_of(genres, size), ks=(1, 5))
    assert all(0 <= value <= parsed(name)[0].high for name, value in values.items())
    assert values["NDCG@5"] <= values["HR@5"] <= 1
    assert values["ORRatio@5"] <= 3 / 5 + 1e-12  # no repeats within a list
    assert 1 / (targets >= 0).sum() / 5 <= values["DivRatio@5"] <= 1
    assert values["MGU@1"] <= values["DGU@1"] + 1e-12
    order = np.random.default_rng(seed).permutation(len(targets))
    shuffled = measure(
        recs[order],
        targets[order].tolist(),
        [histories[i] for i in order],
        matrix_of(genres, size),
        ks=(1, 5),
    )
    assert shuffled == pytest.approx(values, abs=1e-12)


@given(runs(), st.integers(0, 2**32))
@settings(deadline=None)
def test_weights_are_repetitions(run: Run, seed: int) -> None:
    recs, targets, histories, genres, size = run
    weights = np.random.default_rng(seed).integers(0, 4, len(targets))
    weights[0] = 1
    rows = np.repeat(np.arange(len(targets)), weights)
    matrix = matrix_of(genres, size)
    cases = accumulate(recs, targets, flat(histories), offsets_of(histories), matrix, (1, 5))
    weighted = {name: value[0] for name, value in replicates(cases, [weights]).items()}
    repeated = measure(recs[rows], targets[rows].tolist(), [histories[i] for i in rows], matrix, ks=(1, 5))
    assert weighted == pytest.approx(repeated, abs=1e-12)


def test_concentrating_lowers_diversity_and_raises_over_recommendation() -> None:
    rng = np.random.default_rng(0)
    recs = rng.integers(0, 200, (1000, 1))
    genres = np.eye(4)[np.arange(200) % 4]
    history = rng.integers(0, 200, (1000, 1)).tolist()
    previous = measure(recs, [0] * 1000, history, genres)
    for share in (100, 300, 600, 900):
        recs[:share] = 7
        values = measure(recs, [0] * 1000, history, genres)
        assert values["DivRatio@1"] < previous["DivRatio@1"]
        assert values["ORRatio@1"] > previous["ORRatio@1"]
        assert values["MGU@1"] > previous["MGU@1"]
        previous = values


def test_shuffling_lists_between_users_changes_accuracy_only() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 100, 500)
    recs = np.stack([targets, (targets + 1) % 100], axis=1)
    genres = np.eye(5)[np.arange(100) % 5]
    histories = rng.integers(0, 100, (500, 3)).tolist()
    perfect = measure(recs, targets.tolist(), histories, genres, ks=(1, 2))
    shuffled = measure(rng.permutation(recs), targets.tolist(), histories, genres, ks=(1, 2))
    assert perfect["HR@1"] == 1
    assert shuffled["HR@1"] < 0.1
    set_level = [name for name in perfect if not name.startswith(("HR", "NDCG"))]
    assert [shuffled[name] for name in set_level] == pytest.approx([perfect[name] for name in set_level])


def test_more_cases_lower_diversity_of_the_same_process() -> None:
    """Why n is fixed at 1,000: DivRatio falls with n at an unchanged distribution."""
    recs, genres = np.random.default_rng(2).integers(0, 300, (4000, 1)), np.ones((300, 1))
    values = [measure(recs[:n], [0] * n, genres=genres)["DivRatio@1"] for n in (500, 1000, 4000)]
    assert values[0] > 1.3 * values[1] > 1.3 * values[2]


def test_exact_titles_to_the_letter() -> None:
    catalog = ("Dune", "Emma", "Ulysses")
    assert exact_titles(["Dune", "Dune II", "dune", "Emma"], catalog, 4).tolist() == [1, 0, 0, 1]
    assert exact_titles(["", "Dune ", "Emma", "Emma"], catalog, 2).tolist() == [0, 1]
    args = ([[0], [1]], [0, 1], [0, 1], [0, 1, 2], GENRES, (1,))
    assert evaluate(*args, exact=[1, 0.25])["ExactTitles"] == pytest.approx(0.625)
    assert "ExactTitles" not in evaluate(*args)
    with pytest.raises(ValueError, match=r"one share per case, shape \(2,\), got \(3,\)"):
        evaluate(*args, exact=[1, 1, 1])


@pytest.mark.parametrize(
    ("recs", "k", "entropy"),
    [
        ([[0], [1], [2], [3]], 1, math.log(4)),
        ([[0, 1], [0, 2]], 1, 0),
        ([[0, 1], [0, -1]], 2, -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)),
        ([[-1]], 1, math.nan),
    ],
)
def test_entropy_counts_effective_items(recs: list[list[int]], k: int, entropy: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(recs, [0] * len(recs), ks=(k,))[f"Entropy@{k}"]
    assert found == pytest.approx(entropy, nan_ok=True)


def test_the_evaluation_room_needs_no_torch() -> None:
    code = "import sys, sprec.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
