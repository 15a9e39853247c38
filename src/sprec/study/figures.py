"""The paper's figures from records (``found``) or their bootstraps (``samples``) of a ``dataset``.

Each is drawn and written as JSON to files with the path ``stem`` and a suffix; the functions return these files.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sprec.data import Dataset
from sprec.evaluation import (
    PAPER_METRICS,
    Interval,
    genre_unfairness,
    parsed,
    t_interval,
)
from sprec.study.plan import OWN_WAY, Job
from sprec.study.records import Record
from sprec.study.tables import Samples
from sprec.system import storage

if TYPE_CHECKING:
    from sprec.evaluation.plots import Series

LAST = 3
"""A sweep shows the mean over this many last iterations (paper, RQ3)."""


def tradeoff(samples: Mapping[str, Samples], stem: Path) -> list[Path]:
    """Accuracy against diversity, for every method and protocol; the paper has no such figure."""
    from sprec.evaluation.plots import Point, trade_offs

    metrics = ("DivRatio@1", "NDCG@5")
    record: dict[str, dict[str, dict[str, Any]]] = {}
    panels: dict[str, dict[tuple[str, ...], Point]] = {}
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
    from sprec.evaluation.plots import genre_bars

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
    """Metrics over a swept setting, its ``label`` below: each seed's mean over the last iterations, as in Figure 4."""
    title, names = _legend(found, dataset, "SPRec")
    lines: dict[str, dict[float, list[Mapping[str, float]]]] = {}
    for job, name in names.items():
        last = [metrics for iteration, metrics in _by_iteration(found[job]).items() if iteration > 0][-LAST:]
        means = {metric: float(np.mean([metrics[metric] for metrics in last])) for metric in last[-1]}
        lines.setdefault(name, {}).setdefault(float(job.variant), []).append(means)
    return _curves(lines, label, stem, f"{dataset.name}: {label}, {title}")


def _legend(found: Mapping[Job, Record], dataset: Dataset, name: str = "") -> tuple[str, dict[Job, str]]:
    """The protocol of the language models in a figure, for its title, and each job's name in the legend.

    A method with another protocol has that in its name, so that no two protocols share a line.

    Args:
        found: the runs.
        dataset: only its jobs count.
        name: of the method, if the variant is a swept value.
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
    """Draw lines and write them as JSON: name to x to the metrics of each seed."""
    from sprec.evaluation.plots import curves

    panels: dict[str, dict[str, Series]] = {}
    record: dict[str, Any] = {}
    for metric in (*PAPER_METRICS[:6], "NDCG@1", *PAPER_METRICS[6:]):
        for name, points in lines.items():
            seeds = {x: [m[metric] for m in own if metric in m] for x, own in sorted(points.items())}
            spread = {x: t_interval(own, 0.0, parsed(metric)[0].high) for x, own in seeds.items() if own}
            record.setdefault(metric, {})[name] = {x: _bounds(interval) for x, interval in spread.items()}
            if spread:
                panels.setdefault(metric, {})[name] = _series(spread)
    _write_json(stem, record)
    return curves(panels, label, stem, title, columns=3)


def _series(spread: Mapping[float, Interval]) -> "Series":
    """A line through the means, with a band if there are several seeds."""
    from sprec.evaluation.plots import Series

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
