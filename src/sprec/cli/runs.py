"""``sprec run`` and what is done with runs: evaluate, score, compare; recipes and doctor."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sprec.evaluation import Table
    from sprec.runs import Result

Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME[,NAME]|all",
        help="Metrics to show, such as HR@5,Gini (without @: at 1, 5 and 10); default: the paper's and ExactTitles.",
    ),
]
Data = Annotated[Path, typer.Option("--data", help="Dataset directory (sprec data import, sprec data demo).")]

recipes = typer.Typer(help="List and copy the shipped recipes.", no_args_is_help=True)


def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (sprec recipes ls) or path of a file.")],
    data: Annotated[Path | None, typer.Option("--data", help="Dataset directory.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run directory.")] = None,
    set: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    shared: Annotated[Path | None, typer.Option(help="Folder in which runs share common stages.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged stages instead of redoing them.")] = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Train the last model of this run further, on rows new to it."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what a finished run, or one of other data, has computed."),
    ] = False,
) -> None:
    """Run a recipe on a dataset, from backbone to metrics; the same command again resumes."""
    from sprec.runs.recipes import resolve
    from sprec.system.errors import UserError

    resolved = resolve(recipe, set or [])
    if dry_run:
        typer.echo(resolved.model_dump_json(indent=2))
        return
    if data is None or output is None:
        raise UserError("sprec run needs --data DATASET and -o RUN (or --dry-run)")
    from sprec.data import Dataset
    from sprec.recommend.protocols import words_of
    from sprec.runs import run as run_recipe
    from sprec.system.processes import first

    quiet()
    dataset = Dataset.load(data)
    results = run_recipe(resolved, dataset, output, shared=shared, strict=strict, overwrite=overwrite, start=start)
    if first():
        _show(results, f"{dataset.name}, {words_of(resolved.recommend)}, {output}")


def quiet() -> None:
    """Our own progress bars are enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _show(results: "list[Result]", title: str) -> None:
    from sprec.runs.tables import table_of_results

    print_table(table_of_results(results, title))


def print_table(table: "Table") -> None:
    """A table as wide as it needs to be when nobody's terminal limits it."""
    from rich.console import Console

    console = Console()
    Console(width=None if console.is_terminal else 160).print(table.rich())


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    set: Set = None,
    metrics: Metrics = None,
    json: Json = False,
) -> None:
    """Evaluate the last model of a run, optionally with other settings: --set recommend.protocol=consensus."""
    from sprec.evaluation import cutoffs
    from sprec.recommend.protocols import words_of
    from sprec.runs.evaluations import evaluate_run
    from sprec.runs.finished import read_run
    from sprec.runs.recipes import changed

    quiet()
    found = evaluate_run(run, set or [], cutoffs(metrics))
    _print_metrics(found, metrics, str(run), json, words_of(changed(read_run(run)[0], set or []).recommend))


def score(
    recommendations: Annotated[
        Path, typer.Argument(help='JSON lines or Parquet: {"case": row of the split, "items": [...]}.')
    ],
    data: Data,
    split: Annotated[str, typer.Option(help="Split whose rows the cases are.")] = "test",
    metrics: Metrics = None,
    json: Json = False,
) -> None:
    """Compute the metrics of anyone's top-k lists."""
    from sprec.data import Dataset
    from sprec.evaluation import cutoffs
    from sprec.study.lists import score_lists

    found = score_lists(recommendations, Dataset.load(data), split, cutoffs(metrics))
    _print_metrics(found, metrics, str(recommendations), json)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|LISTS...",
            help="Run directories (seeds of one method and protocol are pooled), folders of RUN/evaluations, or lists "
            "in files (.jsonl, .parquet) as sprec score takes them.",
        ),
    ],
    data: Annotated[Path | None, typer.Option("--data", help="Dataset of lists in files; runs bring theirs.")] = None,
    split: Annotated[str, typer.Option(help="Split that the cases of these files are rows of.")] = "test",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
    metrics: Metrics = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for both tables as CSV, JSON, Markdown and LaTeX.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare runs over the same test cases: 95% intervals, differences paired by case and seed."""
    from json import dumps

    from sprec.data import Dataset
    from sprec.study.compare import compare_runs
    from sprec.study.tables import write_table

    dataset = None if data is None else Dataset.load(data)
    found = compare_runs(runs, resamples, metrics, dataset, split)
    tables = dict(zip(("metrics", "differences"), found, strict=True))
    written = [file for name, table in tables.items() if output for file in write_table(table, output / name)]
    if json:
        typer.echo(dumps({name: table.record() for name, table in tables.items()}, indent=2))
        return
    for table in tables.values():
        print_table(table)
    if note := tables["metrics"].note:
        typer.echo(f"! {note}")
    for file in written:
        typer.echo(f"wrote {file}")


def show(run: Annotated[Path, typer.Argument(help="Run directory.")], json: Json = False) -> None:
    """Show what a run is, what it was made of, and how it did."""
    from json import dumps

    from sprec.runs.about import about_run, lines_of

    about = about_run(run)
    typer.echo(dumps(about, indent=2) if json else "\n".join(lines_of(about)))


def doctor() -> None:
    """Show versions, devices and missing extras."""
    from sprec.system.doctor import report

    for name, value in report().items():
        typer.echo(f"{name:<22} {value}")


def _print_metrics(found: dict[str, float], asked: str | None, name: str, as_json: bool, title: str = "") -> None:
    """Print what was asked for; JSON without a question has everything."""
    from json import dumps

    from sprec.evaluation import selected, table_of_values
    from sprec.system.storage import defined

    shown = selected("all" if as_json and asked is None else asked, found)
    if as_json:
        typer.echo(dumps(defined({metric: found[metric] for metric in shown})))
        return
    print_table(table_of_values({name: found}, title, shown, mark=False))


COMMANDS: list[Callable[..., None]] = [run, show, evaluate, score, compare, doctor]


@recipes.command("ls")
def list_recipes() -> None:
    """List the shipped recipes and configurations of accelerate launch."""
    import yaml

    from sprec.runs.recipes import launchers, names, text

    for name in names():
        typer.echo(f"{name:<26} {yaml.safe_load(text(name)).get('description', '')}")
    for name in launchers():
        typer.echo(f"{name:<26} {text(name).splitlines()[0].removeprefix('# ')}")


@recipes.command("settings")
def list_settings(
    part: Annotated[
        str, typer.Argument(help="Only settings that begin with this: sft, backbone.lora, recommend.protocol.")
    ] = "",
) -> None:
    """List all settings of a recipe: keys, defaults, values, and what they do."""
    from sprec.runs.settings import settings
    from sprec.system.errors import UserError

    wanted = {title: [one for one in group if one.key.startswith(part)] for title, group in settings().items()}
    if not any(wanted.values()):
        raise UserError(f'no setting begins with "{part}"; sprec recipes settings lists all')
    for title, group in wanted.items():
        if group and "kind" in title:
            typer.echo(f"# {title}")
        for key, default, others, about in group:
            typer.echo(f"{key}={default}" + (f"  (or {', '.join(others)})" if others else ""))
            if about:
                typer.echo(f"    {about}")


@recipes.command("cp")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A shipped recipe.")],
    target: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Copy a shipped recipe, or a configuration of accelerate launch (accelerate/ddp), to a file."""
    from sprec.runs.recipes import launchers, names, text
    from sprec.system.errors import UserError
    from sprec.system.storage import writing

    if name not in (*names(), *launchers()):
        raise UserError(f'no shipped recipe is called "{name}"; sprec recipes ls lists them')
    if target.exists():
        raise UserError(f"{target} already exists")
    with writing(target, "choose another file"):
        target.write_text(text(name), "utf-8")
    use = "sprec run {0}" if name not in launchers() else "accelerate launch --config_file {0} -m sprec run RECIPE"
    typer.echo(f"wrote {target}; run it with: {use.format(target)} --data DATASET -o RUN")
