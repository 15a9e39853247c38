"""Tables, character by character."""

import csv
import json

import numpy as np
import pytest
from rich.console import Console

from sprec.evaluation import (
    PAPER_METRICS,
    Bootstrap,
    Cell,
    Table,
    accumulate,
    bootstrap,
    direction,
    table_of_differences,
    table_of_methods,
    table_of_values,
)

TABLE = Table(
    "Goodreads",
    ("dataset", "method"),
    ("DivRatio@1", "MGU@1", "cases"),
    (
        (
            ("A & B", "sprec|x"),
            {"DivRatio@1": Cell(0.2, 0.15, 0.25, "best"), "MGU@1": Cell(float("nan")), "cases": Cell(5)},
        ),
        (("[A]", "bigrec_1"), {"DivRatio@1": Cell(0.1, mark="second"), "cases": Cell(1 / 3)}),
    ),
    digits=2,
)


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "**Goodreads**\n\n"
        "| dataset | method | DivRatio@1 ↑ | MGU@1 ↓ | cases |\n"
        "| --- | --- | ---: | ---: | ---: |\n"
        "| A & B | sprec\\|x | **0.20** [0.15, 0.25] | – | 5.00 |\n"
        "| [A] | bigrec_1 | *0.10* | – | 0.33 |\n"
    )


def test_latex() -> None:
    assert TABLE.latex() == (
        "\\begin{tabular}{llrrr}\n"
        "\\toprule\n"
        "dataset & method & DivRatio@1 $\\uparrow$ & MGU@1 $\\downarrow$ & cases \\\\\n"
        "\\midrule\n"
        "A \\& B & sprec|x & \\textbf{0.20} [0.15, 0.25] & -- & 5.00 \\\\\n"
        "[A] & bigrec\\_1 & \\underline{0.10} & -- & 0.33 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_csv_keeps_full_numbers_and_one_line_each() -> None:
    rows = list(csv.DictReader(TABLE.csv().splitlines()))
    assert rows[0] == {
        "dataset": "A & B", "method": "sprec|x", "metric": "DivRatio@1",
        "value": "0.2", "low": "0.15", "high": "0.25", "mark": "best",
    }  # fmt: skip
    assert [row["value"] for row in rows] == ["0.2", "", "5.0", "0.1", repr(1 / 3)]


def test_json_has_null_for_undefined() -> None:
    record = json.loads(TABLE.json())
    assert record["title"] == "Goodreads"
    assert record["rows"][0]["metrics"]["MGU@1"] == {"value": None, "low": None, "high": None, "mark": ""}
    assert record["rows"][1] == {
        "dataset": "[A]",
        "method": "bigrec_1",
        "metrics": {
            "DivRatio@1": {"value": 0.1, "low": None, "high": None, "mark": "second"},
            "cases": {"value": 1 / 3, "low": None, "high": None, "mark": ""},
        },
    }


def test_a_table_of_its_record_prints_the_same() -> None:
    again = Table.of(json.loads(TABLE.json()), digits=2)
    assert (again.markdown(), again.csv(), again.latex()) == (TABLE.markdown(), TABLE.csv(), TABLE.latex())


def test_terminal_shows_brackets_and_arrows() -> None:
    console = Console(width=120, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(TABLE.rich())
    text = capture.get()
    assert "\x1b[1m0.20\x1b[0m [0.15, 0.25]" in text
    assert "\x1b[4m0.10\x1b[0m" in text
    assert "[A]" in text
    assert "MGU@1 ↓" in text


@pytest.mark.parametrize(
    ("name", "sign"),
    [("HR@5", 1), ("NDCG@1", 1), ("DivRatio@5", 1), ("ORRatio@1", -1), ("MGU@5", -1), ("DGU@1", -1), ("loss", 0)],
)
def test_direction(name: str, sign: int) -> None:
    assert direction(name) == sign


def test_table_of_values_marks_as_the_paper_does() -> None:
    values = {"sft": {"HR@5": 0.031, "MGU@1": 0.02}, "sprec": {"HR@5": 0.03, "MGU@1": 0.01}, "sasrec": {"HR@5": 0.1}}
    table = table_of_values(values, metrics=("MGU@1", "HR@5"))
    marks = {row[0][0]: {name: cell.mark for name, cell in row[1].items()} for row in table.rows}
    assert marks == {
        "sft": {"HR@5": "second", "MGU@1": "second"},
        "sprec": {"HR@5": "", "MGU@1": "best"},
        "sasrec": {"HR@5": "best"},
    }
    assert all(cell.mark == "" for _, cells in table_of_values(values, mark=False).rows for cell in cells.values())


def sample_of(recs: np.ndarray) -> Bootstrap:
    """400 cases whose lists start with these items and go on with their neighbours; the target is item 0."""
    lists = np.stack([(recs + shift) % 450 for shift in range(5)], axis=1)
    cases = accumulate(lists, np.zeros(400), np.arange(400), range(401), np.ones((450, 1)))
    return bootstrap([cases], resamples=400)


METHODS = {"narrow": sample_of(np.arange(400) % 3), "wide": sample_of(np.arange(400))}


def test_table_of_methods_has_intervals_and_honest_marks() -> None:
    table = table_of_methods(METHODS, title="demo")
    assert table.metrics == PAPER_METRICS
    wide = dict(table.rows)[("wide",)]
    assert wide["DivRatio@1"].value == 1
    assert wide["DivRatio@1"].mark == wide["ORRatio@1"].mark == "best"
    assert wide["MGU@1"].mark == ""
    narrow = dict(table.rows)[("narrow",)]["HR@5"]
    assert narrow.low is not None
    assert narrow.high is not None
    assert narrow.low < narrow.value < narrow.high


def test_table_of_differences_says_what_became_better_and_what_worse() -> None:
    rows = dict(table_of_differences(METHODS, "narrow", metrics=("ORRatio@1", "HR@5", "MGU@1")).rows)
    assert set(rows[("narrow", "narrow", "HR@5 ↑")]) == {"value"}
    over = rows[("wide", "narrow", "ORRatio@1 ↓")]
    assert over["value"].value == pytest.approx(3 / 400)
    assert over["difference"].value == pytest.approx(3 / 400 - 1)
    assert over["relative"].value == pytest.approx(3 / 400 - 1)
    assert over["difference"].mark == "better", "less over-recommendation"
    hits = rows[("wide", "narrow", "HR@5 ↑")]
    assert hits["difference"].value == pytest.approx((1 - 134) / 400)
    assert hits["difference"].mark == "worse"
    assert hits["p"].value < 0.01
    assert rows[("wide", "narrow", "MGU@1 ↓")]["difference"].mark == ""


def test_every_method_can_have_a_reference_of_its_own() -> None:
    methods = METHODS | {"other": METHODS["wide"]}
    rows = dict(table_of_differences(methods, {"other": "wide", "wide": "narrow"}, metrics=("HR@5",)).rows)
    assert set(rows) == {("narrow", "narrow", "HR@5 ↑"), ("wide", "narrow", "HR@5 ↑"), ("other", "wide", "HR@5 ↑")}
    assert rows["other", "wide", "HR@5 ↑"]["difference"].value == 0


def test_real_changes_are_said_in_words() -> None:
    cells = {"HR@5": Cell(0.25, 0.125, 0.375, "better"), "MGU@1": Cell(0.5, mark="worse")}
    table = Table("", ("method",), ("HR@5", "MGU@1"), ((("a",), cells),), digits=2)
    assert "| a | **0.25** (better) [0.12, 0.38] | **0.50** (worse) |" in table.markdown()
    assert r"a & \textbf{0.25} (better) [0.12, 0.38] & \textbf{0.50} (worse) \\" in table.latex()
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table.rich())
    assert "0.25 (better) [0.12, 0.38]" in capture.get()
