"""How lists share attention among items, by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sprec.evaluation import Cases, CatalogFacts, accumulate
from sprec.runs import Recommender
from sprec.serve.exposure import exposure_of, recorded


def cases(lists: list[list[int]], popularity: list[int]) -> Cases:
    """Lists for cases without histories."""
    facts = CatalogFacts(np.array(popularity), [()] * len(popularity))
    nothing = np.zeros(len(lists) + 1, dtype=int)
    return accumulate(lists, nothing[1:], [], nothing, np.zeros((len(popularity), 0)), [len(lists[0])], facts)


def test_four_items_and_two_lists() -> None:
    """Item 0 is in both lists, 1 and 2 in one, 3 in none; 0 alone has 80% of the interactions."""
    found = exposure_of("by hand", cases([[0, 1], [0, 2]], [8, 1, 1, 0]))
    assert (found.name, found.lists) == ("by hand", 2)
    assert found.lorenz[::25] == pytest.approx([0, 0, 0.25, 0.5, 1])
    assert found.lorenz[10] == 0
    assert found.lorenz[90] == pytest.approx(0.5 + 0.5 * 0.6)
    assert found.gini == pytest.approx(((-1) * 1 + 1 * 1 + 3 * 2) / (4 * 4))
    assert (found.covered, found.tail) == (0.75, 0.5)
    assert found.top == [(0, 1.0), (1, 0.5), (2, 0.5)]


def test_short_lists_and_a_catalog_without_interactions() -> None:
    found = exposure_of("short", cases([[1, -1], [-1, -1]], [0, 0]))
    assert found.lorenz[::50] == [0, 0, 1]
    assert (found.gini, found.covered, found.tail, found.top) == (0.5, 0.5, None, [(1, 0.5)])


def test_alike_exposure_is_the_diagonal() -> None:
    found = exposure_of("alike", cases([[0, 1], [1, 0]], [1, 1]))
    assert found.lorenz == pytest.approx(np.linspace(0, 1, 101))
    assert found.gini == pytest.approx(0)


def test_a_run_has_its_lists_on_record_or_none(shop: Path, tmp_path: Path) -> None:
    """By popularity, all ten test cases got the same five items."""
    (found,) = recorded(Recommender.load(shop / "run").session)
    assert (found.name, found.lists, found.covered) == ("popularity", 10, 5 / 30)
    assert [share for _, share in found.top] == [1.0] * 5
    shutil.copytree(shop / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stages")
    assert recorded(Recommender.load(tmp_path / "run").session) == []
