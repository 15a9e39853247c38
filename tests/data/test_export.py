import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from sprec.cli.data import app
from sprec.data import Catalog, Dataset, Split
from sprec.data.demo import demo
from sprec.data.export import export
from sprec.data.logs import Cleaning, import_log
from sprec.data.readers.sprec import read
from sprec.prompts import PromptBuilder, parse_title
from sprec.system.errors import UserError

CATALOG = Catalog(
    ('Say "No"', 'A", "B', "Twin", "Twin", "Amélie", "It"),
    (("R&B", "Film Noir"), ("Film Noir",), (), ("R&B",), (), ()),
    ("10", "2", "x", "y", "30", "31"),
)
ROWS = {
    "train": Split.of([([0, 1, 5], 2), ([3], 0), ([4, 4], 1)]),
    "valid": Split.of([([2], 4)]),
    "test": Split.of([([1, 0], 3)]),
    "extra": Split.of([([5], 1), ([0], 5)]),
}
DEMO = demo(train=5, valid=2, test=2, extra=0)
ODD = Dataset("odd", CATALOG, ROWS, ("R&B", "Film Noir"), DEMO.wording)
BOTH = pytest.mark.parametrize("dataset", [DEMO, ODD], ids=["demo", "odd"])


def rows(dataset: Dataset) -> dict[str, list[object]]:
    return {name: list(split) for name, split in dataset.splits.items() if len(split)}


@BOTH
def test_the_sprec_layout_comes_back_as_it_was(dataset: Dataset, tmp_path: Path) -> None:
    back = read(export(dataset, tmp_path / "out", "sprec"))
    assert rows(back) == rows(dataset)
    assert (back.name, back.genres, back.wording) == (dataset.name, dataset.genres, dataset.wording)
    assert back.catalog.genres == dataset.catalog.genres
    assert back.catalog.source_ids == dataset.catalog.source_ids
    changed = {2: "Twin [x]", 3: "Twin [y]"} if dataset is ODD else {}  # the format tells items apart by title only
    assert back.catalog.titles == tuple(changed.get(i, title) for i, title in enumerate(dataset.catalog.titles))


@BOTH
def test_recbole_files_come_back_as_they_were(dataset: Dataset, tmp_path: Path) -> None:
    folder = export(dataset, tmp_path / "out", "recbole")
    back = import_log("recbole", folder, cleaning=Cleaning(genres=dataset.genres), noun="movies", verb="watched")
    assert rows(back) == rows(dataset)
    assert back.catalog == dataset.catalog
    assert back.genres == dataset.genres
    shared = dataset.catalog.sharing
    assert back.warnings == ({"items_that_share_a_title": shared} if shared else {})


def test_recbole_ids_have_no_spaces(tmp_path: Path) -> None:
    spaced = Dataset(
        "s", Catalog(("a", "b"), ((), ()), ("id 1", "id 2")), {"train": Split.of([([0], 1)])}, (), ODD.wording
    )
    export(spaced, tmp_path / "out", "recbole")
    assert (tmp_path / "out" / "s.train.inter").read_text().splitlines()[1] == "0\t0\t1"


def test_unknown_recbole_items_are_dropped_and_counted(tmp_path: Path) -> None:
    folder = export(ODD, tmp_path / "out", "recbole")
    with (folder / "odd.train.inter").open("a") as file:
        file.write("9\t10 zz 2\t30\n10\t10\tzz\n11\t\t10\n")
    back = import_log("recbole", folder)
    assert list(back.train)[3:] == [((0, 1), 4), ((), 0)]
    assert back.warnings == {
        "history_items_dropped_unknown": 1,
        "items_that_share_a_title": 2,
        "rows_dropped_unknown_target": 1,
    }


def test_recbole_items_without_a_title_are_dropped_and_counted(tmp_path: Path) -> None:
    folder = export(ODD, tmp_path / "out", "recbole")
    items = (folder / "odd.item").read_text("utf-8")
    (folder / "odd.item").write_text(items.replace("Amélie", "").replace("R&B", "R&amp;B R&B"), "utf-8")
    back = import_log("recbole", folder)
    assert back.catalog.source_ids == ("10", "2", "x", "y", "31")
    assert back.catalog.genres == ODD.catalog.genres[:4] + ODD.catalog.genres[5:]
    assert back.warnings == {
        "history_items_dropped_unknown": 2,
        "items_dropped_without_title": 1,
        "items_that_share_a_title": 2,
        "rows_dropped_unknown_target": 1,
    }


def test_recbole_windows_that_are_not_utf_8_are_one_line(tmp_path: Path) -> None:
    folder = export(ODD, tmp_path / "out", "recbole")
    (folder / "odd.train.inter").write_bytes("item_id_list:token_seq\titem_id:token\té:float\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"odd.train.inter is not UTF-8; save it as UTF-8"):
        import_log("recbole", folder)


@BOTH
def test_parquet_has_ids_and_titles_side_by_side(dataset: Dataset, tmp_path: Path) -> None:
    folder = export(dataset, tmp_path / "out", "parquet")
    assert Catalog.load(folder / "items.parquet") == dataset.catalog
    frame = pl.read_parquet(folder / "train.parquet")
    assert [*zip(map(tuple, frame["history"].to_list()), frame["target"].to_list(), strict=True)] == list(dataset.train)
    titles = dataset.catalog.titles
    assert frame["history_titles"].to_list() == [[titles[i] for i in row.history] for row in dataset.train]
    assert frame["target_title"].to_list() == [titles[row.target] for row in dataset.train]


def test_trl_lines_are_prompts_and_completions(tmp_path: Path) -> None:
    source, target = str(tmp_path / "in"), tmp_path / "out"
    DEMO.save(source)
    command = ["export", source, "-o", str(target), "--format", "trl", "--style", "compact"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    lines = [json.loads(line) for line in (target / "train.jsonl").read_text("utf-8").splitlines()]
    titles, builder = DEMO.catalog.titles, PromptBuilder(DEMO.catalog, DEMO.wording, "compact")
    assert [(tuple(line["history"]), line["target"]) for line in lines] == list(DEMO.train)
    for line, row in zip(lines, DEMO.train, strict=True):
        assert line["prompt"] == builder.prompt(row.history)
        assert parse_title(line["completion"]) == titles[row.target]
    assert (target / "extra.jsonl").read_text() == ""


def test_exports_never_overwrite_and_formats_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unknown export format "arff"; formats: sprec, recbole, trl, parquet'):
        export(ODD, tmp_path / "out", "arff")
    assert not (tmp_path / "out").exists()
    export(ODD, tmp_path / "out", "parquet")
    with pytest.raises(UserError, match="out already exists"):
        export(ODD, tmp_path / "out", "parquet")
