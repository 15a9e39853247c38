"""The command line. Each command is a few lines that call one function of a room; heavy imports happen inside."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import typer

from sprec.cli import backbone, bench, data, items, runs
from sprec.cli.recommend import recommend
from sprec.cli.report import push, report
from sprec.cli.reproduce import reproduce
from sprec.cli.serve import serve
from sprec.cli.theory import theory
from sprec.system import threads
from sprec.system.paths import require_arguments
from sprec.system.program import program

app = typer.Typer(
    help="Language models as recommenders, aligned by self-play so that they stop recommending the same few items.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(runs.recipes, name="recipes")
app.add_typer(backbone.app, name="backbone")
app.add_typer(items.app, name="items")
app.add_typer(bench.app, name="bench")
for command in runs.COMMANDS:
    app.command()(command)
app.command()(recommend)
app.command()(report)
app.command()(serve)
app.command()(push)
app.command()(reproduce)
app.command()(theory)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sprec {version('sprec')}")
        raise typer.Exit


@app.callback()
def options(
    version_: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Language models as recommenders, aligned by self-play so that they stop recommending the same few items."""


COMPUTING = frozenset({"run", "evaluate", "recommend", "serve", "reproduce", "theory", "bench"})
"""Commands that import PyTorch and keep it busy."""


def main() -> None:
    """Run the command line: user mistakes end in one line and exit code 2, signals in 128 + their number."""
    if sys.argv[1:2] and sys.argv[1] in COMPUTING and "--help" not in sys.argv:
        threads.choose()
    rank = os.environ.get("RANK", "0")
    program("sprec" if rank == "0" else f"sprec (process {rank})", _work)


def _work() -> None:
    require_arguments(sys.argv[1:])
    app()
