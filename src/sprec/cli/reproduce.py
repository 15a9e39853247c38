"""``sprec reproduce``: the paper's tables and figures, from datasets to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sprec.data import Dataset
    from sprec.runs.records import Record
    from sprec.runs.reproduce import Job


def reproduce(
    what: Annotated[str, typer.Argument(help="table1 to table3, figure2 to figure6, claims, or rates (search them).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of runs, tables and figures.")],
    datasets: Annotated[list[Path] | None, typer.Option("--datasets", help="A dataset directory; repeat it.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="A seed; repeat it. Default 0 1 2.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Recipe for all datasets; default: NAME-scratch.")] = None,
    protocols: Annotated[
        list[str] | None, typer.Option("--protocols", help="paper, exact or consensus; repeat it. Default paper.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only these rows of a table; repeat it.")] = None,
    marks: Annotated[str, typer.Option(help="Mark real differences (real) or as the paper does (paper).")] = "real",
    set: Annotated[list[str] | None, typer.Option("--set", help="Change a setting of all runs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and stop.")] = False,
) -> None:
    """Rebuild a table or figure of the paper: plans all runs, shares their stages, resumes."""
    from sprec.cli.runs import quiet
    from sprec.data import Dataset
    from sprec.errors import UserError

    if what == "figure2":
        from sprec.cli.theory import theory

        theory(output, json=False)
        return
    if not datasets:
        raise UserError(f"{what} needs --datasets DATASET; make one with sprec data import")
    loaded = [Dataset.load(path) for path in datasets]
    if what == "table1":
        _table1(loaded, output)
        return
    quiet()
    if what == "rates":
        _rates(loaded, output, seeds or [0], backbone, set or [], only or [])
        return
    from sprec.runs.reproduce import execute, plan

    jobs = [
        job
        for experiment in (("table2", "table3") if what == "claims" else (what,))
        for job in plan(
            experiment,
            loaded,
            seeds or [0, 1, 2],
            backbone=backbone,
            protocols=protocols or ["paper"],
            changes=set or [],
            variants=only or [],
        )
    ]
    if dry_run:
        for job in jobs:
            typer.echo(f"{job.dataset}, {job.variant}, {job.protocol}, seed {job.seed} -> {job.folder(output)}")
        return
    for file in _report(what, execute(list(dict.fromkeys(jobs)), loaded, output), loaded, output, marks):
        typer.echo(f"wrote {file}")


def _table1(datasets: "list[Dataset]", output: Path) -> None:
    from sprec.cli.runs import print_table
    from sprec.runs.paper import table1, write_table

    table = table1(datasets)
    print_table(table)
    for file in write_table(table, output / "table1"):
        typer.echo(f"wrote {file}")


def _rates(
    datasets: "list[Dataset]", output: Path, seeds: list[int], backbone: str | None, set: list[str], only: list[str]
) -> None:
    from sprec.cli.runs import print_table
    from sprec.runs.paper import write_table
    from sprec.runs.rates import search

    table = search(datasets, output, seed=seeds[0], backbone=backbone, changes=set, variants=only)
    print_table(table)
    for file in write_table(table, output / "rates"):
        typer.echo(f"wrote {file}")


def _report(what: str, found: "dict[Job, Record]", datasets: "list[Dataset]", output: Path, marks: str) -> list[Path]:
    from sprec.cli.runs import print_table
    from sprec.runs import paper

    if what == "claims":
        from sprec.runs.claims import claims_table

        claims = claims_table(found, datasets)
        print_table(claims)
        return paper.write_table(claims, output / what)
    if what.startswith("table"):
        table, changes = paper.paper_table(what, found, datasets, marks), paper.changes_table(what, found, datasets)
        print_table(table)
        return [
            *paper.write_table(table, output / what),
            *paper.write_table(changes, output / f"{what}-changes"),
        ]
    files: list[Path] = []
    for dataset in datasets:
        stem = output / f"{what}-{dataset.name.split()[0]}"
        if what == "figure3":
            files += paper.figure3(found, dataset, stem)
        elif what == "figure4":
            files += paper.figure4(found, dataset, stem)
        else:
            label = "share of random negatives" if what == "figure5" else "negatives per prompt"
            files += paper.sweep(found, dataset, stem, label)
    return files
