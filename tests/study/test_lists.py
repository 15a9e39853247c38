"""Lists from elsewhere: both kinds of file, and one line for everything that is wrong with one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sprec.data import Catalog, Dataset, Split
from sprec.data.about import Wording
from sprec.study.lists import read_lists, score_lists
from sprec.system.errors import UserError


@pytest.fixture
def dataset() -> Dataset:
    """Four test cases, whose targets are items 0 to 3, and four items."""
    test = Split.of(([3 - target], target) for target in range(4))
    catalog = Catalog.of(["Alien", "Dune", "Emma", "Jaws"])
    return Dataset("four", catalog, {"train": test, "test": test}, (), Wording("", "", ""))


def lines(file: Path, *entries: Any) -> Path:
    file.write_text("".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries))
    return file


def test_lines_and_parquet_are_read_alike(dataset: Dataset, tmp_path: Path) -> None:
    """In any order, by ids and titles; lists that are shorter, or end with -1, are filled."""
    entries = [{"case": 3, "items": [3, "Dune"]}, {"case": 0, "items": ["Emma"]}]
    ids = pl.DataFrame({"case": [3, 0], "items": [[3, 1], [2, -1]]})
    ids.write_parquet(tmp_path / "b.parquet")
    for file in (lines(tmp_path / "a.jsonl", *entries), tmp_path / "b.parquet"):
        found = read_lists(file, dataset)
        assert found.rows.tolist() == [0, 3]
        assert found.items.tolist() == [[2, -1], [3, 1]]
        assert found.titles == []
    values = score_lists(tmp_path / "b.parquet", dataset, ks=(1, 2))
    assert values["HR@1"] == 1 / 2
    assert values["Coverage@2"] == 3 / 4
    assert "ExactTitles" not in values


def test_marks_and_odd_separators_of_lines_are_read(tmp_path: Path) -> None:
    """A byte-order mark before the first line; characters in titles that some programs end a line at."""
    rows = Split.of([([0], 1)] * 2)
    odd = Dataset("odd", Catalog.of(["A\u2028B", "C\x85D"]), {"train": rows, "test": rows}, (), Wording("", "", ""))
    entries = [{"case": row, "items": [odd.catalog.titles[1], odd.catalog.titles[0]]} for row in (0, 1)]
    text = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (tmp_path / "a.jsonl").write_text("\ufeff" + text, "utf-8")
    assert read_lists(tmp_path / "a.jsonl", odd).items.tolist() == [[1, 0], [1, 0]]


def test_titles_say_which_exist(dataset: Dataset, tmp_path: Path) -> None:
    """One per case, or as many samples for each; they stay with their cases."""
    file = lines(
        tmp_path / "a.jsonl", *({"case": c, "items": [0], "title": t} for c, t in ((2, "Emma"), (1, "Dune 2")))
    )
    assert score_lists(file, dataset)["ExactTitles"] == 1 / 2
    found = read_lists(file, dataset)
    assert found.titles == ["Dune 2", "Emma"]
    one = found.cases(dataset, "test", np.array([2]), (1,))
    assert one.exact is not None
    assert one.exact.tolist() == [1]
    frame = {"case": [0, 1], "items": [[0], [1]], "title": [None, None], "samples": [["Emma", "Em"], ["Jaws", "Dune"]]}
    pl.DataFrame(frame, schema_overrides={"title": pl.String}).write_parquet(tmp_path / "b.parquet")
    assert score_lists(tmp_path / "b.parquet", dataset)["ExactTitles"] == 3 / 4


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "has no recommendations"),
        (("nothing\n",), 'line 1: not a JSON object with "case" and "items"'),
        ((3,), 'line 1: not a JSON object with "case" and "items"'),
        (({"case": 1},), 'line 1: "case" or "items" is missing'),
        (({"case": 4, "items": [0]},), r"line 1: case 4 is not a row of the test split \(0 to 3\)"),
        (({"case": True, "items": [0]},), "case True is not a row"),
        (({"case": 1, "items": [0]}, "\n", {"case": 1, "items": [2]}), "line 3: case 1 occurs twice"),
        (({"case": 1, "items": []},), '"items" must be a list of ids or titles'),
        (({"case": 1, "items": [4]},), "there is no item 4"),
        (({"case": 1, "items": [-1, 0]},), "there is no item -1"),
        (({"case": 1, "items": ["Dun"]},), 'line 1: no item is titled "Dun"; closest: "Dune"'),
        (({"case": 1, "items": [0], "title": 3},), '"title" must be text'),
        (({"case": 1, "items": [0], "title": "Dune"}, {"case": 2, "items": [0]}), 'every case must have a "title"'),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    entries: tuple[Any, ...], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_lists(lines(tmp_path / "a.jsonl", *entries), dataset)


def test_files_that_are_none(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"a\.parquet is not a Parquet file, or is damaged"):
        read_lists(tmp_path / "a.parquet", dataset)
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_lists(tmp_path / "a.jsonl", dataset)
    with pytest.raises(UserError, match=r"cannot read .*none\.jsonl: No such file"):
        read_lists(tmp_path / "none.jsonl", dataset)
    with pytest.raises(UserError, match="four has no examples in a split 'valid'"):
        read_lists(tmp_path / "a.jsonl", dataset, "valid")
