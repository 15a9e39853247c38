"""The report: one HTML file that needs no network and runs no script."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sprec.evaluation import Table, parsed
from sprec.report import charts, facts
from sprec.report.charts import Line
from sprec.report.facts import LIST, Shown
from sprec.study.compare import Evaluation, compare_runs
from sprec.system import storage
from sprec.system.errors import UserError

_FOLLOWED = ("NDCG@5", "HR@5", "DivRatio@1", "ORRatio@1")
"""Metrics that are drawn over the iterations."""


@dataclass(frozen=True)
class Section:
    """The page's section on a run; charts are SVG.

    Attributes:
        name: of its folder.
        about: of :func:`~sprec.report.facts.about`.
        exposure: the concentration of the lists, a curve each.
        shown: training data and lists, with their numbers.
        moved: title, and rows of title, shares before and after; empty if the run has one evaluation.
        top: the most shown items: title, share of all positions, share in the training data.
        genres: chart, or empty.
        genre_rows: its numbers.
        progress: a chart per metric.
        learning: a chart per stage.
        warnings: problems.
        settings: names and values that differ from the defaults.
        repeat: commands.
    """

    name: str
    about: dict[str, Any]
    exposure: Markup
    shown: list[Shown]
    moved: list[tuple[str, Markup, list[tuple[str, float, float]]]]
    top: list[tuple[str, float, float]]
    genres: Markup
    genre_rows: list[tuple[str, dict[str, float]]]
    progress: list[Markup]
    learning: list[Markup]
    warnings: list[str]
    settings: list[tuple[str, str]]
    repeat: list[str]


def write_report(runs: Sequence[Path], out: Path, metrics: str | None = None, *, overwrite: bool = False) -> None:
    """Write the report of runs over the same test cases.

    Args:
        runs: finished runs.
        out: the file to write.
        metrics: of the table, as in :func:`~sprec.study.compare.compare_runs`.
        overwrite: replace the file.

    Raises:
        UserError: the file exists or cannot be written, a run is not finished or damaged, or runs differ in data.
    """
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"{out}: a report is a page; name it like report.html")
    if out.exists() and not (overwrite and out.is_file()):
        raise UserError(f"{out} already exists; name another file" + ("" if overwrite else ", or pass --overwrite"))
    evaluations = {run: facts.evaluated(run) for run in runs}
    tables = compare_runs(list(runs), metrics=metrics)
    data = evaluations[runs[0]][0].dataset
    page = _template().render(
        title=f"Recommendations for {data.name}",
        data=data,
        cases=len(evaluations[runs[0]][0].lists.rows),
        brief=_brief(next(iter(evaluations.values())), tables[1]),
        results=Markup(tables[0].html(sideways=True)),
        differences=_differences(tables[1]),
        meanings=_meanings(tables[0].metrics),
        sections=[_section(run, own) for run, own in evaluations.items()],
        places=LIST,
        made=datetime.now(UTC).date().isoformat(),
        sprec=version("sprec"),
    )
    with storage.writing(out, "choose another -o"):
        out.parent.mkdir(parents=True, exist_ok=True)
        storage.write_text(out, page)


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("sprec.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    return environment.get_template("page.html.jinja")


def _differences(table: Table) -> Markup:
    """The rows that compare a method with another one; empty if there are none."""
    rows = tuple(row for row in table.rows if "difference" in row[1])
    return Markup(replace(table, rows=rows, note="").html()) if rows else Markup("")


def _meanings(metrics: Sequence[str]) -> dict[str, str]:
    """The meaning of each metric of a table."""
    rows = dict.fromkeys(parsed(name)[0] for name in metrics)
    return {row.name: row.about for row in rows}


def _section(run: Path, evaluations: Sequence[Evaluation]) -> Section:
    data = evaluations[-1].dataset
    shown, about = facts.exposure_of(evaluations), facts.about(run)
    genre_rows = facts.genre_shares(evaluations, shown)
    last = shown[-1]
    top = sorted(range(len(last.shares)), key=lambda item: (-last.shares[item], item))[:10]
    return Section(
        name=run.resolve().name,
        about=about,
        exposure=charts.lines(
            [Line(own.name, own.color, *own.curve()) for own in shown],
            "What share of all recommendations the most shown items take",
            ("share of the catalog, most shown first", "share of all recommendations"),
            percent=True,
        ),
        shown=shown,
        moved=_moved(shown, data.catalog.titles),
        top=[(data.catalog.titles[item], float(last.shares[item]), float(shown[0].shares[item])) for item in top],
        genres=charts.bars(genre_rows, "Share of each genre in histories and in recommendations"),
        genre_rows=genre_rows,
        progress=[
            charts.lines([Line(name, "c2", *own)], f"{name} after each iteration", ("iteration", name), size=(340, 170),
                         dots=True)
            for name, own in facts.progress_of(run, _FOLLOWED).items()
        ],
        learning=[
            charts.lines([Line(name, "c2", *own)], f"Loss of the stage {name}", ("step", name), size=(340, 170))
            for name, own in facts.learning_curves(run).items()
        ],
        warnings=facts.warnings_of(run, data),
        settings=facts.settings_of_run(run),
        repeat=facts.repeat(run, about),
    )  # fmt: skip


def _moved(shown: Sequence[Shown], titles: Sequence[str]) -> list[tuple[str, Markup, list[tuple[str, float, float]]]]:
    """Items that gained and lost exposure: the titles of the two lists, a chart and its rows."""
    if len(shown) < 3:
        return []
    before, after = shown[1:3]
    found = []
    for name, items in zip(("Shown more often", "Shown less often"), facts.movers(before, after), strict=True):
        rows = [(titles[item], float(before.shares[item]), float(after.shares[item])) for item in items]
        chart = charts.bars([(title, {"c1": old, "c2": new}) for title, old, new in rows], f"{name}, before and after")
        found.append((name, chart, rows))
    return found


def _brief(evaluations: Sequence[Evaluation], differences: Table) -> list[str]:
    """A summary of the first run in a few sentences."""
    shown = facts.exposure_of(evaluations)
    items, after = len(shown[0].shares), shown[-1]
    if len(shown) < 3:
        return [
            f"The lists of {LIST} show {after.items:,} of the {items:,} items at all.",
            f"The three items that stand first most often take {after.top():.0%} of the first places.",
        ]
    before = shown[1]
    return [
        f"The lists of {LIST} show {after.items:,} of the {items:,} items at all; before self-play it was "
        f"{before.items:,}.",
        f"The three items that stand first most often take {after.top():.0%} of the first places; before, "
        f"{before.top():.0%}.",
        *_accuracy(differences, evaluations[-1].method),
    ]


def _accuracy(differences: Table, method: str) -> list[str]:
    """A sentence on whether the lists became more or less accurate."""
    for labels, cells in differences.rows:
        if labels[0].partition(",")[0] == method and labels[2].startswith("NDCG@5") and "difference" in cells:
            change, now = cells["difference"], cells["value"].value
            old = now - change.value
            sure = {"better": "a significant gain", "worse": "a significant loss", "": "not a significant change"}
            return [f"Accuracy (NDCG@5) went from {old:.4f} to {now:.4f}, {sure[change.mark]}."]
    return []
