"""``sprec report`` and ``sprec push``: runs as a page, a run as a model on the hub."""

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


def push(
    run: Annotated[Path, typer.Argument(help="A finished run with a language model.")],
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Name of the model on the hub.")],
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the model, as the hub calls it (default: that of its base).")
    ] = "",
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", metavar="FOLDER", help="Write the folder and upload nothing.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; else only its owner does.")] = False,
) -> None:
    """Publish the last model of a run with a model card; its data stay here."""
    from tempfile import TemporaryDirectory

    from sprec.report import card

    if dry_run is not None:
        card.write_folder(run, name, dry_run, licence)
        typer.echo(f"wrote {dry_run}; nothing was uploaded")
        return
    with TemporaryDirectory() as folder:
        typer.echo(card.push(run, name, Path(folder) / "model", licence, public=public))
