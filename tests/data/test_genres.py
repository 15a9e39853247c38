import pytest

from sprec.data import Catalog, Split
from sprec.data.genres import check_genres, count_genres, select_genres
from sprec.errors import UserError

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
