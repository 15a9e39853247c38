import json
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data import Catalog, Dataset, Example, Split, Wording
from sprec.system.errors import UserError

examples = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=5), st.integers(0, 9)), max_size=8)


def dataset(train: Split) -> Dataset:
    return Dataset(
        name="tiny",
        catalog=Catalog.of([f"title {i}" for i in range(10)]),
        splits={"train": train, "valid": Split.of([]), "test": Split.of([([], 3), ([1, 2], 0)])},
        genres=("drama",),
        wording=Wording("Recommend.", "Seen: ", ".", "films"),
        warnings={"seen_targets_kept": 2},
        meta={"source": {"format": "none"}},
    )


@given(examples)
def test_a_split_gives_back_what_it_was_made_of(rows: list[tuple[list[int], int]]) -> None:
    split = Split.of(rows)
    assert list(split) == [Example(tuple(history), target) for history, target in rows]
    assert [split.history(row).tolist() for row in range(len(split))] == [history for history, _ in rows]


@given(examples.filter(bool), st.data())
def test_take_and_slices_pick_rows(rows: list[tuple[list[int], int]], data: st.DataObject) -> None:
    split = Split.of(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    assert list(split.take(chosen)) == [split[row] for row in chosen]
    assert list(split[1::2]) == list(split)[1::2]
    assert split[-1] == list(split)[-1]


@given(examples, examples)
def test_splits_add_up(left: list[tuple[list[int], int]], right: list[tuple[list[int], int]]) -> None:
    assert list(Split.of(left) + Split.of(right)) == [*Split.of(left), *Split.of(right)]


def test_a_dataset_survives_its_directory(tmp_path: Path) -> None:
    before = dataset(Split.of([([1, 2, 3], 4), ([], 5), ([6], 7)]))
    after = before.save(tmp_path / "deep" / "tiny")
    assert after.catalog == before.catalog
    assert list(after.train) == list(before.train)
    assert list(after.test) == list(before.test)
    assert (len(after.valid), len(after.extra)) == (0, 0)
    assert (after.name, after.genres, after.wording) == (before.name, before.genres, before.wording)
    assert (after.warnings, after.meta) == (before.warnings, before.meta)
    about = json.loads((tmp_path / "deep/tiny/dataset.json").read_text())
    tables = {name: (tmp_path / "deep/tiny" / name).read_bytes() for name in ("items.parquet", "sequences.parquet")}
    assert about["bytes"] == {name: len(content) for name, content in tables.items()}
    assert about["sha256"] == {name: sha256(content).hexdigest() for name, content in tables.items()}
    assert about["versions"]["polars"] == version("polars")


def test_a_table_in_pieces_is_the_table_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split.of([([3, 1], 2), ([], 0), ([7], 1), ([], 3), ([5, 6, 7], 8)])
    expected = [[3, 1], [], [7], [], [5, 6, 7]]
    for rows in (1, 2, 5, 100):
        monkeypatch.setattr("sprec.data.dataset._ROWS", rows)
        table = split.frame("test")
        assert table["history"].to_list() == expected
        assert table["history"].n_chunks() == 1
        assert table["target"].to_list() == [2, 0, 1, 3, 8]


def test_the_hash_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    one = dataset(Split.of([([1], 2)]))
    hashes = [one.save(tmp_path / "a").hash, one.save(tmp_path / "b").hash]
    other = dataset(Split.of([([1], 3)])).save(tmp_path / "c").hash
    assert hashes[0] == hashes[1] != other


def test_saving_twice_needs_overwrite_and_leaves_nothing_beside(tmp_path: Path) -> None:
    dataset(Split.of([([1], 2)])).save(tmp_path / "tiny")
    with pytest.raises(UserError, match="tiny already exists; pass --overwrite"):
        dataset(Split.of([([1], 3)])).save(tmp_path / "tiny")
    again = dataset(Split.of([([1], 3)])).save(tmp_path / "tiny", overwrite=True)
    assert again.train[0] == Example((1,), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_overwrite_spares_what_is_not_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match="already exists"):
        dataset(Split.of([])).save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis").is_dir()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*tiny"):
        dataset(Split.of([])).save(tmp_path / "file" / "tiny")


def damage_table(folder: Path) -> None:
    file = folder / "items.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def truncate_json(folder: Path) -> None:
    file = folder / "dataset.json"
    file.write_text(file.read_text()[:40])


def newer_format(folder: Path) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_table, "items.parquet does not match the hash"),
        (truncate_json, "dataset.json is not valid JSON"),
        (newer_format, "dataset.json has format 2, this version reads 1"),
        (lambda folder: (folder / "sequences.parquet").unlink(), "cannot read .*sequences.parquet"),
        (lambda folder: (folder / "dataset.json").unlink(), "is not a dataset"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    dataset(Split.of([([1], 2)])).save(tmp_path / "tiny")
    harm(tmp_path / "tiny")
    with pytest.raises(UserError, match=message):
        Dataset.load(tmp_path / "tiny")
