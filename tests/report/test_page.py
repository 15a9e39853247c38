"""The report: one file, escaped text, and the numbers of the lists."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sprec.data import Dataset
from sprec.evaluation import Cell, Table
from sprec.report import charts
from sprec.report.charts import Line
from sprec.report.facts import Shown, movers, progress_of, shown_by, warnings_of
from sprec.report.page import write_report
from sprec.runs import run
from sprec.runs.recipes import resolve
from sprec.system.errors import UserError
from toy_runs import Cli

HOSTILE = 'Alien <script>alert(1)</script> & "friends" {{ 7 * 7 }}'


class Page(HTMLParser):
    """What a browser sees: elements with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report([toy_run], out, "NDCG@5,Gini@5")
    return Page(out.read_text("utf-8"))


def shares_of(run: Path, stage: str, items: int) -> np.ndarray:
    (file,) = (run / "stages").glob(f"*-evaluate-{stage}/recommendations.parquet")
    lists = np.array(pl.read_parquet(file)["items"].to_list())[:, :5]
    return np.bincount(lists.ravel(), minlength=items) / lists.size


def test_the_numbers_are_those_of_the_lists(page: Page, toy_run: Path, toy_dataset: Dataset) -> None:
    items = len(toy_dataset.catalog)
    before, after = (shares_of(toy_run, stage, items) for stage in ("sft-0", "prefer-1"))
    assert (
        f"show {(after > 0).sum()} of the {items} items at all; before self-play it was {(before > 0).sum()}."
        in page.text
    )
    change = after - before
    most = int(np.argmax(change))
    text = " ".join(page.text.split())
    assert f"{toy_dataset.catalog.titles[most]}{before[most]:.2%}{after[most]:.2%}" in text
    metrics = json.loads((toy_run / "metrics.json").read_text())[-1]["metrics"]
    assert f"{metrics['NDCG@5']:.4f}" in text
    assert f"{metrics['Gini@5']:.4f}" in text
    assert "MGU" not in text, "only the metrics that were asked for"
    assert "simulated users" in text


def test_the_page_stands_alone_and_is_accessible(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "srcset"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert len(page.named("svg")) > 8
    assert all(cell["scope"] in ("col", "row") for cell in page.named("th"))
    assert page.named("html")[0]["lang"] == "en"
    assert len(page.named("h1")) == 1


def test_titles_are_text(toy_dataset: Dataset, tmp_path: Path) -> None:
    """The most popular item has a title that would run; it is in charts, in labels and in tables."""
    most = int(np.bincount(toy_dataset.train.targets).argmax())
    titles = [HOSTILE if item == most else title for item, title in enumerate(toy_dataset.catalog.titles)]
    genres = (("<b>Drama</b>",), *toy_dataset.catalog.genres[1:])
    catalog = replace(toy_dataset.catalog, titles=tuple(titles), genres=genres)
    data = replace(toy_dataset, catalog=catalog, genres=("<b>Drama</b>", *toy_dataset.genres)).save(tmp_path / "data")
    run(resolve("demo", ["method=popularity", "cases=20"]), data, tmp_path / "popular")
    write_report([tmp_path / "popular"], tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text("utf-8")
    found = Page(source)
    assert HOSTILE in found.text
    assert "<b>Drama</b>" in found.text
    assert "<script" not in source
    assert not found.named("b")


def test_runs_side_by_side_and_refusals(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    run(resolve("demo", ["method=knn", "cases=20", "seed=3"]), Dataset.load(toy_data), tmp_path / "knn")
    told = cli("report", toy_run, tmp_path / "knn", "-o", tmp_path / "both.html").stdout
    assert told == f"wrote {tmp_path / 'both.html'}\n"
    both = Page((tmp_path / "both.html").read_text("utf-8"))
    assert re.search(r"toy\s.*knn\s", both.text, re.DOTALL)
    assert "already exists; name another file, or pass --overwrite" in cli(
        "report", toy_run, "-o", tmp_path / "both.html", code=2
    ).stderr  # fmt: skip
    cli("report", toy_run, "-o", tmp_path / "both.html", "--overwrite")
    with pytest.raises(UserError, match=r"a report is a page; name it like report.html"):
        write_report([toy_run], tmp_path / "report.pdf")
    with pytest.raises(UserError, match="is not a run directory"):
        write_report([tmp_path / "none"], tmp_path / "other.html")
    damaged = tmp_path / "damaged"
    shutil.copytree(toy_run, damaged)
    next(damaged.glob("stages/*-prefer-1/log.jsonl")).write_text("{}")
    with pytest.raises(UserError, match=r"log.jsonl is damaged or was edited"):
        write_report([damaged], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_a_better_baseline_is_told_of_and_is_no_iteration(toy_dataset: Dataset, tmp_path: Path) -> None:
    run(resolve("demo", ["method=random", "cases=20"]), toy_dataset, tmp_path / "random")
    stages = [one["stage"] for one in json.loads((tmp_path / "random" / "metrics.json").read_text())]
    assert stages == ["baseline-popularity", "baseline-knn", "random"]
    warnings = warnings_of(tmp_path / "random", toy_dataset)
    assert "knn" in warnings[-1]
    assert "a higher NDCG@5 than the last model" in warnings[-1]
    assert not [warning for warning in warnings if "concentrate" in warning]
    assert progress_of(tmp_path / "random", ("NDCG@5",)) == {}


def test_exposure_by_hand() -> None:
    shown = shown_by(np.array([[0, 1], [0, 2], [0, -1]]), 5, "lists", "c1")
    assert shown.shares.tolist() == [0.6, 0.2, 0.2, 0, 0]
    assert shown.first.tolist() == [1, 0, 0, 0, 0]
    assert (shown.items, shown.top()) == (3, 1.0)
    across, held = shown.curve()
    assert across == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert held == pytest.approx([0, 0.6, 0.8, 1, 1, 1])
    after = Shown("after", "c2", np.array([0.3, 0.2, 0.3, 0.2, 0]), shown.first)
    assert movers(shown, after) == ([3, 2], [0])


def test_charts_put_values_where_they_belong() -> None:
    """Of a chart of 200 by 140, the plane reaches from 56 to 176 and from 96 up to 28."""
    svg = charts.lines([Line("a", "c1", [0, 1], [0, 0.5])], "label <b>", ("x", "y"), size=(200, 140), percent=True)
    assert 'd="M56.0 96.0L176.0 28.0"' in svg
    assert 'aria-label="label &lt;b&gt;"' in svg
    rows = [("A <i>title</i>", {"c1": 0.5, "c2": 0.25})]
    bars = charts.bars(rows, "label")
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', bars)]
    assert widths[0] == 2 * widths[1] > 0
    assert "A &lt;i&gt;title&lt;/i&gt;" in bars
    assert charts.bars([], "nothing").startswith("<svg")


def test_a_table_as_html() -> None:
    cells = {"HR@5": Cell(0.5, 0.25, 0.75, "best"), "MGU@1": Cell(0.1)}
    table = Table("Title & <note>", ("method",), ("HR@5", "MGU@1"), ((("<b>",), cells),), digits=2, note="a < b")
    assert table.html() == (
        "<table><caption>Title &amp; &lt;note&gt;</caption><thead><tr><th scope='col'>method</th>"
        "<th scope='col' class='number'>HR@5 ↑</th><th scope='col' class='number'>MGU@1 ↓</th></tr></thead>"
        "<tbody><tr><th scope='row'>&lt;b&gt;</th><td class='number'><strong>0.50</strong> "
        "<span class=\"interval\">0.25 to 0.75</span></td><td class='number'>0.10</td></tr></tbody>"
        "<tfoot><tr><td colspan='3'>a &lt; b</td></tr></tfoot></table>"
    )
    sideways = table.html(sideways=True)
    assert "<th scope='row'>MGU@1 ↓</th><td class='number'>0.10</td></tr></tbody>" in sideways
