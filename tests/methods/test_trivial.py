import numpy as np
import pytest

from sprec.data import Split
from sprec.methods.exclusion import excluded_items, nothing_excluded
from sprec.methods.ranking import first_allowed, top_columns
from sprec.methods.trivial import popular_top_k, random_top_k
from sprec.system.errors import UserError

SPLIT = Split.of([([3, 0], 1), ([], 2), ([4], 3)])
SEEN = excluded_items(SPLIT, 5, history=True, target=False)
NOTHING = nothing_excluded(3, 5)


def test_popular_items_in_order_ties_by_id() -> None:
    counts = np.array([5, 2, 5, 9, 0])
    assert popular_top_k(counts, NOTHING, 3).tolist() == [[3, 0, 2]] * 3
    assert popular_top_k(counts, SEEN, 3).tolist() == [[2, 1, 4], [3, 0, 2], [3, 0, 2]]


def test_random_items_are_distinct_and_spread_evenly() -> None:
    drawn = random_top_k(np.random.default_rng(0), nothing_excluded(6000, 5), 5, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    hits = np.bincount(drawn.ravel(), minlength=5)
    assert ((hits - 2400) ** 2 / 2400).sum() < 18.5  # p = .001 at 4 df
    without = random_top_k(np.random.default_rng(0), np.array([[0, 5]] * 6000), 5, 2)
    assert set(without.ravel().tolist()) == {1, 2, 3, 4}


def test_more_items_than_the_catalog_has_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"cannot find 4 different items: of the catalog's 5 only 3"):
        popular_top_k(np.ones(5), SEEN, 4)
    with pytest.raises(UserError, match="cannot find 6 different items"):
        random_top_k(np.random.default_rng(0), NOTHING, 5, 6)


def test_top_columns_orders_ties_by_column() -> None:
    scores = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert top_columns(scores, 2).tolist() == [[1, 2], [0, 1]]
    assert top_columns(scores, 5).tolist() == [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]]


def test_excluded_columns_are_left_out_row_by_row() -> None:
    scores = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert top_columns(scores, 2, np.array([[1, 4, 5], [0, 5, 5]])).tolist() == [[2, 3], [1, 2]]
    assert scores[0].tolist() == [1, 3, 3, 2, 3], "the scores of the caller stay as they are"


def test_the_first_allowed_items_keep_their_order() -> None:
    ranked = np.array([[4, 2, 0, 1], [3, 1, 0, 2]])
    assert first_allowed(ranked, np.array([[2, 5], [0, 3]]), 2).tolist() == [[4, 0], [1, 2]]
    assert first_allowed(ranked, nothing_excluded(2, 5), 3).tolist() == [[4, 2, 0], [3, 1, 0]]
