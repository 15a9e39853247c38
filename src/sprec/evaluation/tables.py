"""Tables of metrics: one small type and its forms for the terminal, Markdown, HTML, CSV, JSON and LaTeX."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.markup import escape as rich_text
from rich.table import Table as RichTable

from sprec.evaluation.metrics import direction, parsed
from sprec.evaluation.statistics import Bootstrap, Difference, compare, marks, plain_marks
from sprec.system.errors import UserError

PAPER_METRICS = (
    "DivRatio@1",
    "DivRatio@5",
    "ORRatio@1",
    "ORRatio@5",
    "MGU@1",
    "MGU@5",
    "HR@5",
    "NDCG@5",
)
"""The columns of the paper's Tables 2 and 3, in its order."""

CUTOFFS = (1, 5, 10)
"""Cut-offs that are measured, if lists are long enough."""

SHOWN = (*PAPER_METRICS, "ExactTitles")
"""The default columns of tables of runs."""


def selected(asked: str | None, measured: Collection[str]) -> list[str]:
    """The metrics that a user wants to see.

    Args:
        asked: names separated by commas, ``HR@5,Gini@10``; ``Gini`` for all its cut-offs; ``all``; None for
            :data:`SHOWN`.
        measured: the metrics that there are.

    Raises:
        UserError: a metric was not measured.
    """
    if asked is None or asked == "all":
        return [name for name in (SHOWN if asked is None else measured) if name in measured]
    names: dict[str, None] = {}
    for word in map(str.strip, asked.split(",")):
        found = [name for name in measured if word in (name, parsed(name)[0].name)]
        if not found:
            known = ", ".join(dict.fromkeys(parsed(name)[0].name for name in measured))
            ks = ", ".join(f"@{k}" for k in sorted({parsed(name)[1] for name in measured} - {0}))
            raise UserError(f'there is no metric "{word}" for these lists; there are {known}, at {ks}; or all')
        names |= dict.fromkeys(found)
    return list(names)


def cutoffs(asked: str | None) -> list[int]:
    """The cut-offs at which lists are measured: 1, 5, 10 and those ``asked`` for (see :func:`selected`)."""
    return sorted({*CUTOFFS, *map(int, re.findall(r"@([1-9]\d*)", asked or ""))})


@dataclass(frozen=True)
class Cell:
    """A ``value``, with the bounds ``low`` and ``high`` of its interval and a ``mark``, if any.

    Marks are "best" and "second" of a column, "better" and "worse" than a reference if the difference is real, or "".
    """

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of metrics.

    Attributes:
        title: what the table shows; empty for none.
        labels: names of the leading columns, such as ("dataset", "method").
        metrics: names of the other columns.
        rows: for each row its labels and its cells, metric name to cell; a metric may be missing.
        digits: decimal places in print; CSV and JSON keep the full numbers.
        note: below the table; empty for none. CSV has no place for it, and commands print it themselves.
    """

    title: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], Mapping[str, Cell]], ...]
    digits: int = 4
    note: str = ""

    def rich(self) -> RichTable:
        """The table for the terminal: best in bold, second best underlined, real differences in words, too."""
        styles = _in_words("[bold]{}[/bold]") | {"second": "[underline]{}[/underline]"}
        table = RichTable(title=rich_text(self.title) or None)
        for label in self.labels:
            table.add_column(rich_text(label))
        for name in self.metrics:
            table.add_column(with_arrow(name), justify="right")
        for row in self._printed(styles, interval=" \\[{}, {}]", escape=rich_text):
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The table in GitHub's Markdown: best in bold, second best in italics, real differences in words, too."""
        header = [*self.labels, *map(with_arrow, self.metrics)]
        rule = ["---"] * len(self.labels) + ["---:"] * len(self.metrics)
        body = self._printed(_in_words("**{}**") | {"second": "*{}*"}, escape=_markdown_text)
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *body)]
        title, note = (
            ([f"**{_markdown_text(self.title)}**", ""] if self.title else []),
            (["", self.note] if self.note else []),
        )
        return "\n".join([*title, *lines, *note]) + "\n"

    def html(self, *, sideways: bool = False) -> str:
        """A ``<table>`` for a page: intervals below their values, best in bold, real differences in words, too.

        Args:
            sideways: transpose the table, which makes many metrics fit a page.
        """
        styles = _in_words("<strong>{}</strong>") | {"second": "<em>{}</em>"}
        interval = ' <span class="interval">{} to {}</span>'
        rows = self._printed(styles, interval, escape=escape)
        corner, across = len(self.labels), [escape(with_arrow(name)) for name in self.metrics]
        head, body = [*map(escape, self.labels), *across], rows
        if sideways:
            named = [", ".join(row[:corner]) for row in rows]
            numbers = zip(*(row[corner:] for row in rows), strict=True)
            body = [[name, *cells] for name, cells in zip(across, numbers, strict=True)]
            head, corner = ["", *named], 1
        numeric = [" class='number'" * (place >= corner) for place in range(len(head))]
        top = [f"<th scope='col'{kind}>{name}</th>" for name, kind in zip(head, numeric, strict=True)]
        lines = [
            "".join(
                f"<th scope='row'>{cell}</th>" if place < corner else f"<td class='number'>{cell}</td>"
                for place, cell in enumerate(row)
            )
            for row in body
        ]
        title = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        note = f"<tfoot><tr><td colspan='{len(head)}'>{escape(self.note)}</td></tr></tfoot>" if self.note else ""
        content = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{title}<thead><tr>{''.join(top)}</tr></thead><tbody>{content}</tbody>{note}</table>"

    def latex(self) -> str:
        """A ``tabular`` for booktabs: best in bold, second best underlined."""
        marked = _in_words(r"\textbf{{{}}}") | {"second": r"\underline{{{}}}"}
        arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
        names = [with_arrow(name).replace("↑", arrows["↑"]).replace("↓", arrows["↓"]) for name in self.metrics]
        header = [*map(_latex_text, self.labels), *names]
        body = self._printed(marked, missing="--", escape=_latex_text)
        lines = [" & ".join(cells) + r" \\" for cells in (header, *body)]
        columns = "l" * len(self.labels) + "r" * len(self.metrics)
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
        note = ["", _latex_text(self.note)] if self.note else []
        return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}", *note]) + "\n"

    def csv(self) -> str:
        """One line per number (labels, metric, value, low, high, mark), the layout of the published tables."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.labels, "metric", "value", "low", "high", "mark"])
        for labels, cells in self.rows:
            for name in self.metrics:
                if name in cells:
                    cell = cells[name]
                    numbers = map(_plain, (cell.value, cell.low, cell.high))
                    writer.writerow([*map(_csv_text, labels), name, *numbers, cell.mark])
        return text.getvalue()

    def record(self) -> dict[str, Any]:
        """The title, the note if any, and one object per row, for JSON; undefined numbers are None."""
        rows = []
        for labels, cells in self.rows:
            metrics = {name: _record(cells[name]) for name in self.metrics if name in cells}
            rows.append({**dict(zip(self.labels, labels, strict=True)), "metrics": metrics})
        return {"title": self.title, **({"note": self.note} if self.note else {}), "rows": rows}

    @classmethod
    def of(cls, record: Mapping[str, Any], digits: int = 4) -> "Table":
        """The table of a record.

        Args:
            record: of :meth:`record`, from JSON.
            digits: decimal places in print, which the record does not contain.
        """
        rows = tuple(
            (
                tuple(value for name, value in row.items() if name != "metrics"),
                {name: Cell(**cell | {"value": _number_of(cell["value"])}) for name, cell in row["metrics"].items()},
            )
            for row in record["rows"]
        )
        labels = tuple(name for name in (record["rows"] or [{}])[0] if name != "metrics")
        metrics = tuple(dict.fromkeys(name for row in record["rows"] for name in row["metrics"]))
        return cls(record["title"], labels, metrics, rows, digits)

    def json(self) -> str:
        """:meth:`record` as text."""
        return json.dumps(self.record(), indent=2, ensure_ascii=False) + "\n"

    def _printed(
        self,
        styles: Mapping[str, str],
        interval: str = " [{}, {}]",
        missing: str = "–",
        escape: Callable[[str], str] = str,
    ) -> list[list[str]]:
        return [
            [*map(escape, labels), *(self._number(cells.get(name), styles, interval, missing) for name in self.metrics)]
            for labels, cells in self.rows
        ]

    def _number(self, cell: Cell | None, styles: Mapping[str, str], interval: str, missing: str) -> str:
        if cell is None or math.isnan(cell.value):
            return missing
        text = styles[cell.mark].format(f"{cell.value:.{self.digits}f}")
        if cell.low is None or cell.high is None:
            return text
        return text + interval.format(f"{cell.low:.{self.digits}f}", f"{cell.high:.{self.digits}f}")


def table_of_differences(
    methods: Mapping[str, Bootstrap],
    reference: str | Mapping[str, str],
    title: str = "",
    metrics: Sequence[str] = PAPER_METRICS,
    unsound: Collection[str] = (),
    note: str = "",
) -> Table:
    """Every method against a reference, metric by metric, over the seeds that both have.

    Args:
        methods: by name.
        reference: the method that all others are compared with, or one for each of them.
        title: of the table.
        metrics: those to compare, if methods have them.
        unsound: methods whose differences are not called better or worse.
        note: below the table.

    Returns:
        Value, difference with its interval (marked "better" or "worse" if it is real), relative difference, effect
        size and p; the reference itself only has its value.
    """
    rows = []
    for method, sample in methods.items():
        other = reference if isinstance(reference, str) else reference.get(method, method)
        found = compare(sample, methods[other]) if method != other else {}
        for name in (name for name in metrics if name in sample.per_seed):
            cells = {"value": Cell(sample.interval(name).value)}
            if name in found:
                cells |= difference_cells(found[name], name, judged=not {method, other} & {*unsound})
            rows.append(((method, other, with_arrow(name)), cells))
    return Table(title, ("method", "reference", "metric"), ("value", *DIFFERENCE), tuple(rows), note=note)


DIFFERENCE = ("difference", "relative", "effect", "p")
"""Columns of :func:`difference_cells`."""


def difference_cells(difference: Difference, metric: str, judged: bool = True) -> dict[str, Cell]:
    """Cells of a ``difference`` in a ``metric``: with interval and mark (if ``judged``), relative, effect size, p."""
    mark = change_mark(difference, metric) if judged else ""
    return {
        "difference": Cell(difference.value, difference.low, difference.high, mark),
        "relative": Cell(difference.relative),
        "effect": Cell(difference.effect),
        "p": Cell(difference.p),
    }


def change_mark(difference: Difference, metric: str) -> str:
    """Whether a ``difference`` is "better" or "worse" by the direction of the ``metric``; "" if it is not real."""
    if not difference.real:
        return ""
    return "better" if difference.value * direction(metric) > 0 else "worse"


def with_arrow(name: str) -> str:
    """The ``name`` of a metric with the direction in which it gets better, if it has one: "HR@5 ↑"."""
    return name + {1: " ↑", -1: " ↓", 0: ""}[direction(name)]


def table_of_values(
    values: Mapping[str, Mapping[str, float]],
    title: str = "",
    metrics: Sequence[str] = PAPER_METRICS,
    mark: bool = True,
) -> Table:
    """Methods by ``metrics`` without intervals.

    Args:
        values: method to metric to value.
        title: of the table.
        metrics: the columns, if any method has them.
        mark: mark the best values as the paper does.
    """
    given = {
        name: plain_marks({method: row[name] for method, row in values.items() if name in row}, name)
        for name in metrics
    }
    rows = tuple(
        (
            (method,),
            {name: Cell(row[name], mark=given[name][method] if mark else "") for name in metrics if name in row},
        )
        for method, row in values.items()
    )
    return Table(title, ("method",), tuple(metrics), rows)


def table_of_methods(
    methods: Mapping[str, Bootstrap],
    title: str = "",
    metrics: Sequence[str] = PAPER_METRICS,
    unsound: Collection[str] = (),
    note: str = "",
) -> Table:
    """Methods by metrics with 95% intervals; only real differences are marked.

    Args:
        methods: by name.
        title: of the table.
        metrics: the columns, if any method has them.
        unsound: methods that are shown and not marked.
        note: below the table.
    """
    metrics = [name for name in metrics if any(name in sample.per_seed for sample in methods.values())]
    cells: dict[str, dict[str, Cell]] = {method: {} for method in methods}
    for name in metrics:
        own = {method: sample for method, sample in methods.items() if name in sample.per_seed}
        given = marks({method: sample for method, sample in own.items() if method not in unsound}, name)
        for method, sample in own.items():
            found = sample.interval(name)
            cells[method][name] = Cell(found.value, found.low, found.high, given.get(method, ""))
    return Table(title, ("method",), tuple(metrics), tuple(((m,), own) for m, own in cells.items()), note=note)


def _in_words(bold: str) -> dict[str, str]:
    """Styles that all forms share: plain text, bold for the best, bold and a word for a real difference."""
    return {"": "{}", "best": bold, "better": f"{bold} (better)", "worse": f"{bold} (worse)"}


def _markdown_text(text: str) -> str:
    """A cell of a Markdown table, in which bars, line breaks and tags are escaped."""
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", " ".join(text.splitlines()).replace("|", "\\|"))


def _csv_text(text: str) -> str:
    """A cell of a spreadsheet; text that begins like a formula is quoted, so that it is not evaluated."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _latex_text(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(escapes.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _number_of(value: float | None) -> float:
    return math.nan if value is None else value


def _record(cell: Cell) -> dict[str, float | str | None]:
    numbers = {"value": cell.value, "low": cell.low, "high": cell.high}
    defined = {key: None if value is None or math.isnan(value) else float(value) for key, value in numbers.items()}
    return {**defined, "mark": cell.mark}
