"""Exactly the named files are used, and only names that files can have."""

import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from sprec.cli.data import app
from sprec.data import Catalog, Dataset, Split, Wording
from sprec.data.logs import import_log
from sprec.data.windows import Protocol, Sizes
from sprec.system import storage
from sprec.system.errors import UserError

PATTERNS = ["a[1]", "a*", "a?", "[!a]", "~", "~root", "a%20b", "s3:", "#a"]
TINY = Protocol(history=2, min_history=1, min_length=1, sizes=Sizes(5, 5, 5, 5))


def dataset(title: str = "Tea", name: str = "tiny") -> Dataset:
    rows = Split.of([((0,), 1)])
    splits = {"train": rows, "test": rows}
    return Dataset(name, Catalog.of([title, "Pot"]), splits, (), Wording("Recommend.", "Seen: ", "."))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_dataset_is_read_from_the_folder_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Another folder nearby would match the name as a pattern, and come first."""
    monkeypatch.chdir(tmp_path)
    for other in ("a1", "a", "0"):
        dataset("Wrong").save(other)
    saved = dataset("Right").save(Path(pattern))
    loaded = Dataset.load(Path(pattern))
    assert loaded.catalog.titles == ("Right", "Pot")
    assert loaded.hash == saved.hash


LOG = "user,item,time\n" + "".join(f"u{i // 4},{'abcd'[i % 4]},{1_500_000_000 + i}\n" for i in range(12))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_log_is_read_from_the_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, prefix in (("a1", "Wrong"), ("a", "Wrong"), ("0", "Wrong"), (pattern, "Right")):
        Path(folder).mkdir()
        table = pl.read_csv(LOG.encode(), infer_schema=False).with_columns(title=prefix + pl.col("item"))
        with (Path(folder) / f"log{suffix}").open("wb") as file:
            table.write_csv(file) if suffix == ".csv" else table.write_parquet(file)
    found = import_log("table", Path(pattern) / f"log{suffix}", "log", TINY)
    assert found.catalog.titles == ("Righta", "Rightb", "Rightc", "Rightd")


def test_recbole_files_with_brackets_in_their_name(tmp_path: Path) -> None:
    events = "".join(f"u{i // 4}\t{'abcd'[i % 4]}\t{1_500_000_000 + i}\n" for i in range(12))
    (tmp_path / "s[1].inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + events)
    for stem, title in (("s1", "Wrong"), ("s[1]", "Right")):
        items = "".join(f"{item}\t{title} {item}\n" for item in "abcd")
        (tmp_path / f"{stem}.item").write_text("item_id:token\ttitle:token_seq\n" + items)
    assert import_log("recbole", tmp_path, "s", TINY).catalog.titles[0] == "Right a"


@pytest.mark.parametrize(
    "name", ["../../x", "/abs/x", "a\\b", "..", ".hidden", "", " ", "a\nb", "a\x1b[31mb", "\u202ea"]
)
def test_names_that_would_leave_a_folder_or_a_line_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a dataset"):
        dataset(name=name)
    with pytest.raises(UserError, match="cannot be the name of a dataset"):
        replace(dataset(), name=name)
    if name:  # an empty name means none
        (tmp_path / "log.csv").write_text(LOG)
        with pytest.raises(UserError, match="cannot be the name of a dataset"):
            import_log("table", tmp_path / "log.csv", name, TINY)


def edited(folder: Path, **changes: object) -> None:
    """A forgery with the right digest."""
    file = folder / "dataset.json"
    about = json.loads(file.read_text("utf-8")) | changes
    about.pop("digest")
    file.write_text(storage.as_text(about | {"digest": storage.digest(about)}), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../../x"}, "cannot be the name of a dataset"),
        ({"name": 5}, "dataset.json: name: Input should be a valid string"),
        ({"wording": {"instruction": "x"}}, "dataset.json: wording.prefix: Field required"),
        ({"wording": []}, "dataset.json: wording: "),
        ({"genres": [1]}, "dataset.json: genres.0: Input should be a valid string"),
        ({"warnings": {"x": "y"}}, "dataset.json: warnings.x: Input should be a valid integer"),
        ({"meta": None}, "dataset.json: meta: "),
        ({"sha256": {}}, "items.parquet does not match the hash"),
        ({"format": 2}, r"has format 2, this version reads 1; it was written by sprec \d"),
        ({"format": True}, "has format True, this version reads 1"),
        ({"format": None}, "has format None, this version reads 1"),
    ],
)
def test_absurd_descriptions_are_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    dataset().save(tmp_path / "tiny")
    edited(tmp_path / "tiny", **changes)
    with pytest.raises(UserError, match=message):
        Dataset.load(tmp_path / "tiny")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"meta": ' * 990 + "1" + "}" * 990, "[]", "5", '{"format": 1e999}'])
def test_deep_and_other_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json"):
        Dataset.load(tmp_path)


def swap(folder: Path, table: str, frame: pl.DataFrame) -> None:
    """Another table under the right hash."""
    frame.write_parquet(folder / table)
    content = (folder / table).read_bytes()
    about = json.loads((folder / "dataset.json").read_text("utf-8"))
    edited(folder, sha256=about["sha256"] | {table: sha256(content).hexdigest()})


ROWS: dict[str, Any] = {"split": pl.String, "history": pl.List(pl.Int64), "target": pl.Int64}
ITEMS: dict[str, Any] = {"item_id": pl.Int64, "title": pl.String, "genres": pl.List(pl.String), "source_id": pl.String}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"split": ["train"], "history": [[0]], "target": [2]}, "train refers to item 2, but the catalog has 2 items"),
        ({"split": ["test"], "history": [[0, 99]], "target": [1]}, "test refers to item 99"),
        ({"split": ["test"], "history": [[-1]], "target": [1]}, "test refers to item -1"),
        ({"split": ["test"], "history": [[None]], "target": [1]}, "a row lacks an item"),
        ({"split": ["test"], "history": [None], "target": [1]}, "a row lacks an item"),
        ({"split": ["dev"], "history": [[0]], "target": [1]}, "there is no split 'dev'"),
    ],
)
def test_rows_of_items_that_do_not_exist_are_refused(tmp_path: Path, rows: dict[str, object], message: str) -> None:
    dataset().save(tmp_path / "tiny")
    swap(tmp_path / "tiny", "sequences.parquet", pl.DataFrame(rows, schema=ROWS))
    with pytest.raises(UserError, match=f"the tables of .*tiny are not a dataset: {message}"):
        Dataset.load(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": [0, 2]}, "items are not numbered from 0"),
        ({"item_id": [0, 0]}, "items are not numbered from 0"),
        ({"title": ["Tea", None]}, "an item lacks an id or a title"),
    ],
)
def test_catalogs_with_gaps_are_refused(tmp_path: Path, items: dict[str, object], message: str) -> None:
    whole = {"item_id": [0, 1], "title": ["Tea", "Pot"], "genres": [[], []], "source_id": ["0", "1"]}
    dataset().save(tmp_path / "tiny")
    swap(tmp_path / "tiny", "items.parquet", pl.DataFrame(whole | items, schema_overrides=ITEMS))
    with pytest.raises(UserError, match=message):
        Dataset.load(tmp_path / "tiny")
    swap(tmp_path / "tiny", "items.parquet", pl.DataFrame({"title": ["Tea", "Pot"]}))
    with pytest.raises(UserError, match="columns must be item_id, title, genres, source_id"):
        Dataset.load(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [(os.fsdecode(b"a\xff"), "not UTF-8"), ("n" * 245, "a name of 245 bytes; the limit is 241")],
)
@pytest.mark.parametrize("command", ["import", "out", "items", "demo", "stats", "export", "fetch"])
def test_names_that_no_file_can_have_are_one_line(tmp_path: Path, command: str, name: str, message: str) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    odd, log, out = str(tmp_path / name), str(tmp_path / "log.csv"), str(tmp_path / "out")
    dataset().save(tmp_path / "tiny")
    commands = {
        "import": ["import", "table", odd, "-o", out],
        "out": ["import", "table", log, "-o", odd, "--min-history", "1", "--min-length", "1", "--history", "2"],
        "items": ["import", "table", log, "-o", out, "--items", odd],
        "demo": ["demo", "-o", odd],
        "stats": ["stats", odd],
        "export": ["export", str(tmp_path / "tiny"), "-o", odd, "--format", "parquet"],
        "fetch": ["fetch", "ml-10m", "-o", odd],
    }
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, commands[command], catch_exceptions=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "tiny"]


def test_a_null_character_is_one_line(tmp_path: Path) -> None:
    for call in (Dataset.load, dataset().save, lambda path: import_log("table", path)):
        with pytest.raises(UserError, match="null character"):
            call(tmp_path / "a\0b")
