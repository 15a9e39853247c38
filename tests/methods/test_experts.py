from itertools import product as all_of

import numpy as np
import pytest

from sprec.methods.experts import choose_weights, normalised, of_titles, product, simplex
from sprec.methods.ranking import top_columns
from sprec.methods.tilt import ndcg

RANDOM = np.random.default_rng(0)


def test_normalised_scores_are_probabilities() -> None:
    scores = RANDOM.normal(size=(3, 7)) * 300  # exp of these is out of range
    found = normalised(scores)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    np.testing.assert_allclose(found - found[:, :1], scores - scores[:, :1], rtol=1e-9)


def test_language_model_by_hand() -> None:
    """Five items; 1 and 2 share a title. Found: title of 0 with .5, of 1 and 2 with .2, so that each of these has .1.

    Left is .3 for two items, .15 each, which is more than the worst found: the floor is .1.
    """
    sharing = np.array([1, 2, 2, 1, 1])
    found = of_titles(np.array([[0, 1, 2]]), np.log([[0.5, 0.2, 0.2]]), sharing)
    np.testing.assert_allclose(np.exp(found), np.array([[0.5, 0.1, 0.1, 0.1, 0.1]]) / 0.9)


def test_floor_shares_what_is_left_where_that_is_less() -> None:
    found = of_titles(np.array([[3, -1], [0, 1]]), np.log([[0.8, 0.9], [0.7, 0.3]]), np.ones(5, int))
    np.testing.assert_allclose(np.exp(found[0]), [0.05, 0.05, 0.05, 0.8, 0.05])
    np.testing.assert_allclose(np.exp(found[1]), [0.7, 0.3, 0, 0, 0], atol=1e-300)
    assert np.isfinite(found).all()


def test_titles_that_are_less_probable_than_the_smallest_float() -> None:
    """A long title under a model that never saw it: exp(-800) is 0, and what is found must stay apart from the rest."""
    found = of_titles(np.array([[0, 1]]), np.array([[-800.0, -801.0]]), np.ones(4, int))
    p = np.exp([0, -1, -1, -1])
    np.testing.assert_allclose(found, [np.log(p / p.sum())])


def test_language_model_that_found_the_whole_catalog_keeps_its_order() -> None:
    p = RANDOM.dirichlet(np.ones(6), 4)
    items = np.argsort(-p, axis=1)
    log_probs = np.log(np.take_along_axis(p, items, axis=1)) - 0.5  # the rest of the mass is on no title
    np.testing.assert_allclose(of_titles(items, log_probs, np.ones(6, int)), np.log(p))
    with pytest.raises(ValueError, match="at least one item"):
        of_titles(np.array([[-1]]), np.array([[0.0]]), np.ones(3, int))


def test_simplex_has_all_weights_once() -> None:
    for experts, parts in ((1, 4), (2, 5), (3, 4)):
        expected = {w for w in all_of(range(parts + 1), repeat=experts) if sum(w) == parts}
        found = list(simplex(experts, parts))
        assert len(found) == len(expected)
        assert {tuple(round(parts * w) for w in weights) for weights in found} == expected


def test_product_is_the_geometric_mean() -> None:
    a, b = (RANDOM.dirichlet(np.ones(4), 3) for _ in range(2))
    np.testing.assert_allclose(np.exp(product([np.log(a), np.log(b)], [0.25, 0.75])), a**0.25 * b**0.75)
    with_zero = np.log(np.array([[0.0, 1.0]]), where=np.array([[False, True]]), out=np.full((1, 2), -np.inf))
    assert product([with_zero, np.log([[0.5, 0.5]])], [0, 1]).tolist() == [[np.log(0.5)] * 2]


def test_weights_are_the_best_of_the_grid() -> None:
    """Each expert knows one half of what decides: together they find more than either."""
    parts = [RANDOM.normal(size=(300, 30)) for _ in range(3)]
    targets = np.argmax(parts[0] + parts[1] + 0.1 * parts[2], axis=1)
    experts = [normalised(part) for part in parts]
    blocks = [([expert[rows] for expert in experts], targets[rows]) for rows in np.split(np.arange(300), [90, 100])]
    chosen = choose_weights(blocks, 3, parts=4)
    scores = {w: ndcg(top_columns(product(experts, w), 5), targets) for w in simplex(3, 4)}
    assert scores[chosen] == max(scores.values()) > scores[1, 0, 0] + 0.1
    assert list(chosen) == [0.5, 0.5, 0]


def test_diversity_can_count() -> None:
    """One expert finds 6 of 10 targets with two first items, the other one 5 with ten."""
    targets = np.array([0] * 6 + [1, 2, 3, 4])
    crowd, each = np.zeros((10, 20)), np.zeros((10, 20))
    crowd[:, 0], crowd[9, 7] = 9, 10  # all get item 0, but for the last one
    crowd[:, 10:15] = 5
    each[:, 15:] = 5
    each[np.arange(10), [0, 11, 12, 13, 14, 15, 1, 2, 3, 4]] = 9
    experts = [normalised(crowd), normalised(each)]
    assert list(choose_weights([(experts, targets)], 2, parts=1)) == [1, 0]
    assert list(choose_weights([(experts, targets)], 2, parts=1, diverse=True)) == [0, 1]


def test_equal_weights_name_the_fewest_experts() -> None:
    same = normalised(RANDOM.normal(size=(10, 8)))
    assert choose_weights([([same, same], np.argmax(same, axis=1))], 2) == (1, 0)
