"""``sprec data``: make datasets and look at them. Nothing here needs torch; polars is imported when a command runs."""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from sprec.cli import data_options as opt

if TYPE_CHECKING:
    from sprec.data import Dataset
    from sprec.data.readers.table import Reading

app = typer.Typer(help="Make datasets and look at them.", no_args_is_help=True)

_FOR_ALL = {"format", "source", "output", "overwrite", "name", "genre"}
_FOR_RECORDS = _FOR_ALL | {"repeats", "drop_seen_targets"}
_FOR_WINDOWS = _FOR_ALL | {"top_genres", "exclude_genre", "keep_parents", "noun", "verb"}
_FOR_TABLES = {"items", "columns", "genre_separator", "where", "order", "date_format"}
_FOR_TABLES |= {"separator", "quote", "escape", "no_header", "encoding"}


@app.command("import")
def import_(
    context: typer.Context,
    format: Annotated[str, typer.Argument(help=f"Format of the source: {', '.join(get_args(opt.Formats))}.")],
    source: Annotated[Path, typer.Argument(help="File or folder to read.")],
    output: opt.Output,
    overwrite: opt.Overwrite = False,
    name: opt.Name = None,
    history: opt.History = 10,
    min_history: opt.MinHistory = None,
    min_length: opt.MinLength = 10,
    min_rating: opt.MinRating = None,
    core: opt.Core = 0,
    repeats: opt.Repeats = "keep",
    ties: opt.Ties = "file",
    drop_seen_targets: opt.DropSeenTargets = False,
    windows: opt.Windows = "sliding",
    split: opt.SplitBy = "time",
    shares: opt.Shares = "8:1:1",
    train: opt.Train = 4096,
    valid: opt.Valid = 512,
    test: opt.Test = 1000,
    extra: opt.Extra = 4096,
    seed: opt.Seed = 0,
    genre: opt.Genre = None,
    top_genres: opt.TopGenres = 10,
    exclude_genre: opt.ExcludeGenre = None,
    keep_parents: opt.Parents = False,
    max_title: opt.MaxTitle = 200,
    distinguish: opt.Distinguish = "no",
    drop_untitled: opt.DropUntitled = False,
    unseen: opt.Unseen = None,
    noun: opt.Noun = None,
    verb: opt.Verb = None,
    items: opt.Items = None,
    columns: opt.ColumnNames = "",
    genre_separator: opt.GenreSeparator = "|",
    where: opt.Where = None,
    order: opt.Order = "time",
    date_format: opt.DateFormat = "",
    separator: opt.Separator = "",
    quote: opt.Quote = "",
    escape: opt.Escape = "",
    no_header: opt.NoHeader = False,
    encoding: opt.Encoding = "",
) -> None:
    """Read files in a known FORMAT and write a dataset.

    sprec are the records of the SPRec repository, windows already; all other formats are logs of interactions.
    """
    _refuse_useless(context)
    _save(_records(context.params) if format == "sprec" else _log(context.params), output, overwrite)


def _refuse_useless(context: typer.Context) -> None:
    """Raise a UserError that names an option which was given and would be ignored."""
    from sprec.data.logs import READERS
    from sprec.data.readers.recbole import has_windows
    from sprec.system.errors import UserError

    options = context.params
    format, sources = options["format"], {name: context.get_parameter_source(name) for name in options}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    windows = format == "recbole" and has_windows(options["source"])
    for applies, useless, why in (
        (format == "sprec", given - _FOR_RECORDS, "sprec: its records are windows already"),
        (windows, given - _FOR_WINDOWS, "RecBole's benchmark files: their rows are windows already"),
        (format in READERS, given & _FOR_TABLES, f"{format}, only to table"),
        (options["split"] == "leave-one-out", given & {"shares"}, "--split leave-one-out"),
    ):
        if applies and useless:
            raise UserError(f"--{min(useless).replace('_', '-')} does not apply to {why}")


def _records(options: dict[str, Any]) -> "Dataset":
    from sprec.data.readers.sprec import read
    from sprec.system.errors import UserError

    if options["repeats"] == "first":
        raise UserError("--repeats first does not apply to sprec; use consecutive")
    return read(
        options["source"],
        options["name"],
        genres=options["genre"],
        drop_repeats=options["repeats"] == "consecutive",
        drop_seen_targets=options["drop_seen_targets"],
    )


def _log(options: dict[str, Any]) -> "Dataset":
    from sprec.data.logs import Cleaning, import_log
    from sprec.data.readers.table import Columns
    from sprec.data.windows import Protocol, Sizes

    def chosen(kind: type) -> dict[str, Any]:
        return {field.name: options[field.name] for field in fields(kind) if field.name in options}

    sizes = Sizes(**chosen(Sizes))
    protocol = Protocol(**chosen(Protocol) | {"sizes": sizes, "shares": _shares(options["shares"])})
    cleaning = Cleaning(
        **chosen(Cleaning),
        genres=options["genre"] or None,
        top=options["top_genres"],
        exclude=options["exclude_genre"] or (),
        drop_parents=not options["keep_parents"],
        unseen_items=options["unseen"],
    )
    return import_log(
        options["format"],
        options["source"],
        options["name"],
        protocol,
        cleaning,
        items=options["items"],
        columns=Columns(**_names(options["columns"]), separator=options["genre_separator"]),
        reading=_reading(options),
        noun=options["noun"],
        verb=options["verb"],
    )


def _reading(options: dict[str, Any]) -> "Reading":
    from sprec.data.readers.table import Reading
    from sprec.data.readers.text import Dialect

    quote = None if options["quote"] == "none" else options["quote"]
    separator = options["separator"].replace("\\t", "\t")  # as shells pass it
    dialect = Dialect(separator, quote, options["escape"], not options["no_header"], options["encoding"])
    return Reading(dialect, _where(options["where"] or []), options["order"], options["date_format"])


def _where(conditions: list[str]) -> dict[str, list[str]]:
    from sprec.system.errors import UserError

    values: dict[str, list[str]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not name or not equals:
            raise UserError(f"--where takes COLUMN=VALUE like type=purchase, got {condition!r:.80}")
        values.setdefault(name.strip(), []).append(value.strip())
    return values


def _shares(text: str) -> tuple[float, ...]:
    from sprec.system.errors import UserError

    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not sum(parts) > 0:
        raise UserError(f"--shares takes train:valid:test like 8:1:1, got {text!r}")
    return tuple(part / sum(parts) for part in parts)


def _names(text: str) -> dict[str, str]:
    from sprec.data.readers.table import Columns
    from sprec.system.errors import UserError

    names = dict(part.partition("=")[::2] for part in text.split(",") if part)
    known = {field.name for field in fields(Columns)} - {"separator"}
    for ours, theirs in names.items():
        if ours not in known or not theirs:
            raise UserError(f"--columns takes {', '.join(sorted(known))}, each =NAME; got {ours}={theirs}")
    return names


@app.command()
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    format: Annotated[Literal["sprec", "recbole", "trl", "parquet"], typer.Option(help="Format to write.")],
    style: Annotated[Literal["unified", "official", "compact"], typer.Option(help="Style of trl prompts.")] = "unified",
) -> None:
    """Write a dataset in another program's format."""
    from sprec.data import Dataset
    from sprec.data.export import export as write
    from sprec.prompts import PromptBuilder

    loaded = Dataset.load(dataset)
    builder = PromptBuilder(loaded.catalog, loaded.wording, style)
    typer.echo(write(loaded, output, format, prompt=builder.prompt, response=builder.response))


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="sprec-sampled (the paper's data), ml-10m, goodreads-poetry, amazon-2014-CDs_and_Vinyl, steam, ..."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")],
) -> None:
    """Download the public files of a log from their publishers; the same command again resumes."""
    from sprec.data.fetch import fetch as download

    for path in download(name, output):
        typer.echo(path)


@app.command()
def demo(
    output: opt.Output,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated users.")] = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """Write the demo dataset: real film titles, simulated users."""
    from sprec.data.demo import demo as simulate

    _save(simulate(seed), output, overwrite)


@app.command()
def stats(
    dataset: Annotated[Path, typer.Argument(help="A dataset directory; with --against, a new log.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Compare a new log, read as the run's own, with the data of this run."),
    ] = None,
) -> None:
    """Print the counts of the paper's Table 1, popularity skew, genre coverage, leakage and warnings.

    With --against RUN: what has changed in a new log since the run was trained, and whether it is time to train again.
    """
    from sprec.data import Dataset
    from sprec.data.stats import stats as describe
    from sprec.data.stats import table
    from sprec.system.storage import defined

    if against is not None:
        _drift(dataset, against, as_json)
        return
    facts = describe(Dataset.load(dataset))
    typer.echo(json.dumps(defined(facts), indent=2, ensure_ascii=False) if as_json else table(facts))


def _drift(log: Path, run: Path, as_json: bool) -> None:
    from sprec.data.again import read_again
    from sprec.data.drift import drift, table
    from sprec.data.readers.log import Faults
    from sprec.runs.finished import read_run

    data = read_run(run)[1]
    found = drift(data, read_again(log, data.meta, Faults()))
    typer.echo(json.dumps(found, indent=2) if as_json else table(found, str(run)))


def _save(dataset: "Dataset", output: Path, overwrite: bool) -> None:
    from sprec.data.stats import doubts, period, when
    from sprec.system.progress import say

    saved = dataset.save(output, overwrite=overwrite)
    for line in saved.meta.get("malformed", []):
        say(f"malformed: {line}")
    for fault, count in saved.warnings.items():
        say(f"warning: {fault.replace('_', ' ')}: {count:,}")
    times = when(saved)
    if times:
        say(f"time: {period(times)}")
        for doubt in doubts(times):
            say(f"warning: {doubt}")
    counts = ", ".join(f"{name} {len(split):,}" for name, split in saved.splits.items())
    say(f"{saved.name}: {len(saved.catalog):,} items, {counts} -> {output}")
