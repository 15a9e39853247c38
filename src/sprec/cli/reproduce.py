"""``sprec reproduce``: the paper's tables and figures, from datasets to files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprec.cli.runs import Metrics

if TYPE_CHECKING:
    from sprec.data import Dataset
    from sprec.evaluation import Table
    from sprec.study.plan import Job
    from sprec.study.records import Record


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="table1 to table3, figure2 to figure6, variants, tradeoff, claims, frontier, or rates (a search)."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of runs, tables and figures.")],
    datasets: Annotated[list[Path] | None, typer.Option("--datasets", help="A dataset directory; repeatable.")] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seeds", help="A seed; repeatable (default: 0, 1 and 2; rates: 0).")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Recipe for all datasets (default: NAME-scratch).")] = None,
    protocols: Annotated[
        list[str] | None,
        typer.Option(
            "--protocols",
            help="paper, exact or consensus; repeat it. Default: all for tables 2, 3 and tradeoff, else paper.",
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this row of a table; repeatable.")] = None,
    marks: Annotated[
        str, typer.Option(help="Mark significant differences (real), or as the paper does (paper).")
    ] = "real",
    metrics: Metrics = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="Change a setting of all runs.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Number of processes that share the runs, cores and GPUs.")
    ] = 1,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Run nothing; use only the records in the output folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and stop.")] = False,
    table2: Annotated[
        Path | None, typer.Option("--table2", help="Output folder of table2, for frontier (default: OUTPUT).")
    ] = None,
) -> None:
    """Rebuild a table or figure of the paper: plan all runs, share their stages, resume."""
    from sprec.cli.runs import quiet

    asked = _Asked(
        what, output, seeds or [], backbone, protocols or [], only or [], marks, metrics, set or [], jobs, recorded,
        dry_run, table2,
    )  # fmt: skip
    _check(asked)
    if what == "figure2":
        _figure2(asked)
        return
    loaded = _load(what, datasets or [])
    quiet()
    makers = {"table1": _table1, "frontier": _frontier, "rates": _rates}
    makers.get(what, _from_runs)(asked, loaded)


@dataclass(frozen=True)
class _Asked:
    """The options, with empty lists for those that were not given."""

    what: str
    output: Path
    seeds: Sequence[int]
    backbone: str | None
    protocols: Sequence[str]
    only: Sequence[str]
    marks: str
    metrics: str | None
    changes: Sequence[str]
    jobs: int
    recorded: bool
    dry_run: bool
    table2: Path | None


_FEWER = {
    "table1": {"recorded"},
    "figure2": {"recorded"},
    "frontier": {"only", "table2"},
    "rates": {"seeds", "backbone", "protocols", "only", "set", "jobs"},
}
"""What takes fewer options than the tables and figures that are made from runs."""


def _check(asked: _Asked) -> None:
    """Refuse options that the table or figure does not have."""
    from sprec.system.errors import UserError

    what = asked.what
    if asked.metrics and what not in ("table2", "table3", "variants"):
        raise UserError(f"{what} has metrics of its own; --metrics is for table2, table3 and variants")
    from sprec.recommend.protocols import of_language_models
    from sprec.study.plan import PAPERS
    from sprec.study.tables import MARKS

    if asked.marks not in MARKS:
        raise UserError(f"--marks is {' or '.join(MARKS)}, not {asked.marks}")
    for protocol in asked.protocols:
        if protocol not in of_language_models():
            known = ", ".join(of_language_models())
            raise UserError(f"--protocols takes {known}, not {protocol}; D3 is a method of its own")
    if what in ("rates", "claims") and {*(asked.protocols or [PAPERS])} != {PAPERS}:
        raise UserError(f"{what} go by the paper's protocol; leave out --protocols")
    if what == "rates" and asked.recorded:
        raise UserError("rates runs what is not on record and tabulates it all; leave out --recorded")
    if what == "rates" and len(asked.seeds) > 1:
        raise UserError("rates are searched with one seed; give --seeds once")
    given = {"seeds": asked.seeds, "backbone": asked.backbone, "protocols": asked.protocols, "only": asked.only,
             "marks": asked.marks != MARKS[0], "set": asked.changes, "jobs": asked.jobs > 1,
             "recorded": asked.recorded, "table2": asked.table2}  # fmt: skip
    tables = {"marks"} if what in ("table2", "table3", "variants") else set[str]()
    taken = _FEWER.get(what, {"seeds", "backbone", "protocols", "only", "set", "jobs", "recorded"} | tables)
    for name in (name for name, value in given.items() if value and name not in taken):
        raise UserError(f"{what} has no --{name}; leave it out")


def _load(what: str, paths: Sequence[Path]) -> "list[Dataset]":
    from sprec.data import Dataset
    from sprec.study.plan import by_name
    from sprec.system.errors import UserError

    if not paths:
        raise UserError(f"{what} needs --datasets DATASET; make one with sprec data import")
    return list(by_name([Dataset.load(path) for path in paths]).values())


def _figure2(asked: _Asked) -> None:
    from sprec.cli.theory import theory

    if asked.dry_run:
        typer.echo(f"figure2 needs no runs: computed -> {asked.output}")
        return
    theory(asked.output, json=False)


def _table1(asked: _Asked, datasets: "list[Dataset]") -> None:
    from sprec.study.tables import table1

    stem = asked.output / "table1"
    if asked.dry_run:
        typer.echo(f"table1 needs no runs: counted in {', '.join(d.name for d in datasets)} -> {stem}.*")
        return
    _say_written(_print_and_write(table1(datasets), stem))


def _frontier(asked: _Asked, datasets: "list[Dataset]") -> None:
    from sprec.study.frontier_report import rows_named, write_frontier

    only = list(asked.only)
    if asked.dry_run:
        for dataset in datasets:
            for row in rows_named(only):
                typer.echo(f"{dataset.name}, {row} -> {asked.output}")
        return
    _say_written(write_frontier(datasets, asked.output, asked.table2 or asked.output, only))


def _rates(asked: _Asked, datasets: "list[Dataset]") -> None:
    from sprec.study.rates import plan_search, search
    from sprec.study.tables import write_table

    seed = asked.seeds[0] if asked.seeds else 0
    settings: Any = {"seed": seed, "backbone": asked.backbone, "changes": asked.changes, "variants": asked.only}
    if asked.dry_run:
        _print_plan(plan_search(datasets, **settings), asked.output)
        return
    chosen, each = search(datasets, asked.output, **settings, workers=asked.jobs)
    _say_written(_print_and_write(chosen, asked.output / "rates"))
    if len(datasets) > 1:
        _say_written(write_table(each, asked.output / "rates-by-dataset"))


def _from_runs(asked: _Asked, datasets: "list[Dataset]") -> None:
    """Plan the runs of a table or figure, do those that are not on record, and write it."""
    from sprec.study.execute import check_records, execute, on_record
    from sprec.study.plan import check_fits, plan

    rows = {"protocols": asked.protocols, "changes": asked.changes, "variants": asked.only}
    planned = plan(asked.what, datasets, asked.seeds or [0, 1, 2], backbone=asked.backbone, **rows)
    check_fits(planned, datasets)
    check_records(planned, datasets, asked.output)
    if asked.recorded:
        planned = on_record(planned, datasets, asked.output)
        datasets = [dataset for dataset in datasets if any(job.dataset == dataset.name for job in planned)]
    if asked.dry_run:
        _print_plan(planned, asked.output)
        return
    if asked.what.startswith("figure") or asked.what == "tradeoff":
        import sprec.evaluation.plots  # noqa: F401  # a missing extra shows before hours of runs
    _say_written(_write(asked, execute(planned, datasets, asked.output, asked.jobs), datasets))


def _print_plan(jobs: "Sequence[Job]", output: Path) -> None:
    for job in jobs:
        typer.echo(f"{job.title} -> {job.folder(output)}")


def _print_and_write(table: "Table", stem: Path) -> list[Path]:
    from sprec.cli.runs import print_table
    from sprec.study.tables import write_table

    print_table(table)
    return write_table(table, stem)


def _say_written(files: Sequence[Path]) -> None:
    for file in files:
        typer.echo(f"wrote {file}")


def _write(asked: _Asked, found: "dict[Job, Record]", datasets: "list[Dataset]") -> list[Path]:
    """The files of what was asked for."""
    from sprec.study import figures, tables
    from sprec.study.claims import claims_table

    what, output = asked.what, asked.output
    if what == "claims":
        return _print_and_write(claims_table(found, datasets), output / what)
    if what.startswith("figure"):
        return [file for one in datasets for file in _figure(what, found, one, _stem(output, what, one, datasets))]
    samples = {dataset.name: tables.sampled(found, dataset, asked.metrics) for dataset in datasets}
    if what == "tradeoff":
        return figures.tradeoff(samples, output / what)
    compared = tables.compared(samples)
    for note in map(tables.left_out, datasets):
        if note:
            typer.echo(f"! {note}")
    return [
        *_print_and_write(tables.paper_table(what, samples, asked.marks), output / what),
        *tables.write_table(tables.changes_table(what, samples, compared), output / f"{what}-changes"),
        *tables.write_table(tables.differences_table(compared), output / f"{what}-differences"),
    ]


def _figure(what: str, found: "dict[Job, Record]", dataset: "Dataset", stem: Path) -> list[Path]:
    from sprec.study import figures

    if what == "figure3":
        return figures.figure3(found, dataset, stem)
    if what == "figure4":
        return figures.figure4(found, dataset, stem)
    label = "share of random negatives" if what == "figure5" else "negatives per prompt"
    return figures.sweep(found, dataset, stem, label)


def _stem(output: Path, what: str, dataset: "Dataset", datasets: "list[Dataset]") -> Path:
    """Files are called by the first word of the dataset's name, or by all where that is not enough."""
    words = dataset.name.split()
    alike = [other for other in datasets if other.name.split()[:1] == words[:1]]
    return output / f"{what}-{words[0] if len(alike) == 1 else '-'.join(words)}"
