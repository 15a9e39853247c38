import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sprec.data import Example
from sprec.data.readers.sprec import read
from sprec.system.errors import UserError

CATALOG = {"Dune": ["sci-fi"], "Emma": ["romance", "classic"], "Ulysses": ["classic"], 'Say "No"': []}
TRAIN = [(["Dune", "Dune", "Emma"], "Ulysses"), (["Emma", "Unheard"], "Emma"), (["Dune"], "<span class=")]
TEST = [(["Ulysses"], 'Say "No"')]


def test_rows_are_repaired_or_dropped_and_every_fault_is_counted(layout: Callable[..., Path]) -> None:
    source = layout(CATALOG | {", ": []}, train=[*TRAIN, (["Unheard"], "Dune"), (["Dune"], "Unheard")], test=TEST)
    dataset = read(source, "Books")
    assert list(dataset.train) == [Example((0, 0, 1), 2), Example((1,), 1)]
    assert list(dataset.test) == [Example((2,), 3)]
    assert dataset.catalog.titles == tuple(CATALOG)
    assert dataset.catalog.source_ids == ("10", "11", "12", "13")
    assert dataset.warnings == {
        "catalog_items_without_genre": 1,
        "catalog_junk_titles_dropped": 1,
        "catalog_quoted_titles_kept": 1,
        "consecutive_repeats_kept": 1,
        "seen_targets_kept": 1,
        "train_history_titles_dropped_unknown": 2,
        "train_rows_dropped_empty_history": 1,
        "train_rows_dropped_junk_target": 1,
        "train_rows_dropped_unknown_target": 1,
    }


def test_titles_that_become_equal_and_long_ones_are_counted_and_kept(layout: Callable[..., Path]) -> None:
    titles = ["Dune", "A  Clash", "A Clash", "A   Clash", "x" * 150, "y" * 151]
    rows = {"train": [(["Dune"], "A Clash")], "test": [(["A  Clash"], "Dune")]}
    dataset = read(layout({title: ["sci-fi"] for title in titles}, **rows), "Books")
    assert dataset.catalog.titles[1:4] == ("A Clash",) * 3
    assert list(dataset.train) == [Example((0,), 2)]
    counted = {"catalog_long_titles_kept": 1, "catalog_shared_titles_kept": 2, "catalog_titles_tidied": 2}
    assert dataset.warnings == counted


def test_titles_with_half_of_a_character_are_junk(layout: Callable[..., Path], tmp_path: Path) -> None:
    source = layout(CATALOG, train=TRAIN, test=TEST)
    names = {"10": "Dune", "11": "Emma \ud83d", "\ud83d": "Ulysses", "13": 'Say "No"'}
    (source / "eval" / "Books" / "id2name.json").write_text(json.dumps(names))
    rows = json.loads((source / "data" / "Books" / "test.json").read_text("utf-8"))
    (source / "data" / "Books" / "test.json").write_text(
        json.dumps([*rows, rows[0] | {"output": '"\ud83d"'}, rows[0] | {"input": 'Read "Dune"'}])
    )
    with pytest.raises(UserError, match=r"train.json: no row is left"):
        read(source, "Books")
    (source / "data" / "Books" / "train.json").write_text(json.dumps([rows[0] | {"input": 'Read "Dune", "\ud83d"'}]))
    dataset = read(source, "Books").save(tmp_path / "data")
    assert dataset.catalog.titles == ("Dune", 'Say "No"')
    assert dataset.warnings["catalog_junk_titles_dropped"] == 2
    assert dataset.warnings["train_history_titles_dropped_junk"] == 1
    assert dataset.warnings["test_rows_dropped_junk_target"] == 1


def test_names_that_are_not_utf8_are_one_line(layout: Callable[..., Path]) -> None:
    source = layout(train=TRAIN, test=TEST)
    (source / "data" / "Books").rename(source / "data" / os.fsdecode(b"Books\xff"))
    with pytest.raises(UserError, match=r"^Books\? has a name that is not UTF-8; rename it"):
        read(source)


def test_repeats_and_seen_targets_are_dropped_on_request(layout: Callable[..., Path]) -> None:
    dataset = read(layout(CATALOG, train=TRAIN, test=TEST), "Books", drop_repeats=True, drop_seen_targets=True)
    assert list(dataset.train) == [Example((0, 1), 2)]
    assert dataset.warnings["consecutive_repeats_dropped"] == 1
    assert dataset.warnings["seen_targets_dropped"] == 1


def test_extra_is_the_larger_validation_file_without_the_validation_rows(layout: Callable[..., Path]) -> None:
    valid = [(["Dune"], "Emma"), (["Emma"], "Dune")]
    dataset = read(layout(CATALOG, train=TRAIN, test=TEST, valid=valid, valid_4096=[*valid, (["Dune"], "Ulysses")]))
    assert list(dataset.valid) == [Example((0,), 1), Example((1,), 0)]
    assert list(dataset.extra) == [Example((0,), 2)]


def test_genres_come_from_the_call_then_the_file_then_the_training_set(layout: Callable[..., Path]) -> None:
    source = layout(CATALOG, ["romance"], train=TRAIN, test=TEST)
    assert read(source, "Books", genres=["classic", "sci-fi"]).genres == ("classic", "sci-fi")
    assert read(source, "Books").genres == ("romance",)
    (source / "eval" / "Books" / "genre_dict.json").unlink()
    assert read(source, "Books").genres == ("classic", "romance", "sci-fi")  # 4, 3 and 2 times in the training rows


def test_without_metadata_the_catalog_is_made_of_the_titles(layout: Callable[..., Path]) -> None:
    source = layout(train=[(['A", "B', "Dune"], "Emma"), (["Dune", "AmÃ©lie"], 'A", "B')], test=[(["Emma"], "Amélie")])
    dataset = read(source)
    assert dataset.name == "Books"
    assert dataset.catalog.titles == ("Emma", 'A", "B', "Amélie", "Dune")
    assert list(dataset.train) == [Example((1, 3), 0), Example((3, 2), 1)]
    assert dataset.genres == ()
    assert dataset.warnings == {"catalog_quoted_titles_kept": 1, "double_encoded_titles": 1}


def test_a_folder_of_records_is_read_as_it_is(rows_file: Callable[..., Path]) -> None:
    rows_file([(["Dune"], "Emma")], "train.json")
    folder = rows_file([(["Emma"], "Dune")], "test.json").parent
    dataset = read(folder, "mine")
    assert (dataset.name, len(dataset.train), len(dataset.valid), len(dataset.test)) == ("mine", 1, 0, 1)


@pytest.mark.parametrize(
    ("splits", "name", "message"),
    [
        ({"train": TRAIN}, "Books", "test.json is missing"),
        ({"train": TRAIN, "test": []}, "Books", "test.json holds no records"),
        ({"train": TRAIN, "test": [(["Dune"], "Unheard")]}, "Books", "test.json: no row is left whose target"),
        ({"train": TRAIN, "test": TEST}, "Films", 'no dataset "Films"; datasets: Books'),
        ({}, None, r"give --name; datasets: none \(no \*/train.json\)"),
    ],
)
def test_impossible_sources_are_one_line(
    layout: Callable[..., Path], splits: dict[str, list[tuple[list[str], str]]], name: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(layout(CATALOG, **splits), name)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("id2name.json", {"0": 5}, "the title of 0 must be text, found 5"),
        ("id2name.json", ["Dune"], "id2name.json must hold a JSON object, found list"),
        ("name2genre.json", {"Dune": "sci-fi"}, "the genres of a title must be a list of texts, found 'sci-fi'"),
        ("name2genre.json", {"Dune": "{'a': 1}"}, "the genres of a title must be a list of texts, found {'a': 1}"),
        ("genre_dict.json", {"noir": 0}, 'no item has the genre "noir"; genres: classic'),
    ],
)
def test_malformed_metadata_is_one_line(layout: Callable[..., Path], file: str, content: object, message: str) -> None:
    source = layout(CATALOG, train=TRAIN, test=TEST)
    (source / "eval" / "Books" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read(source, "Books")


def test_lists_of_genres_may_be_written_as_text(layout: Callable[..., Path]) -> None:
    source = layout(CATALOG, train=TRAIN, test=TEST)
    plain = read(source, "Books")
    file = source / "eval" / "Books" / "name2genre.json"
    file.write_text(json.dumps({title: str(genres) for title, genres in json.loads(file.read_text()).items()}))
    assert "['" in file.read_text()
    assert any(plain.catalog.genres)
    assert read(source, "Books").catalog.genres == plain.catalog.genres


ROWS = {  # items, rows kept of train, valid, test and extra, number of selected genres
    "Goodreads": (4_058, 4_090, 511, 1_000, 3_586, 7),
    "MovieLens": (10_681, 4_096, 512, 1_000, 3_584, 9),
    "CDs_and_Vinyl": (13_079, 4_057, 510, 990, 3_560, 11),
    "Steam": (9_265, 4_095, 512, 1_000, 3_592, 10),
}

FAULTS = {
    "Goodreads": {
        "catalog_items_without_genre": 14,
        "catalog_quoted_titles_kept": 1,
        "catalog_shared_titles_kept": 5,
        "catalog_titles_tidied": 26,
        "consecutive_repeats_kept": 8,
        "extra_history_titles_dropped_unknown": 23,
        "extra_rows_dropped_unknown_target": 5,
        "seen_targets_kept": 6,
        "test_history_titles_dropped_unknown": 10,
        "train_history_titles_dropped_unknown": 45,
        "train_rows_dropped_unknown_target": 6,
        "valid_history_titles_dropped_unknown": 2,
        "valid_rows_dropped_unknown_target": 1,
    },
    "MovieLens": {
        "catalog_duplicate_titles_merged": 1,
        "catalog_items_without_genre": 1,
        "catalog_long_titles_kept": 1,
        "catalog_quoted_titles_kept": 2,
        "catalog_titles_tidied": 1,
        "double_encoded_titles": 1_311,
    },
    "CDs_and_Vinyl": {
        "catalog_quoted_titles_kept": 3,
        "catalog_scraped_titles_repaired": 100,
        "catalog_shared_titles_kept": 2,
        "catalog_titles_tidied": 235,
        "consecutive_repeats_kept": 1_389,
        "extra_history_titles_dropped_junk": 122,
        "extra_history_titles_dropped_unknown": 57,
        "extra_rows_dropped_junk_target": 15,
        "extra_rows_dropped_unknown_target": 5,
        "seen_targets_kept": 231,
        "test_history_titles_dropped_junk": 41,
        "test_history_titles_dropped_unknown": 15,
        "test_rows_dropped_junk_target": 7,
        "test_rows_dropped_unknown_target": 3,
        "train_history_titles_dropped_junk": 167,
        "train_history_titles_dropped_unknown": 76,
        "train_rows_dropped_junk_target": 30,
        "train_rows_dropped_unknown_target": 9,
        "valid_history_titles_dropped_junk": 22,
        "valid_history_titles_dropped_unknown": 5,
        "valid_rows_dropped_junk_target": 2,
    },
    "Steam": {
        "catalog_items_without_genre": 280,
        "catalog_junk_titles_dropped": 1,
        "catalog_titles_tidied": 15,
        "consecutive_repeats_kept": 8_107,
        "extra_history_titles_dropped_unknown": 3,
        "seen_targets_kept": 624,
        "train_history_titles_dropped_unknown": 4,
        "train_rows_dropped_unknown_target": 1,
    },
}


WITHOUT_SELECTED_GENRE = {"Goodreads": 24, "MovieLens": 939, "CDs_and_Vinyl": 4_591}
"""Items that have none of the selected genres, counted in the authors' tables of genres."""


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ROWS)
def test_the_papers_datasets_have_these_counts(shared_data: Path, name: str) -> None:
    dataset = read(shared_data / "sprec", name)
    splits = (len(dataset.splits[split]) for split in ("train", "valid", "test", "extra"))
    assert (len(dataset.catalog), *splits, len(dataset.genres)) == ROWS[name]
    assert dataset.warnings == FAULTS[name]
    unselected = int((dataset.catalog.genre_matrix(dataset.genres).sum(1) == 0).sum())
    assert unselected == WITHOUT_SELECTED_GENRE.get(name, unselected)
    assert dataset.wording.noun == {"CDs_and_Vinyl": "musics", "Goodreads": "books"}.get(
        name, "games" if name == "Steam" else "movies"
    )


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["Goodreads", "CDs_and_Vinyl"])
def test_options_drop_what_the_defaults_keep(shared_data: Path, name: str) -> None:
    kept = read(shared_data / "sprec", name)
    dropped = read(shared_data / "sprec", name, drop_repeats=True, drop_seen_targets=True)
    lost = sum(len(kept.splits[split]) - len(dropped.splits[split]) for split in kept.splits)
    assert lost == FAULTS[name]["seen_targets_kept"] == dropped.warnings["seen_targets_dropped"]
    assert not any(row.target in row.history for row in dropped.train)
    assert not any(a == b for row in dropped.train for a, b in zip(row.history, row.history[1:], strict=False))
