"""``sprec reproduce``: the paper's tables and figures, from datasets to files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

    _check_options(what, marks, metrics, protocols, recorded)
    if what == "figure2":
        _figure2(output, dry_run)
        return
    loaded = _load(what, datasets or [])
    if what == "table1":
        _table1(loaded, output, dry_run)
        return
    quiet()
    if what == "frontier":
        _refuse_for_frontier(seeds=seeds, backbone=backbone, set=set)
        _frontier(loaded, output, table2 or output, only or [], dry_run)
        return
    if what == "rates":
        _rates(loaded, output, seeds or [0], backbone, set or [], only or [], jobs, dry_run)
        return
    from sprec.study.execute import check_records, execute, on_record
    from sprec.study.plan import check_fits, plan

    rows = {"protocols": protocols or [], "changes": set or [], "variants": only or []}
    planned = plan(what, loaded, seeds or [0, 1, 2], backbone=backbone, **rows)
    check_fits(planned, loaded)
    check_records(planned, loaded, output)
    if recorded:
        planned = on_record(planned, loaded, output)
        loaded = [dataset for dataset in loaded if any(job.dataset == dataset.name for job in planned)]
    if dry_run:
        _print_plan(planned, output)
        return
    if what.startswith("figure") or what == "tradeoff":
        import sprec.evaluation.plots  # noqa: F401  # a missing extra shows before hours of runs
    _say_written(_report(what, execute(planned, loaded, output, jobs), loaded, output, marks, metrics))


def _check_options(what: str, marks: str, metrics: str | None, protocols: Sequence[str] | None, recorded: bool) -> None:
    """Refuse options that what is asked for does not have."""
    from sprec.system.errors import UserError

    if metrics and what not in ("table2", "table3", "variants"):
        raise UserError(f"{what} has metrics of its own; --metrics is for table2, table3 and variants")
    from sprec.recommend.protocols import of_language_models
    from sprec.study.plan import PAPERS
    from sprec.study.tables import MARKS

    if marks not in MARKS:
        raise UserError(f"--marks is {' or '.join(MARKS)}, not {marks}")
    for protocol in protocols or []:
        if protocol not in of_language_models():
            known = ", ".join(of_language_models())
            raise UserError(f"--protocols takes {known}, not {protocol}; D3 is a method of its own")
    if what in ("rates", "claims") and {*(protocols or [PAPERS])} != {PAPERS}:
        raise UserError(f"{what} go by the paper's protocol; leave out --protocols")
    if what == "rates" and recorded:
        raise UserError("rates runs what is not on record and tabulates it all; leave out --recorded")


def _load(what: str, paths: Sequence[Path]) -> "list[Dataset]":
    from sprec.data import Dataset
    from sprec.study.plan import by_name
    from sprec.system.errors import UserError

    if not paths:
        raise UserError(f"{what} needs --datasets DATASET; make one with sprec data import")
    return list(by_name([Dataset.load(path) for path in paths]).values())


def _figure2(output: Path, dry_run: bool) -> None:
    from sprec.cli.theory import theory

    if dry_run:
        typer.echo(f"figure2 needs no runs: computed -> {output}")
        return
    theory(output, json=False)


def _table1(datasets: "list[Dataset]", output: Path, dry_run: bool) -> None:
    from sprec.study.tables import table1

    if dry_run:
        typer.echo(f"table1 needs no runs: counted in {', '.join(d.name for d in datasets)} -> {output / 'table1'}.*")
        return
    _print_and_write(table1(datasets), output / "table1")


def _refuse_for_frontier(**options: object) -> None:
    from sprec.system.errors import UserError

    for name, value in options.items():
        if value:
            raise UserError(f"frontier has settings of its own; leave out --{name}")


def _frontier(datasets: "list[Dataset]", output: Path, table2: Path, only: list[str], dry_run: bool) -> None:
    from sprec.study.frontier_report import rows_named, write_frontier

    if dry_run:
        for dataset in datasets:
            for row in rows_named(only):
                typer.echo(f"{dataset.name}, {row} -> {output}")
        return
    _say_written(write_frontier(datasets, output, table2, only))


def _rates(
    datasets: "list[Dataset]",
    output: Path,
    seeds: Sequence[int],
    backbone: str | None,
    set: list[str],
    only: list[str],
    jobs: int,
    dry_run: bool,
) -> None:
    from sprec.study.rates import plan_search, search
    from sprec.study.tables import write_table
    from sprec.system.errors import UserError

    if len(seeds) > 1:
        raise UserError("rates are searched with one seed; give --seeds once")
    if dry_run:
        _print_plan(plan_search(datasets, seed=seeds[0], backbone=backbone, changes=set, variants=only), output)
        return
    chosen, each = search(datasets, output, seed=seeds[0], backbone=backbone, changes=set, variants=only, workers=jobs)
    _print_and_write(chosen, output / "rates")
    if len(datasets) > 1:
        _say_written(write_table(each, output / "rates-by-dataset"))


def _print_plan(jobs: "Sequence[Job]", output: Path) -> None:
    for job in jobs:
        typer.echo(f"{job.title} -> {job.folder(output)}")


def _print_and_write(table: "Table", stem: Path) -> None:
    from sprec.cli.runs import print_table
    from sprec.study.tables import write_table

    print_table(table)
    _say_written(write_table(table, stem))


def _say_written(files: Sequence[Path]) -> None:
    for file in files:
        typer.echo(f"wrote {file}")


def _report(
    what: str,
    found: "dict[Job, Record]",
    datasets: "list[Dataset]",
    output: Path,
    marks: str,
    metrics: str | None,
) -> list[Path]:
    if what == "claims":
        return _claims(found, datasets, output)
    if what.startswith("table") or what == "variants":
        return _tables(what, found, datasets, output, marks, metrics)
    if what == "tradeoff":
        return _tradeoff(found, datasets, output)
    stems = {dataset.name: _stem(output, what, dataset, datasets) for dataset in datasets}
    return [file for dataset in datasets for file in _figure(what, found, dataset, stems[dataset.name])]


def _claims(found: "dict[Job, Record]", datasets: "list[Dataset]", output: Path) -> list[Path]:
    from sprec.cli.runs import print_table
    from sprec.study.claims import claims_table
    from sprec.study.tables import write_table

    claims = claims_table(found, datasets)
    print_table(claims)
    return write_table(claims, output / "claims")


def _tables(
    what: str,
    found: "dict[Job, Record]",
    datasets: "list[Dataset]",
    output: Path,
    marks: str,
    metrics: str | None,
) -> list[Path]:
    from sprec.cli.runs import print_table
    from sprec.study import tables

    samples = {dataset.name: tables.sampled(found, dataset, metrics) for dataset in datasets}
    table = tables.paper_table(what, samples, marks)
    print_table(table)
    compared = tables.compared(samples)
    return [
        *tables.write_table(table, output / what),
        *tables.write_table(tables.changes_table(what, samples, compared), output / f"{what}-changes"),
        *tables.write_table(tables.differences_table(compared), output / f"{what}-differences"),
    ]


def _tradeoff(found: "dict[Job, Record]", datasets: "list[Dataset]", output: Path) -> list[Path]:
    from sprec.study import figures, tables

    return figures.tradeoff({dataset.name: tables.sampled(found, dataset) for dataset in datasets}, output / "tradeoff")


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
