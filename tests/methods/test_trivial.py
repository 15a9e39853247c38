import numpy as np

from sprec.data import Split
from sprec.methods.exclusion import Excluded, excluded_items, nothing_excluded
from sprec.methods.ranking import first_allowed, top_columns
from sprec.methods.trivial import popular_top_k, random_top_k

SPLIT = Split.of([([3, 0], 1), ([], 2), ([4], 3)])
SEEN = Excluded.of(excluded_items(SPLIT, 5, history=True, target=False), 5)
NOTHING = Excluded.of(nothing_excluded(3, 5), 5)
BARRED = np.array([False, False, True, False, True])


def test_popular_items_in_order_ties_by_id() -> None:
    counts = np.array([5, 2, 5, 9, 0])
    assert popular_top_k(counts, NOTHING, 3).tolist() == [[3, 0, 2]] * 3
    assert popular_top_k(counts, SEEN, 3).tolist() == [[2, 1, 4], [3, 0, 2], [3, 0, 2]]


def test_random_items_are_distinct_and_spread_evenly() -> None:
    drawn = random_top_k(np.random.default_rng(0), Excluded.of(nothing_excluded(6000, 5), 5), 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    hits = np.bincount(drawn.ravel(), minlength=5)
    assert ((hits - 2400) ** 2 / 2400).sum() < 18.5  # p = .001 at 4 df
    without = random_top_k(np.random.default_rng(0), Excluded.of(np.array([[0, 5]] * 6000), 5, BARRED), 2)
    assert set(without.ravel().tolist()) == {1, 3}


def test_lists_end_in_minus_one_where_no_more_is_left() -> None:
    counts = np.array([5, 2, 5, 9, 0])
    assert popular_top_k(counts, SEEN, 5).tolist() == [
        [2, 1, 4, -1, -1],
        [3, 0, 2, 1, 4],
        [3, 0, 2, 1, -1],
    ]
    few = Excluded.of(SEEN.own, 5, BARRED)
    assert few.room.tolist() == [1, 3, 3]
    assert popular_top_k(counts, few, 3).tolist() == [[1, -1, -1], [3, 0, 1], [3, 0, 1]]
    drawn = random_top_k(np.random.default_rng(0), few, 3)
    assert [sorted(row) for row in drawn.tolist()] == [[-1, -1, 1], [0, 1, 3], [0, 1, 3]]


def test_top_columns_orders_ties_by_column() -> None:
    scores = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert top_columns(scores, 2).tolist() == [[1, 2], [0, 1]]
    assert top_columns(scores, 5).tolist() == [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]]


def test_excluded_columns_are_left_out_row_by_row() -> None:
    scores = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    own = np.array([[1, 4, 5], [0, 5, 5]])
    assert top_columns(scores, 2, Excluded.of(own, 5)).tolist() == [[2, 3], [1, 2]]
    assert top_columns(scores, 3, Excluded.of(own, 5, BARRED)).tolist() == [[3, 0, -1], [1, 3, -1]]
    assert scores[0].tolist() == [1, 3, 3, 2, 3], "the scores of the caller stay as they are"


def test_the_first_allowed_items_keep_their_order() -> None:
    ranked = np.array([[4, 2, 0, 1], [3, 1, 0, 2]])
    own = np.array([[2, 5], [0, 3]])
    assert first_allowed(ranked, Excluded.of(own, 5), 2).tolist() == [[4, 0], [1, 2]]
    assert first_allowed(ranked, Excluded.of(own, 5, BARRED), 5).tolist() == [[0, 1, -1, -1, -1], [1, -1, -1, -1, -1]]
    assert first_allowed(ranked, Excluded.of(nothing_excluded(2, 5), 5), 3).tolist() == [[4, 2, 0], [3, 1, 0]]
