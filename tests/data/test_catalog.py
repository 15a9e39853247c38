import time
from pathlib import Path

import numpy as np
import pytest

from sprec.data import Catalog
from sprec.system.errors import UserError

CATALOG = Catalog.of(
    ["Dune", "Emma", "Dune", "Der Prozeß"],
    [["sci-fi", "classic"], ["romance", "classic", "humour"], [], ["classic"]],
)


def test_items_that_share_a_title_are_all_known_and_the_first_is_found() -> None:
    assert CATALOG.by_title["Dune"] == 0
    assert CATALOG.items_of_title["Dune"] == (0, 2)
    assert CATALOG.items_of_title["Emma"] == (1,)


@pytest.mark.parametrize(("title", "item"), [("Emma", 1), ("EMMA", 1), ("der prozess", 3)])
def test_find_ignores_case_where_it_must(title: str, item: int) -> None:
    assert CATALOG.find(title) == item


def test_titles_are_looked_up_as_they_were_tidied() -> None:
    catalog = Catalog.of(["Café Noir", "Tom & Sons", "\u200eHonky Château", "Dune", "DUNE"])
    assert catalog.find("Cafe\u0301  Noir") == 0
    assert catalog.find("CAFE\u0301 NOIR") == 0
    assert catalog.find(" Tom &amp;amp; Sons\n") == 1
    assert catalog.find("honky cha\u0302teau") == 2
    assert [catalog.find(title) for title in ("Dune", "DUNE", "dune")] == [3, 4, 3]
    assert (catalog.lookup("Cafe"), catalog.lookup("\x1b[1mDune")) == (None, 3)
    decomposed = Catalog.of(["Cafe\u0301"])  # a catalog with uncleaned titles
    assert (decomposed.find("Café"), decomposed.find("Cafe\u0301")) == (0, 0)


def test_a_miss_in_a_large_catalog_costs_no_second() -> None:
    catalog = Catalog.of(f"{word} {number}" for number in range(50_000) for word in ("Blue Night", "River Stone"))
    assert catalog.lookup("Blue Night 7") == 14
    started = time.perf_counter()
    for number in range(5):
        with pytest.raises(UserError, match='closest: "Blue Night'):
            catalog.find(f"Blu Nigth {number}x")
    assert time.perf_counter() - started < 2.5  # difflib took that many seconds for each


def test_items_that_share_a_title_are_twins() -> None:
    assert CATALOG.twins == {0: (0, 2), 2: (0, 2)}
    assert CATALOG.sharing == 2


def test_an_unknown_title_is_answered_with_the_closest_ones() -> None:
    with pytest.raises(UserError, match='no item is titled "Dunes"; closest: "Dune"'):
        CATALOG.find("Dunes")


def test_genre_matrix_shares_an_item_between_its_selected_genres() -> None:
    expected = np.array([[0, 1], [0.5, 0.5], [0, 0], [0, 1]])
    assert np.array_equal(CATALOG.genre_matrix(["romance", "classic"]), expected)


def test_a_catalog_survives_its_file(tmp_path: Path) -> None:
    CATALOG.frame().write_parquet(tmp_path / "items.parquet")
    assert Catalog.load(tmp_path / "items.parquet") == CATALOG


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        Catalog(("a",), (), ("0",))
