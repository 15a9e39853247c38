import numpy as np
import pytest

from sprec.methods.ranking import top_columns
from sprec.methods.tilt import (
    Scored,
    Tilt,
    choose_tilt,
    exposure,
    fit_tilt,
    genre_shares,
    marginal_offset,
    ndcg,
)
from sprec.system.errors import UserError

RANDOM = np.random.default_rng(0)
NO_GENRES, NO_SHARES = np.zeros((40, 0)), np.zeros(0)


def people(n: int, items: int = 40, crowd: float = 2.0) -> np.ndarray:
    """Scores of users whose tastes differ a little, and who all like the first items."""
    scores: np.ndarray = RANDOM.normal(size=(n, items)) + crowd * (np.arange(items) < 5)
    return scores


def test_exposure_and_genre_shares_by_hand() -> None:
    lists = np.array([[0, 1, 2, 3, 4], [1, 0, 5, 3, 2]])
    np.testing.assert_allclose(exposure(lists, 7), [0.35, 0.35, 0.1, 0.1, 0.05, 0.05, 0])
    short = np.array([[6, -1, -1, -1, -1], [0, 1, 2, 3, 4]])  # only one item was left for the first user
    np.testing.assert_allclose(exposure(short, 7), [0.3, 0.05, 0.05, 0.05, 0.05, 0, 0.3])
    genres = np.array([[1, 0], [0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(genre_shares(np.array([0, 0, 1, 2]), genres), [2.5 / 3, 0.5 / 3])
    np.testing.assert_allclose(genre_shares(np.array([2]), genres), [0, 0])


def test_offset_by_hand() -> None:
    """The first genre has .25 of the histories: an item of it moves the shares by (.75, -.75)."""
    tilt = Tilt(np.array([0.0, 0.3, 1.0]), np.array([2.0, -1.0]), np.array([0.25, 0.75]))
    genres = np.array([[1, 0], [0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(tilt.offset(genres), [2 * 0.75 + 0.75, 2 * 0.25 + 0.25 - 0.3, -1])


def test_candidates_are_the_best_and_the_offset_reorders_them() -> None:
    scores = np.array([[0.0, 3.0, 3.0, 1.0], [5.0, 1.0, 2.0, 3.0]])
    best = Scored.best(scores, 3)
    assert best.items.tolist() == [[1, 2, 3], [0, 3, 2]]
    assert best.scores.tolist() == [[3, 3, 1], [5, 3, 2]]
    assert best.top(2).tolist() == [[1, 2], [0, 3]]
    assert best.top(2, np.array([-9.0, -2.5, 0, 0])).tolist() == [[2, 3], [3, 2]]
    assert Scored.best(scores, 9).items.shape == (2, 4)


def test_no_item_is_shown_more_than_the_bound_allows() -> None:
    """Without a tilt five items have all the exposure; with it none has more than the bound, on other users too."""
    users, others = Scored.best(people(600, crowd=5), 40), Scored.best(people(600, crowd=5), 40)
    assert exposure(others.top(5), 40).max() > 0.18
    tilt = fit_tilt(users, NO_GENRES, NO_SHARES, cap=0.06)
    assert (tilt.penalty >= 0).all()
    assert (tilt.penalty[5:] < tilt.penalty[:5].min()).all()
    assert exposure(others.top(5, tilt.offset(NO_GENRES)), 40).max() < 0.06 * 1.25


def test_equals_the_optimum_that_can_be_computed() -> None:
    """One item leads all others by a margin, uniform on [0, 10]: lowered by lambda it is first for 1 - lambda/10.

    Elsewhere it falls behind all others and is not shown, so its exposure is .6 (1 - lambda/10) + .1 of nothing, and
    the bound .3 wants lambda = 5. The others take turns, none near the bound.
    """
    n, items = 4000, 24
    scores = np.tile(-1e-3 * RANDOM.random((n, 1)), (1, items)) - 1e-6 * RANDOM.permuted(
        np.tile(np.arange(items), (n, 1)), axis=1
    )
    scores[:, 0] = 10 * RANDOM.random(n)
    tilt = fit_tilt(Scored.best(scores, items), np.zeros((items, 0)), NO_SHARES, cap=0.3)
    assert tilt.penalty[0] == pytest.approx(5, abs=0.5)
    assert tilt.penalty[1:].max() < 0.02


def test_equals_the_steps_of_the_description() -> None:
    """Written out list by list: exposure of half and tenths, both rules of lambda, that of mu, the mean of the end.

    The first item is far ahead of all others, so that it is shown to all until it is shown to none, and decays.
    """
    n, items, cap, shares = 450, 12, 0.17, np.array([0.6, 0.4])
    scores, genres = 0.1 * RANDOM.normal(size=(n, items)), np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0]] * 3)
    scores[:, 0] = 2.5
    rng, penalty, favour = np.random.default_rng(7), np.zeros(items), np.zeros(2)
    mean_penalty, mean_favour, decays = np.zeros(items), np.zeros(2), 0
    for step in range(150):
        size, shown = 1 / np.sqrt(1 + step / 40), np.zeros(items)
        offset = [(own - shares * own.sum()) @ favour - penalty[item] for item, own in enumerate(genres)]
        for row in rng.permutation(n)[:400]:
            best = np.argsort(-(scores[row] + offset), kind="stable")[:5]
            shown[best[0]] += 0.5 / 400
            shown[best] += 0.5 / 5 / 400
        for item in range(items):
            change = 25 * (shown[item] - cap) if shown[item] > 0 else -0.001
            decays += shown[item] == 0 and penalty[item] > 0
            penalty[item] = max(0, penalty[item] + size * change)
        favour -= size * (shown @ genres / (shown @ genres).sum() - shares)
        if step >= 75:
            mean_penalty += penalty / 75
            mean_favour += favour / 75
    tilt = fit_tilt(Scored.best(scores, items), genres, shares, cap, seed=7)
    assert decays > 10
    np.testing.assert_allclose(tilt.penalty, mean_penalty, atol=1e-9)
    np.testing.assert_allclose(tilt.favour, mean_favour, atol=1e-9)


def test_genres_of_the_lists_come_to_the_shares_of_the_histories() -> None:
    genres = np.zeros((40, 3))
    genres[np.arange(40), np.arange(40) % 3] = 1
    genres[39] = 0
    shares = np.array([0.5, 0.3, 0.2])
    users, others = Scored.best(people(600, crowd=1), 40), Scored.best(people(600, crowd=1), 40)

    def distance(offset: np.ndarray | None) -> float:
        mass = exposure(others.top(5, offset), 40) @ genres
        return float(np.abs(mass / mass.sum() - shares).mean())

    tilt = fit_tilt(users, genres, shares, cap=None)
    assert (tilt.penalty == 0).all()
    assert distance(None) > 0.08
    assert distance(tilt.offset(genres)) < 0.02


def test_no_list_depends_on_who_else_is_asked() -> None:
    genres = np.eye(4)[np.arange(40) % 4]
    tilt = fit_tilt(Scored.best(people(300), 40), genres, np.array([0.4, 0.3, 0.2, 0.1]), cap=0.06)
    asked, offset = Scored.best(people(50), 20), tilt.offset(genres)
    together = asked.top(5, offset)
    alone = [asked.take(np.array([row])).top(5, offset)[0].tolist() for row in range(50)]
    halves = np.concatenate([asked.take(np.arange(25)).top(5, offset), asked.take(np.arange(25, 50)).top(5, offset)])
    assert together.tolist() == alone == halves.tolist()
    assert together.tolist() != asked.top(5).tolist()


def test_same_seed_same_tilt() -> None:
    users = Scored.best(people(500), 40)
    first, again, other = (fit_tilt(users, NO_GENRES, NO_SHARES, 0.06, seed) for seed in (0, 0, 1))
    assert first.penalty.tolist() == again.penalty.tolist() != other.penalty.tolist()


def test_bound_that_cannot_be_kept_is_refused() -> None:
    users = Scored.best(people(20), 40)
    with pytest.raises(
        UserError, match=r"a catalog of 40 items cannot bound the exposure of each by 0\.049: that bound needs 41"
    ):
        fit_tilt(users, NO_GENRES, NO_SHARES, cap=0.049)
    fit_tilt(users, NO_GENRES, NO_SHARES, cap=0.05)
    with pytest.raises(UserError, match="a tilt is learned on users who are not tested, with 5 candidates"):
        fit_tilt(users.take(np.arange(0)), NO_GENRES, NO_SHARES, cap=None)


def test_users_for_whom_few_items_are_left_count_with_these() -> None:
    """Excluded items are -1 with a score of -inf; a tilt neither shows them nor stumbles over them."""
    users = Scored.best(people(300, crowd=5), 40)
    users.items[:100, 3:], users.scores[:100, 3:] = -1, -np.inf
    tilt = fit_tilt(users, NO_GENRES, NO_SHARES, cap=0.06)
    lists = users.top(5, tilt.offset(NO_GENRES))
    assert ((lists == -1).sum(1) == np.repeat([2, 0], [100, 200])).all()
    assert (lists[:100, 3:] == -1).all()


def test_ndcg_by_hand() -> None:
    lists = np.array([[3, 1], [2, 5], [1, 4]])
    assert ndcg(lists, np.array([3, 5, 0])) == pytest.approx((1 + 1 / np.log2(3)) / 3)


def test_chooses_the_smallest_bound_that_keeps_the_accuracy() -> None:
    """Targets are what the scores say with some noise: a bound of .3 changes nothing, one of .1 something."""
    truth = people(400, crowd=1)
    targets = np.argmax(truth + RANDOM.normal(size=truth.shape) * 0.3, axis=1)
    valid, held = Scored.best(truth, 40), Scored.best(people(200, crowd=1), 40)
    chosen = choose_tilt(valid, targets, held, NO_GENRES, NO_SHARES, caps=(None, 0.3, 0.1, 0.01))
    assert list(chosen.kept) == [None, 0.3, 0.1]  # .01 is not possible with 40 items
    assert [chosen.kept[None], chosen.kept[0.3]] == pytest.approx([1, 1])
    caps = (0.3, 0.1, 0.08, 0.07, 0.06)
    chosen = choose_tilt(valid, targets, held, NO_GENRES, NO_SHARES, caps=caps)
    assert any(0.9 <= kept < 0.97 for kept in chosen.kept.values()), "97% decides here"
    assert chosen.cap == min(cap for cap in caps if chosen.kept[cap] >= 0.97)


def test_keeps_what_is_where_nothing_keeps_the_accuracy() -> None:
    """The first item is everybody's target and recommendation: any bound loses accuracy."""
    scores = people(200) + 20 * (np.arange(40) == 0)
    valid = Scored.best(scores, 40)
    chosen = choose_tilt(valid, np.zeros(200, int), valid, NO_GENRES, NO_SHARES, caps=(0.1, 0.05))
    assert max(chosen.kept.values()) < 0.9
    assert chosen.cap is None
    assert not chosen.tilt.offset(NO_GENRES).any()


def test_halves_are_measured_by_the_tilt_of_the_other_half() -> None:
    """With one bound the result is computed again, step by step."""
    valid, targets = Scored.best(people(101), 40), RANDOM.integers(0, 40, 101)  # by chance: a bound costs nothing
    held = Scored.best(people(30), 40)
    chosen = choose_tilt(valid, targets, held, NO_GENRES, NO_SHARES, caps=(0.06,), seed=3)
    rng, found, tilts = np.random.default_rng(3), 0.0, []
    for _ in range(3):
        order = rng.permutation(101)
        one, two = np.sort(order[::2]), np.sort(order[1::2])
        for own, other in ((one, two), (two, one)):
            tilts.append(fit_tilt(valid.take(own) + held, NO_GENRES, NO_SHARES, 0.06, 3))
            lists = valid.take(other).top(5, tilts[-1].offset(NO_GENRES))
            found += len(other) * ndcg(lists, targets[other])
    assert chosen.kept[0.06] == pytest.approx(found / 303 / ndcg(valid.top(5), targets))
    if chosen.cap is not None:
        np.testing.assert_allclose(chosen.tilt.penalty, np.mean([tilt.penalty for tilt in tilts], axis=0))


def test_marginal_offset_by_hand() -> None:
    """Two users, mean p (.5, .3, .2). At strength 1 the first one's order is that of 1.1, 1.33 and .25."""
    p = np.array([[0.55, 0.4, 0.05], [0.45, 0.2, 0.35]])
    np.testing.assert_allclose(marginal_offset(np.log(p), 0.5), -0.5 * np.log([0.5, 0.3, 0.2]))
    assert top_columns(np.log(p) + marginal_offset(np.log(p), 1.0), 3).tolist() == [[1, 0, 2], [2, 0, 1]]
