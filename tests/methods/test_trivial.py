import numpy as np
import pytest

from sprec.data import Split
from sprec.methods.ranking import top_columns
from sprec.methods.trivial import popular_top_k, random_top_k
from sprec.system.errors import UserError

SPLIT = Split.of([([3, 0], 1), ([], 2), ([4], 3)])


def test_popular_items_in_order_ties_by_id() -> None:
    counts = np.array([5, 2, 5, 9, 0])
    assert popular_top_k(counts, SPLIT, 3).tolist() == [[3, 0, 2]] * 3
    assert popular_top_k(counts, SPLIT, 3, exclude_history=True).tolist() == [[2, 1, 4], [3, 0, 2], [3, 0, 2]]


def test_random_items_are_distinct_and_spread_evenly() -> None:
    split = Split.of([([0], 1)] * 6000)
    drawn = random_top_k(np.random.default_rng(0), split, 5, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    hits = np.bincount(drawn.ravel(), minlength=5)
    assert ((hits - 2400) ** 2 / 2400).sum() < 18.5  # p = .001 at 4 df
    without = random_top_k(np.random.default_rng(0), split, 5, 2, exclude_history=True)
    assert set(without.ravel().tolist()) == {1, 2, 3, 4}


def test_more_items_than_the_catalog_has_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"cannot draw 4 different items: of the catalog's 5 only 3"):
        popular_top_k(np.ones(5), SPLIT, 4, exclude_history=True)
    with pytest.raises(UserError, match="cannot draw 6 different items"):
        random_top_k(np.random.default_rng(0), SPLIT, 5, 6)


def test_top_columns_orders_ties_by_column() -> None:
    scores = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert top_columns(scores, 2).tolist() == [[1, 2], [0, 1]]
    assert top_columns(scores, 5).tolist() == [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]]
