"""The frontier as files: tables, the cells of the chosen method, figures, hypervolumes.

``found`` maps datasets to their :class:`~sprec.study.frontier.Frontier`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sprec.data import Dataset
from sprec.evaluation import PAPER_METRICS, Bootstrap, Cell, Table, compare, difference_cells, direction, with_arrow
from sprec.study.frontier import EXPERTS, OURS, STRONG, Frontier, best, cells, fresh_rows, frontier
from sprec.study.scores import TRIES
from sprec.study.tables import write_table
from sprec.system import storage
from sprec.system.errors import UserError

Row = tuple[tuple[str, ...], Mapping[str, Cell]]
PLANES = (("DivRatio@1", "NDCG@5"), ("ORRatio@5", "NDCG@5"))
"""Pairs of metrics that are drawn against each other."""


def write_frontier(datasets: Sequence[Dataset], out: Path, records: Path, rows: Sequence[str] = ()) -> list[Path]:
    """Make and write everything: both tables, cells, differences, figures and hypervolumes; returns the files.

    Args:
        datasets: the data.
        out: folder of scores, records and results.
        records: folder with the records of Table 2.
        rows: only these of the new ones, and the chosen one; by default all.

    Raises:
        UserError: there is no such row.
    """
    wanted = rows_named(rows)
    found = {dataset.name: frontier(dataset, out, records, wanted) for dataset in datasets}
    untouched = {dataset.name: fresh_rows(dataset) for dataset in datasets}
    fresh = {d.name: frontier(d, out, records, wanted, own) for d in datasets if len(own := untouched[d.name])}
    files = [
        *write_table(rows_table(found), out / "frontier"),
        *write_table(rows_table(fresh), out / "frontier-fresh"),
        *write_table(comparison(found), out / "comparison"),
        *write_table(volumes(found), out / "hypervolume"),
    ]
    with storage.writing(out, "choose another -o"):
        storage.write_json(out / "cells.json", cells(found))
    from sprec.evaluation.plots import Point, trade_offs

    for x, y in PLANES:
        panels = {
            name: {point: Point(*_place(sample, x, y)) for point, sample in _drawn(own).items()}
            for name, own in found.items()
        }
        files += trade_offs(panels, (x, y), out / f"frontier-{x.partition('@')[0].lower()}")
    return [*files, out / "cells.json"]


def rows_named(rows: Sequence[str]) -> list[str]:
    """The new ``rows`` of these names, and the chosen one; all if none is named.

    Raises:
        UserError: there is no such row.
    """
    known = [*TRIES, *EXPERTS]
    if unknown := set(rows) - set(known):
        raise UserError(f"frontier has no rows {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return [row for row in known if not rows or row in {*rows, OURS.removesuffix(", tilted")}]


def rows_table(found: Mapping[str, Frontier]) -> Table:
    """All rows of all datasets with their intervals; nothing is marked."""
    rows: list[Row] = []
    for dataset, own in found.items():
        groups = (("ours", own.ours), ("the paper's", own.theirs), ("floor", own.floor), ("reference", own.reference))
        for group, samples in groups:
            for name, sample in samples.items():
                seeds = f"{len(sample.training_seeds)}"
                rows.append(((dataset, group, name, f"{sample.n}", seeds), _intervals(sample)))
    return Table("", ("dataset", "rows", "recommender", "cases", "seeds"), PAPER_METRICS, tuple(rows))


def _intervals(sample: Bootstrap) -> dict[str, Cell]:
    intervals = {metric: sample.interval(metric) for metric in PAPER_METRICS if metric in sample.per_seed}
    return {metric: Cell(found.value, found.low, found.high) for metric, found in intervals.items()}


def comparison(found: Mapping[str, Frontier]) -> Table:
    """The chosen method against the best of the paper's systems and the best strong baseline, cell by cell."""
    rows: list[Row] = []
    for dataset, own in found.items():
        strong = {row: own.ours[row] for row in STRONG if row in own.ours}
        for against, group in (("the paper's", own.theirs), ("strong", strong)):
            for metric in PAPER_METRICS:
                other = best(group, metric)
                apart = compare(own.ours[OURS], group[other])[metric]
                value = Cell(own.ours[OURS].interval(metric).value)
                beside = Cell(group[other].interval(metric).value)
                won = (value.value - beside.value) * direction(metric) > 0
                labels = (dataset, against, with_arrow(metric), other, "best" if won else "lost")
                rows.append((labels, {"ours": value, "other": beside, **difference_cells(apart, metric)}))
    columns = ("ours", "other", "difference", "relative", "p")
    return Table(OURS, ("dataset", "against", "metric", "row", "mean"), columns, tuple(rows))


def volumes(found: Mapping[str, Frontier]) -> Table:
    """The area that the rows of a group dominate, in each plane of :data:`PLANES`."""
    rows: list[Row] = []
    for dataset, own in found.items():
        groups = {
            "the paper's systems": own.theirs,
            "ours, plain": {name: sample for name, sample in own.ours.items() if not name.endswith(", tilted")},
            "ours, plain and tilted": own.ours,
        }
        for group, samples in groups.items():
            areas = {f"{y} x {x}": Cell(hypervolume([_worth(s, x, y) for s in samples.values()])) for x, y in PLANES}
            rows.append(((dataset, group), areas))
    return Table("", ("dataset", "rows"), tuple(f"{y} x {x}" for x, y in PLANES), tuple(rows), digits=5)


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """The hypervolume of ``points`` in two metrics that are at least 0 and better when higher.

    It is the area of the union of the rectangles from (0, 0) to each point (Zitzler and Thiele 1999).
    """
    area, height = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if y > height:
            area, height = area + x * (y - height), y
    return area


def _worth(sample: Bootstrap, x: str, y: str) -> tuple[float, float]:
    """A point in a plane where higher is better: metrics that are better when lower count as 1 minus their value."""
    values = [sample.interval(metric).value for metric in (x, y)]
    return tuple(v if direction(m) > 0 else 1 - v for v, m in zip(values, (x, y), strict=True))  # type: ignore[return-value]


def _place(sample: Bootstrap, x: str, y: str) -> tuple[float, float, tuple[float, float], tuple[float, float]]:
    a, b = sample.interval(x), sample.interval(y)
    return a.value, b.value, (a.low, a.high), (b.low, b.high)


def _drawn(own: Frontier) -> dict[tuple[str, ...], Bootstrap]:
    """(colour, marker, row): ours by their names and whether they are tilted, all of the paper's in one colour."""
    drawn: dict[tuple[str, ...], Bootstrap] = {}
    for name, sample in own.theirs.items():
        drawn["the paper's systems", name.partition(", ")[2], name] = sample
    for name, sample in own.ours.items():
        drawn[name.removesuffix(", tilted"), "tilted" if name.endswith(", tilted") else "plain", name] = sample
    return drawn
