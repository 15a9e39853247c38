"""``sprec items``: goods come and go without training."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Change the items of a finished run without training.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="A finished run with a language model; it stays as it is.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the new run.")]


@app.command()
def add(
    run: Run,
    goods: Annotated[Path, typer.Argument(help="Table of new items, with the columns of the run's list of items.")],
    output: Output,
) -> None:
    """Add items: the language model can recommend them at once, by their titles."""
    from sprec.runs.items import add_items, counted

    change = add_items(run, goods, output)
    typer.echo(f"wrote {output}: {counted(change.items)} added, {len(change.dataset.catalog):,} in all")


@app.command()
def remove(
    run: Run,
    names: Annotated[Path, typer.Argument(help="Items to remove, an id or a title a line.")],
    output: Output,
) -> None:
    """Remove items from the catalog and from all histories."""
    from sprec.runs.items import counted, remove_items
    from sprec.system.errors import UserError

    try:
        lines = names.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {names}: give a text file with an id or a title a line") from error
    change = remove_items(run, [line.strip() for line in lines if line.strip()], output)
    typer.echo(f"wrote {output}: {counted(change.items)} removed, {len(change.dataset.catalog):,} left")


@app.command()
def rename(
    run: Run,
    titles: Annotated[Path, typer.Argument(help="Table of ids and new titles, with the columns of the run's list.")],
    output: Output,
) -> None:
    """Give items other titles."""
    from sprec.runs.items import counted, rename_items

    change = rename_items(run, titles, output)
    typer.echo(f"wrote {output}: {counted(change.items)} renamed")
