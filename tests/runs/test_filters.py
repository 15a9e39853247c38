"""Filters: lists are the rest of the whole ranking, as long as something is left."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprec.runs import Recommender
from sprec.system.errors import UserError
from toy_runs import Cli

HISTORIES = [[3, 1], [7], [2, 5, 9, 11, 4]]


@pytest.fixture(scope="module")
def recommender(toy_run: Path) -> Recommender:
    return Recommender.load(toy_run, ["recommend.beams=5", "sasrec.epochs=2"])


@pytest.fixture(scope="module", params=["paper", "exact", "d3", "d3-grounded", "sasrec", "knn", "popularity"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_lists_are_what_is_left_of_the_whole_ranking(recommender: Recommender, protocol: str) -> None:
    """With d3 the items are the same, in another order."""
    items = len(recommender.catalog)
    settings: dict[str, Any] = {"protocol": protocol, "exclude_history": True}
    ranked = recommender.recommend(HISTORIES, items, **settings | {"exclude_history": False})
    allow = np.random.default_rng(1).permutation(items)[:40].tolist()
    block, blocks = allow[:5], [[allow[5]], [], allow[6:9]]
    k = items if protocol.startswith("d3") else 7
    found = recommender.recommendations(HISTORIES, k, allow=allow, block=block, blocks=blocks, **settings)
    for row, (history, own) in enumerate(zip(HISTORIES, blocks, strict=True)):
        gone = {*history, *block, *own}
        left = [item for item in ranked[row] if item in allow and item not in gone]
        expected = (left + [-1] * items)[:k]
        if protocol.startswith("d3"):  # what the assistant makes of a title depends on what else there is
            assert sorted(found.items[row].tolist()) == sorted(expected)
        else:
            assert found.items[row].tolist() == expected
    if found.scores is not None:
        assert ((found.items < 0) == (found.scores == -np.inf)).all()


@pytest.mark.parametrize("protocol", ["paper", "exact", "consensus", "sasrec", "popularity", "random"])
def test_all_that_are_left_are_found(recommender: Recommender, protocol: str) -> None:
    """Three items are allowed; one is blocked for the second history, and two are in the third."""
    allow = [20, 2, 5]
    lists = recommender.recommend(
        HISTORIES, 4, allow=allow, blocks=[[], [20], []], protocol=protocol, exclude_history=True
    )
    assert [sorted(own) for own in lists] == [[-1, 2, 5, 20], [-1, -1, 2, 5], [-1, -1, -1, 20]]


def test_filters_by_title_genre_and_unknown_names(recommender: Recommender) -> None:
    catalog = recommender.catalog
    genre = catalog.genres[10][0]
    lists = recommender.recommend(HISTORIES, 5, genres=[genre], block=[catalog.titles[10]])
    assert all(genre in catalog.genres[item] and item != 10 for own in lists for item in own)
    same = recommender.recommend([["No such film", 3, 1], ["No such film", 7], HISTORIES[2]], 5, unknown="skip",
                                 genres=[genre], block=[10, "Nor this one"])  # fmt: skip
    assert same == lists
    with pytest.raises(UserError, match=r'^no item is titled "No such film"'):
        recommender.recommend([["No such film"]])
    with pytest.raises(UserError, match=r'^history 2: no item is titled "No such film"'):
        recommender.recommend([[1], [2], [1, "No such film"]])
    with pytest.raises(UserError, match=r"^history 1: there is no item 99999; ids go from 0"):
        recommender.recommend([[1], [99999]])
    with pytest.raises(UserError, match=r'^blocks 1: no item is titled "No such film"'):
        recommender.recommend([[1], [2]], blocks=[[], ["No such film"]])
    with pytest.raises(UserError, match=f'no item has the genre "{genre[:-1]}"; there are .*{genre}'):
        recommender.recommend([[1]], genres=[genre[:-1]])
    with pytest.raises(UserError, match="no item of the catalog is left that may be recommended"):
        recommender.recommend([[1]], allow=[4], block=[4])
    with pytest.raises(UserError, match="blocks has 1 entries for 2 histories"):
        recommender.recommend([[1], [2]], blocks=[[3]])


@pytest.mark.parametrize("protocol", ["paper", "exact"])
def test_somebody_without_a_history_gets_what_is_popular(recommender: Recommender, protocol: str) -> None:
    popular = recommender.recommend([[0]], 5, protocol="popularity", block=[4])
    alone = recommender.recommendations([[3, 1]], 5, protocol=protocol, block=[4])
    found = recommender.recommendations([[], [3, 1], ["?"]], 5, protocol=protocol, block=[4], unknown="skip")
    assert found.items.tolist() == [popular[0], alone.items[0].tolist(), popular[0]]
    assert found.popular is not None
    assert found.popular.tolist() == [True, False, True]
    assert found.titles[1:2] == alone.titles
    assert (found.proven is None) == (protocol == "paper")
    assert recommender.recommend([[]], 5, protocol=protocol, block=[4]) == popular
    assert recommender.recommendations([], 5, protocol=protocol).items.shape == (0, 5)


def test_the_command_says_in_json_whether_a_list_is_proven(cli: Cli, toy_run: Path, recommender: Recommender) -> None:
    asked = ("recommend", toy_run, "--history", recommender.catalog.titles[3], "--json", "-k", 2)
    exact = json.loads(cli(*asked, "--set", "recommend.protocol=exact").stdout)
    found = recommender.recommendations([[3]], 2, protocol="exact")
    assert found.proven is not None
    assert [(one["item"], one["proven"]) for one in exact] == [(item, True) for item in found.items[0].tolist()]
    assert found.proven.tolist() == [True]
    assert all("proven" not in one for one in json.loads(cli(*asked).stdout))
