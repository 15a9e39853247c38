"""``sprec data``: make datasets and look at them. Nothing here needs torch; polars is imported when a command
runs.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sprec.data import Dataset

app = typer.Typer(help="Make datasets and look at them.", no_args_is_help=True)

Output = Annotated[Path, typer.Option("-o", "--output", help="Where the dataset directory is written.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")]


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(help="Format of the source: sprec.")],
    source: Annotated[Path, typer.Argument(help="File or folder to read.")],
    output: Output,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset; which one, where the source has several.")
    ] = None,
    genre: Annotated[list[str] | None, typer.Option(help="A genre of the fairness metrics; repeat it.")] = None,
    drop_repeats: Annotated[bool, typer.Option(help="Drop items that follow themselves in a history.")] = False,
    drop_seen_targets: Annotated[bool, typer.Option(help="Drop rows whose target is in the history.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read files in a known FORMAT and write a dataset."""
    from sprec.data.readers.sprec import read
    from sprec.errors import UserError

    if format != "sprec":
        raise UserError(f'unknown format "{format}"; formats: sprec')
    dataset = read(source, name, genres=genre, drop_repeats=drop_repeats, drop_seen_targets=drop_seen_targets)
    _report(dataset.save(output, overwrite=overwrite), output)


@app.command()
def demo(
    output: Output,
    seed: Annotated[int, typer.Option(help="Another seed simulates other users.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the demo dataset: real film titles, simulated users."""
    from sprec.data.demo import demo as simulate

    _report(simulate(seed).save(output, overwrite=overwrite), output)


@app.command()
def stats(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what Table 1 of the paper prints, popularity skew, genre coverage, leakage and warnings."""
    from sprec.data import Dataset
    from sprec.data.stats import stats as describe
    from sprec.data.stats import table

    facts = describe(Dataset.load(dataset))
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else table(facts))


def _report(dataset: "Dataset", output: Path) -> None:
    from sprec.progress import say

    for fault, count in dataset.warnings.items():
        say(f"warning: {fault.replace('_', ' ')}: {count:,}")
    counts = ", ".join(f"{name} {len(split):,}" for name, split in dataset.splits.items())
    say(f"{dataset.name}: {len(dataset.catalog):,} items, {counts} -> {output}")
