"""Finished experiments as the paper's tables and figures, beside the paper's numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sprec.data import Dataset
from sprec.data.stats import stats
from sprec.evaluation import (
    PAPER_METRICS,
    Bootstrap,
    Cases,
    Cell,
    Table,
    bootstrap,
    compare,
    genre_unfairness,
    marks,
    plain_marks,
)
from sprec.report.paper import published
from sprec.runs.records import Record
from sprec.runs.reproduce import Job

REFERENCE = "BIGRec"
_PROTOCOLS = {"paper": "paper's protocol", "exact": "exact", "consensus": "consensus"}


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write a table as CSV, JSON, Markdown and LaTeX."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    forms = {"csv": table.csv(), "json": table.json(), "md": table.markdown(), "tex": table.latex()}
    for suffix, content in forms.items():
        stem.with_suffix(f".{suffix}").write_text(content, "utf-8")
    return [stem.with_suffix(f".{suffix}") for suffix in forms]


def sampled(found: Mapping[Job, Record], dataset: Dataset) -> dict[tuple[str, str], Bootstrap]:
    """(variant, protocol) to its bootstrap over cases, seeds together, from the last evaluation of each run."""
    groups: dict[tuple[str, str], list[Cases]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name:
            groups.setdefault((job.variant, job.protocol), []).append(record.cases(dataset))
    return {key: bootstrap(cases) for key, cases in groups.items()}


def paper_table(experiment: str, found: Mapping[Job, Record], datasets: Sequence[Dataset], mark: str) -> Table:
    """Table 2 or 3: our values with intervals for each dataset and protocol, then the published ones.

    Args:
        mark: ``real`` marks a best and second best only where the difference is real, ``paper`` as the paper does.
    """
    rows: list[tuple[tuple[str, ...], Mapping[str, Cell]]] = []
    printed = published()
    for dataset in datasets:
        ours = sampled(found, dataset)
        for protocol in dict.fromkeys(protocol for _, protocol in ours):
            block = {variant: sample for (variant, own), sample in ours.items() if own == protocol}
            seeds = {job.seed for job in found if job.dataset == dataset.name}
            cells = _cells(block, mark)
            rows += [
                ((dataset.name, f"ours, {_PROTOCOLS.get(protocol, protocol)}, {len(seeds)} seeds", name), cells[name])
                for name in block
            ]
        theirs = {m: v for (table, data, m), v in printed.items() if (table, data) == (experiment, dataset.name)}
        stars = {metric: plain_marks({m: v[metric] for m, v in theirs.items()}, metric) for metric in PAPER_METRICS}
        rows += [
            ((dataset.name, "paper", m), {k: Cell(v[k], mark=stars[k][m]) for k in PAPER_METRICS if k in v})
            for m, v in theirs.items()
        ]
    return Table("", ("dataset", "source", "method"), PAPER_METRICS, tuple(rows))


def _cells(block: Mapping[str, Bootstrap], mark: str) -> dict[str, dict[str, Cell]]:
    cells: dict[str, dict[str, Cell]] = {name: {} for name in block}
    for metric in PAPER_METRICS:
        intervals = {name: sample.interval(metric) for name, sample in block.items()}
        plain = {name: interval.value for name, interval in intervals.items()}
        given = marks(block, metric) if mark == "real" else plain_marks(plain, metric)
        for name, interval in intervals.items():
            cells[name][metric] = Cell(interval.value, interval.low, interval.high, given[name])
    return cells


def changes_table(experiment: str, found: Mapping[Job, Record], datasets: Sequence[Dataset]) -> Table:
    """Relative change of every method to BIGRec, ours (marked where it is real) and the paper's."""
    rows: list[tuple[tuple[str, ...], Mapping[str, Cell]]] = []
    printed = published()
    for dataset in datasets:
        ours = sampled(found, dataset)
        for (variant, protocol), sample in ours.items():
            if variant != REFERENCE and (REFERENCE, protocol) in ours:
                apart = compare(sample, ours[REFERENCE, protocol])
                cells = {m: Cell(apart[m].relative, mark="best" if apart[m].real else "") for m in PAPER_METRICS}
                rows.append(((dataset.name, f"ours, {_PROTOCOLS.get(protocol, protocol)}", variant), cells))
        base = printed.get((experiment, dataset.name, REFERENCE), {})
        for (table, data, method), values in printed.items():
            if (table, data) == (experiment, dataset.name) and method != REFERENCE:
                cells = {m: Cell(values[m] / base[m] - 1) for m in PAPER_METRICS if m in values and base.get(m)}
                rows.append(((dataset.name, "paper", method), cells))
    return Table("", ("dataset", "source", "method"), PAPER_METRICS, tuple(rows), digits=3)


def table1(datasets: Sequence[Dataset]) -> Table:
    """Table 1: items, interactions and sequences of each dataset."""
    rows = []
    for dataset in datasets:
        facts = stats(dataset)["table1"]
        rows.append(((dataset.name,), {name: Cell(float(value)) for name, value in facts.items()}))
    return Table("", ("dataset",), ("items", "interactions", "sequences"), tuple(rows), digits=0)


def figure3(found: Mapping[Job, Record], dataset: Dataset, stem: Path) -> list[Path]:
    """Per-genre unfairness |GU(g)| at k=1, one bar per method, mean over seeds."""
    from sprec.report.figures import genre_bars

    values: dict[str, list[Any]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name:
            values.setdefault(job.variant, []).append(np.abs(genre_unfairness(record.cases(dataset), 1)))
    means = {variant: np.mean(own, axis=0) for variant, own in values.items()}
    table = {variant: dict(zip(dataset.genres, mean.tolist(), strict=True)) for variant, mean in means.items()}
    _write_json(stem, table)
    return genre_bars(dataset.genres, means, stem, f"{dataset.name}: unfairness per genre at k=1")


def figure4(found: Mapping[Job, Record], dataset: Dataset, stem: Path) -> list[Path]:
    """Metrics over iterations for SPRec and its ablations, mean over seeds."""
    lines: dict[str, dict[int, list[Mapping[str, float]]]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name and job.variant != REFERENCE:
            for result in record.results:  # the last evaluation of an iteration counts
                lines.setdefault(job.variant, {}).setdefault(result.iteration, [])
            last = {result.iteration: result.metrics for result in record.results}
            for iteration, metrics in last.items():
                lines[job.variant][iteration].append(metrics)
    return _curves(lines, "iteration", stem, f"{dataset.name}: metrics over iterations")


def sweep(found: Mapping[Job, Record], dataset: Dataset, stem: Path, label: str) -> list[Path]:
    """Metrics over a swept setting: mean over seeds of the last three iterations (paper, RQ3)."""
    points: dict[float, list[Mapping[str, float]]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name:
            last = {result.iteration: result.metrics for result in record.results}
            points.setdefault(float(job.variant), []).extend(list(last.values())[-3:])
    return _curves({"SPRec": points}, label, stem, f"{dataset.name}: {label}")


def _curves(
    lines: Mapping[str, Mapping[Any, Sequence[Mapping[str, float]]]], label: str, stem: Path, title: str
) -> list[Path]:
    from sprec.report.figures import Series, curves

    metrics = (*PAPER_METRICS[:6], "NDCG@1", *PAPER_METRICS[6:])
    panels: dict[str, dict[str, Series]] = {}
    record: dict[str, Any] = {}
    for metric in metrics:
        for name, points in lines.items():
            values = {x: [m[metric] for m in own if metric in m] for x, own in sorted(points.items())}
            means = {x: float(np.mean(own)) for x, own in values.items() if own}
            record.setdefault(metric, {})[name] = means
            if means:
                panels.setdefault(metric, {})[name] = Series(list(means), list(means.values()))
    _write_json(stem, record)
    return curves(panels, label, stem, title, columns=3)


def _write_json(stem: Path, record: Mapping[str, Any]) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
