from pathlib import Path

import pytest

from sprec.data import Catalog, Split
from sprec.data.genres import check_genres, count_genres, hierarchical_parents, select_genres
from sprec.data.readers.sprec import read
from sprec.system.errors import UserError

CATALOG = Catalog.of("abcd", [["Drama", "Crime"], ["Drama"], [], ["Western"]])


def test_genres_are_counted_over_histories_and_targets_of_the_training_rows() -> None:
    train = Split.of([([0, 1, 0], 1), ([2], 0)])
    assert count_genres(CATALOG, train) == {"Drama": 5, "Crime": 3}


def test_the_most_frequent_genres_are_selected_equal_ones_by_name() -> None:
    counts = {"b": 2, "a": 2, "c": 9, "d": 1}
    assert select_genres(counts, top=3) == ("c", "a", "b")
    assert select_genres(counts, top=2, exclude=["c"]) == ("a", "b")


def test_a_given_list_keeps_its_order_and_loses_doubles() -> None:
    assert check_genres(CATALOG, ["Western", "Drama", "Western"]) == ("Western", "Drama")


def test_an_unknown_genre_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match='no item has the genre "Noir"; genres: Drama, Crime, Western'):
        check_genres(CATALOG, ["Drama", "Noir"])


def test_parents_that_say_nothing_of_their_own_are_found() -> None:
    kinds = [["Music", "Rock"], ["Music", "Rock", "Punk"], ["Music", "Jazz"], ["Music", "Jazz"], ["Music", "Rock"]]
    assert hierarchical_parents(Catalog.of("abcde", kinds)) == {"Music"}  # Rock has an item that is no Punk
    assert hierarchical_parents(Catalog.of("abcdef", [*kinds, ["Music"]])) == set()
    assert hierarchical_parents(Catalog.of("ab", [["Same", "Twin"], ["Same", "Twin"]])) == set()
    assert hierarchical_parents(Catalog.of("a")) == set()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "parents"),
    [("CDs_and_Vinyl", {"CDs & Vinyl", "Progressive"}), ("Goodreads", set()), ("MovieLens", set()), ("Steam", set())],
)
def test_parents_of_the_papers_catalogs(shared_data: Path, name: str, parents: set[str]) -> None:
    found = hierarchical_parents(read(shared_data / "sprec", name).catalog)
    assert found & {"CDs & Vinyl", "Progressive", "fiction", "Drama", "Indie"} == parents
