from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data import Split
from sprec.methods.negatives import mix, popularity, semantic, uniform, uniform_log_prob
from sprec.methods.sampling import MISSING
from sprec.system.errors import UserError

ITEMS = 12
SPLITS = st.lists(
    st.tuples(st.lists(st.integers(0, ITEMS - 1), max_size=6), st.integers(0, ITEMS - 1)),
    min_size=1,
    max_size=8,
).map(Split.of)


def chi_square(observed: Counter[int], expected: dict[int, float]) -> float:
    n = sum(observed.values())
    assert set(observed) <= set(expected)
    return sum((observed[item] - n * p) ** 2 / (n * p) for item, p in expected.items())


@given(SPLITS, st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_uniform_respects_target_history_and_distinctness(
    split: Split, k: int, exclude_history: bool, seed: int
) -> None:
    drawn = uniform(np.random.default_rng(seed), split, ITEMS, k, exclude_history)
    assert drawn.shape == (len(split), k)
    for (history, target), row in zip(split, drawn.tolist(), strict=True):
        assert set(row) <= set(range(ITEMS)) - {target} - (set(history) if exclude_history else set())
        assert len(set(row)) == k


@given(SPLITS, st.integers(1, 5), st.integers(0, 99))
def test_popularity_draws_only_counted_items_and_marks_the_missing(split: Split, k: int, seed: int) -> None:
    counts = np.array([0, 3, 0, 0, 1, 0, 0, 0, 0, 7, 0, 2])
    drawn = popularity(np.random.default_rng(seed), split, counts, k)
    for (history, target), row in zip(split, drawn.tolist(), strict=True):
        possible = {1, 4, 9, 11} - {target} - set(history)
        found = [item for item in row if item != MISSING]
        assert len(found) == len(set(found)) == min(k, len(possible))
        assert set(found) <= possible


def test_uniform_is_uniform_over_what_is_left() -> None:
    split = Split.of([([3, 5, 5], 7)] * 20_000)
    drawn = uniform(np.random.default_rng(0), split, 10, 1)
    left = [0, 1, 2, 4, 6, 8, 9]
    assert chi_square(Counter(drawn[:, 0].tolist()), dict.fromkeys(left, 1 / 7)) < 22.5  # p = .001 at 6 df


def test_uniform_pairs_are_all_equally_likely() -> None:
    drawn = uniform(np.random.default_rng(1), Split.of([([2], 0)] * 20_000), 6, 2)
    code = Counter((10 * drawn[:, 0] + drawn[:, 1]).tolist())
    expected = {10 * a + b: 1 / 12 for a in (1, 3, 4, 5) for b in (1, 3, 4, 5) if a != b}
    assert chi_square(code, expected) < 31.3  # p = .001 at 11 df


def test_popularity_follows_the_counts_of_what_is_left() -> None:
    counts = np.array([5, 1, 4, 0, 10, 2])
    drawn = popularity(np.random.default_rng(2), Split.of([([4], 0)] * 20_000), counts, 1)
    assert chi_square(Counter(drawn[:, 0].tolist()), {1: 1 / 7, 2: 4 / 7, 5: 2 / 7}) < 13.8  # p = .001 at 2 df


def test_second_popular_negative_follows_the_counts_without_the_first() -> None:
    counts = np.array([1, 2, 3, 0])
    drawn = popularity(np.random.default_rng(3), Split.of([([], 3)] * 20_000), counts, 2)
    pairs = Counter((10 * drawn[:, 0] + drawn[:, 1]).tolist())
    w = {0: 1, 1: 2, 2: 3}
    expected = {10 * a + b: w[a] / 6 * w[b] / (6 - w[a]) for a in w for b in w if a != b}
    assert chi_square(pairs, expected) < 20.5  # p = .001 at 5 df


def test_same_seed_same_negatives() -> None:
    split = Split.of([([1, 2], 3), ([4], 5)] * 50)
    first, second = (uniform(np.random.default_rng(7), split, 1000, 3) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_catalog_too_small_is_one_clear_line() -> None:
    split = Split.of([([0, 1], 2), ([0, 1, 1], 1)])
    with pytest.raises(UserError, match=r"cannot find 3 different items: of the catalog's 5 only 2 are"):
        uniform(np.random.default_rng(0), split, 5, 3)
    assert uniform(np.random.default_rng(0), split, 5, 2)[0].tolist() in ([3, 4], [4, 3])


VECTORS = np.array([[1, 0], [0.9, 0.1], [0.8, 0.3], [0, 1], [-1, 0], [0.9, 0.1]], dtype=np.float32)


def test_semantic_takes_the_most_similar_items_outside_history_and_target() -> None:
    split = Split.of([([0], 1), ([0, 3], 4), ([4], 0)])
    assert semantic(split, VECTORS).tolist() == [[5], [2], [3]]
    assert semantic(split, VECTORS, 3).tolist() == [[5, 2, 3], [2, 1, 5], [3, 2, 1]]


def test_least_similar_is_the_inverted_official_variant() -> None:
    split = Split.of([([0], 4), ([4, 4], 0)])
    assert semantic(split, VECTORS, least=True).tolist() == [[4], [0]]


def test_semantic_equals_mean_of_cosines_by_brute_force() -> None:
    g = np.random.default_rng(4)
    vectors = g.normal(size=(40, 5))
    split = Split.of([(g.integers(0, 40, g.integers(1, 8)).tolist(), int(g.integers(40))) for _ in range(25)])
    best = semantic(split, vectors, 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for (history, target), row in zip(split, best.tolist(), strict=True):
        score = {i: np.mean([unit[i] @ unit[h] for h in history]) for i in {*range(40)} - {*history, target}}
        assert row == sorted(score, key=lambda i: -score[i])[:4]


def test_semantic_draws_evenly_from_the_top() -> None:
    drawn = semantic(Split.of([([0], 5)] * 9000), VECTORS, top=3, rng=np.random.default_rng(5))
    assert drawn.shape == (9000, 1)
    assert chi_square(Counter(drawn[:, 0].tolist()), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}) < 13.8


def test_semantic_pool_larger_than_the_catalog_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="cannot find 20 different items"):
        semantic(Split.of([([0], 1)]), VECTORS, top=20, rng=np.random.default_rng(0))


@given(st.integers(0, 60), st.floats(0, 1), st.integers(0, 99))
def test_mix_replaces_the_floor_of_the_ratio(n: int, ratio: float, seed: int) -> None:
    own, other = [["own"]] * n, [["other", "other"]] * n
    mixed = mix(np.random.default_rng(seed), own, other, ratio)
    assert sum(titles == ["other", "other"] for titles in mixed) == int(ratio * n + 1e-9)
    assert own == [["own"]] * n


def test_mix_replaces_every_case_equally_often() -> None:
    rng = np.random.default_rng(6)
    hits = sum(np.array(mix(rng, [0] * 4, [1] * 4, 0.25)) for _ in range(8000))
    assert chi_square(Counter(dict(enumerate(np.asarray(hits).tolist()))), dict.fromkeys(range(4), 0.25)) < 16.3


def test_ratio_counts_as_people_write_it() -> None:
    assert sum(mix(np.random.default_rng(0), [0] * 100, [1] * 100, 0.29)) == 29  # 0.29 * 100 is 28.999... in binary


def test_log_prob_of_uniform_negatives_by_hand_and_by_frequency() -> None:
    split = Split.of([([3, 5, 5], 7), ([], 7), ([7, 2], 7)])
    assert uniform_log_prob(split, 10).tolist() == pytest.approx(np.log([1 / 7, 1 / 9, 1 / 8]).tolist())
    kept = uniform_log_prob(split, 10, exclude_history=False)
    assert kept.tolist() == pytest.approx([np.log(1 / 9)] * 3)
    drawn = uniform(np.random.default_rng(8), Split.of([split[0]] * 20_000), 10, 2)
    q = np.exp(uniform_log_prob(split[:1], 10))[0]
    for column in drawn.T:  # the second one too
        assert chi_square(Counter(column.tolist()), dict.fromkeys([0, 1, 2, 4, 6, 8, 9], q)) < 22.5  # p = .001, 6 df
