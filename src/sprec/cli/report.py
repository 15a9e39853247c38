"""``sprec report``: runs as a page."""

from pathlib import Path
from typing import Annotated

import typer

from sprec.cli.runs import Metrics


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs over the same test cases.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write, such as report.html.")],
    metrics: Metrics = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace this file.")] = False,
) -> None:
    """Write a page about runs: results, who gets exposure, what was learned, how to repeat it. Needs no network."""
    from sprec.report.page import write_report

    write_report(runs, output, metrics, overwrite=overwrite)
    typer.echo(f"wrote {output}")
