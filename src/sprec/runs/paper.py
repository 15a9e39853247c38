"""Finished experiments as the paper's tables and figures, beside the paper's numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sprec import storage
from sprec.data import Dataset
from sprec.data.stats import stats
from sprec.evaluation import (
    DIFFERENCE,
    PAPER_METRICS,
    Bootstrap,
    Cases,
    Cell,
    Difference,
    Interval,
    Table,
    bootstrap,
    change_mark,
    compare,
    difference_cells,
    genre_unfairness,
    marks,
    plain_marks,
    shared_seeds,
    t_interval,
    with_arrow,
)
from sprec.progress import bar
from sprec.report.paper import published, published_sizes
from sprec.runs.records import Record
from sprec.runs.reproduce import OWN_WAY, Job

if TYPE_CHECKING:
    from sprec.report.figures import Series

REFERENCE = "BIGRec"
_PRINTED_IN = {"variants": "table2"}
"""Experiment to the table of the paper that has its rows, where that has another name."""
LAST = 3
"""A sweep shows the mean of this many last iterations (paper, RQ3)."""

Row = tuple[tuple[str, ...], Mapping[str, Cell]]
Samples = Mapping[tuple[str, str], Bootstrap]
"""(variant, how it recommends) to its bootstrap over the test cases."""


@dataclass(frozen=True)
class Compared:
    """A method beside its reference: labels (dataset, source, method, reference) and paired differences by metric."""

    labels: tuple[str, str, str, str]
    sample: Bootstrap
    apart: Mapping[str, Difference]


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write a table as CSV, JSON, Markdown and LaTeX.

    Raises:
        UserError: the folder cannot be written.
    """
    forms = {"csv": table.csv(), "json": table.json(), "md": table.markdown(), "tex": table.latex()}
    with storage.writing(stem.parent, "choose another -o"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in forms.items():
            storage.write_text(stem.with_suffix(f".{suffix}"), content)
    return [stem.with_suffix(f".{suffix}") for suffix in forms]


def sampled(found: Mapping[Job, Record], dataset: Dataset) -> dict[tuple[str, str], Bootstrap]:
    """(variant, how it recommends) to its bootstrap, seeds together, from the last evaluation of each run."""
    groups: dict[tuple[str, str], dict[int, Cases]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name:
            groups.setdefault((job.variant, job.how), {})[job.seed] = record.cases(dataset, job.recipe.split)
    samples: dict[tuple[str, str], Bootstrap] = {}
    with bar(f"resample {dataset.name}", len(groups)) as progress:
        for key, own in groups.items():
            samples[key] = bootstrap(list(own.values()), training_seeds=list(own))
            progress.advance(1)
    return samples


def paper_table(experiment: str, samples: Mapping[str, Samples], mark: str) -> Table:
    """Table 2 or 3: our values with intervals for each dataset and protocol, then the published ones.

    Marks compare the rows of one source: methods that recommend in the same way.

    Args:
        experiment: ``table2``, ``table3`` or ``variants``.
        samples: dataset to what :func:`sampled` made of its runs.
        mark: ``real`` marks a best and second best only where the difference is real, ``paper`` as the paper does.
    """
    rows: list[Row] = []
    for dataset, ours in samples.items():
        ways = dict.fromkeys(how for _, how in ours)
        with bar(f"mark {dataset}", len(ways)) as progress:
            for how in ways:
                block = {variant: sample for (variant, own), sample in ours.items() if own == how}
                cells = _cells(block, mark)
                rows += [((dataset, f"ours, {how}, {_seeds(block[name])}", name), cells[name]) for name in block]
                progress.advance(1)
        theirs = _theirs(experiment, dataset)
        stars = {metric: plain_marks({m: v[metric] for m, v in theirs.items()}, metric) for metric in PAPER_METRICS}
        rows += [
            ((dataset, "paper", m), {k: Cell(v[k], mark=stars[k][m]) for k in PAPER_METRICS if k in v})
            for m, v in theirs.items()
        ]
    return Table("", ("dataset", "source", "method"), PAPER_METRICS, tuple(rows))


def _seeds(sample: Bootstrap) -> str:
    count = len(sample.training_seeds)
    return f"{count} seed" + ("s" if count != 1 else "")


def _theirs(experiment: str, dataset: str) -> dict[str, dict[str, float]]:
    """Method to what the paper printed for it."""
    wanted = (_PRINTED_IN.get(experiment, experiment), dataset)
    return {m: values for (table, data, m), values in published().items() if (table, data) == wanted}


def _cells(block: Mapping[str, Bootstrap], mark: str) -> dict[str, dict[str, Cell]]:
    cells: dict[str, dict[str, Cell]] = {name: {} for name in block}
    for metric in PAPER_METRICS:
        intervals = {name: sample.interval(metric) for name, sample in block.items()}
        plain = {name: interval.value for name, interval in intervals.items()}
        given = marks(block, metric) if mark == "real" else plain_marks(plain, metric)
        for name, interval in intervals.items():
            shown = given[name] if len(block) > 1 else ""  # alone is not best
            cells[name][metric] = Cell(interval.value, interval.low, interval.high, shown)
    return cells


def compared(samples: Mapping[str, Samples]) -> list[Compared]:
    """Every method beside its reference, dataset by dataset.

    That is BIGRec by the same protocol; for methods that recommend in a way of their own BIGRec by the first one.
    """
    found = []
    for dataset, ours in samples.items():
        pairs = list(_references(ours))
        with bar(f"compare {dataset}", len(pairs)) as progress:
            for variant, how, reference in pairs:
                labels = (dataset, f"ours, {how}", variant, f"{REFERENCE}, {reference}")
                sample = ours[variant, how]
                found.append(Compared(labels, sample, compare(sample, ours[REFERENCE, reference])))
                progress.advance(1)
    return found


def _references(ours: Samples) -> Iterable[tuple[str, str, str]]:
    """Method, how it recommends, and how the BIGRec recommends that it is compared with."""
    references = [how for variant, how in ours if variant == REFERENCE]
    for (variant, how), sample in ours.items():
        fitting = [own for own in references if own == how or variant in OWN_WAY]
        fitting = [own for own in fitting if shared_seeds(sample, ours[REFERENCE, own])]
        if variant != REFERENCE and fitting:
            yield variant, how, fitting[0]


def changes_table(experiment: str, datasets: Iterable[str], found: Sequence[Compared]) -> Table:
    """Relative change of every method to BIGRec, ours (in words where it is real) and the paper's."""
    rows: list[Row] = []
    for dataset in datasets:
        for one in (one for one in found if one.labels[0] == dataset):
            cells = {m: Cell(one.apart[m].relative, mark=change_mark(one.apart[m], m)) for m in PAPER_METRICS}
            rows.append((one.labels, cells))
        theirs = _theirs(experiment, dataset)
        base = theirs.get(REFERENCE, {})
        for method, values in theirs.items():
            if method != REFERENCE:
                cells = {m: Cell(values[m] / base[m] - 1) for m in PAPER_METRICS if m in values and base.get(m)}
                rows.append(((dataset, "paper", method, REFERENCE), cells))
    return Table("", ("dataset", "source", "method", "reference"), PAPER_METRICS, tuple(rows), digits=3)


def differences_table(found: Sequence[Compared]) -> Table:
    """Paired difference of every method to BIGRec, metric by metric: 95% interval, relative, effect size, p."""
    rows: list[Row] = []
    for one in found:
        for metric in PAPER_METRICS:
            cells = {"value": Cell(one.sample.interval(metric).value), **difference_cells(one.apart[metric], metric)}
            rows.append(((*one.labels, with_arrow(metric)), cells))
    return Table("", ("dataset", "source", "method", "reference", "measure"), ("value", *DIFFERENCE), tuple(rows))


def table1(datasets: Sequence[Dataset]) -> Table:
    """Table 1: items, interactions and sequences of each dataset, ours and the paper's."""
    rows: list[Row] = []
    printed = published_sizes()
    for dataset in datasets:
        for source, facts in (("ours", stats(dataset)["table1"]), ("paper", printed.get(dataset.name, {}))):
            if facts:
                cells = {name: Cell(float(value)) for name, value in facts.items()}
                rows.append(((dataset.name, source), cells))
    return Table("", ("dataset", "source"), ("items", "interactions", "sequences"), tuple(rows), digits=0)


def tradeoff(samples: Mapping[str, Samples], stem: Path) -> list[Path]:
    """Accuracy against diversity, which no figure of the paper shows: every method, by every way to recommend."""
    from sprec.report.figures import Point, trade_offs

    metrics = ("DivRatio@1", "NDCG@5")
    record: dict[str, dict[str, dict[str, Any]]] = {}
    panels: dict[str, dict[tuple[str, str], Point]] = {}
    for dataset, ours in samples.items():
        for (variant, how), sample in ours.items():
            x, y = (sample.interval(metric) for metric in metrics)
            panels.setdefault(dataset, {})[variant, how] = Point(x.value, y.value, (x.low, x.high), (y.low, y.high))
            own = {metric: _bounds(interval) for metric, interval in zip(metrics, (x, y), strict=True)}
            record.setdefault(dataset, {}).setdefault(how, {})[variant] = own
    _write_json(stem, record)
    return trade_offs(panels, metrics, stem)


def figure3(found: Mapping[Job, Record], dataset: Dataset, stem: Path) -> list[Path]:
    """Per-genre unfairness abs(GU(g)) at k=1, one bar per method: mean and t-interval over seeds."""
    from sprec.report.figures import genre_bars

    title, names = _legend(found, dataset)
    values: dict[str, list[Any]] = {}
    for job, name in names.items():
        values.setdefault(name, []).append(np.abs(genre_unfairness(found[job].cases(dataset, job.recipe.split), 1)))
    spread = {name: [t_interval(own, 0.0, 1.0) for own in np.transpose(seeds)] for name, seeds in values.items()}
    table = {
        name: {genre: _bounds(interval) for genre, interval in zip(dataset.genres, own, strict=True)}
        for name, own in spread.items()
    }
    _write_json(stem, table)
    means = {name: [interval.value for interval in own] for name, own in spread.items()}
    bounds = {name: ([i.low for i in own], [i.high for i in own]) for name, own in spread.items()}
    return genre_bars(dataset.genres, means, stem, f"{dataset.name}: unfairness per genre at k=1, {title}", bounds)


def figure4(found: Mapping[Job, Record], dataset: Dataset, stem: Path) -> list[Path]:
    """Metrics over iterations for the ablations of SPRec: mean and t-interval over seeds."""
    title, names = _legend(found, dataset)
    lines: dict[str, dict[float, list[Mapping[str, float]]]] = {}
    for job, name in names.items():
        for iteration, metrics in _by_iteration(found[job]).items():
            lines.setdefault(name, {}).setdefault(iteration, []).append(metrics)
    return _curves(lines, "iteration", stem, f"{dataset.name}: metrics over iterations, {title}")


def sweep(found: Mapping[Job, Record], dataset: Dataset, stem: Path, label: str) -> list[Path]:
    """Metrics over a swept setting: of each seed the mean of the last three iterations, then as in Figure 4."""
    title, names = _legend(found, dataset, "SPRec")
    lines: dict[str, dict[float, list[Mapping[str, float]]]] = {}
    for job, name in names.items():
        last = [metrics for iteration, metrics in _by_iteration(found[job]).items() if iteration > 0][-LAST:]
        means = {metric: float(np.mean([metrics[metric] for metrics in last])) for metric in last[-1]}
        lines.setdefault(name, {}).setdefault(float(job.variant), []).append(means)
    return _curves(lines, label, stem, f"{dataset.name}: {label}, {title}")


def _legend(found: Mapping[Job, Record], dataset: Dataset, name: str = "") -> tuple[str, dict[Job, str]]:
    """How the language models of a figure recommend, for its title, and each job's name in the legend.

    A method that recommends in another way says so in its name, so that no two ways share a line.

    Args:
        found: the runs.
        dataset: only its jobs count.
        name: of the method where the variant is a swept value.
    """
    jobs = [job for job in found if job.dataset == dataset.name]
    common = next((job.how for job in jobs if job.variant not in OWN_WAY), jobs[0].how)
    return common, {job: (name or job.variant) + ("" if job.how == common else f" ({job.how})") for job in jobs}


def _by_iteration(record: Record) -> dict[int, Mapping[str, float]]:
    """Iteration to the metrics of its last evaluation."""
    return {result.iteration: result.metrics for result in record.results}


def _curves(
    lines: Mapping[str, Mapping[float, Sequence[Mapping[str, float]]]], label: str, stem: Path, title: str
) -> list[Path]:
    """Draw and record name to x to the metrics of each seed."""
    from sprec.report.figures import curves

    panels: dict[str, dict[str, Series]] = {}
    record: dict[str, Any] = {}
    for metric in (*PAPER_METRICS[:6], "NDCG@1", *PAPER_METRICS[6:]):
        for name, points in lines.items():
            seeds = {x: [m[metric] for m in own if metric in m] for x, own in sorted(points.items())}
            spread = {x: t_interval(own, 0.0, 1.0) for x, own in seeds.items() if own}
            record.setdefault(metric, {})[name] = {x: _bounds(interval) for x, interval in spread.items()}
            if spread:
                panels.setdefault(metric, {})[name] = _series(spread)
    _write_json(stem, record)
    return curves(panels, label, stem, title, columns=3)


def _series(spread: Mapping[float, Interval]) -> "Series":
    """A line through the means; without a band where there is only one seed."""
    from sprec.report.figures import Series

    means, lows, highs = ([getattr(i, part) for i in spread.values()] for part in ("value", "low", "high"))
    if all(map(math.isnan, lows)):
        return Series(list(spread), means)
    return Series(list(spread), means, lows, highs)


def _bounds(interval: Interval) -> dict[str, float | None]:
    bounds: dict[str, float | None] = storage.defined(vars(interval))
    return bounds


def _write_json(stem: Path, record: Mapping[str, Any]) -> None:
    with storage.writing(stem.parent, "choose another -o"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json(stem.with_name(f"{stem.name}.json"), record)
