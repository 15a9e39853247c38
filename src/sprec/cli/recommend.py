"""``sprec recommend``: to one history, or to all users of a log or of a file of histories."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sprec.cli.runs import Json, Set, quiet
from sprec.system.errors import UserError
from sprec.system.progress import say

if TYPE_CHECKING:
    from sprec.recommend.protocols import Recommendations
    from sprec.runs import Recommender
    from sprec.serve.batch import Counts

_MANY = "Many users"
Log = Annotated[Path | None, typer.Option(help="All users of a log, read as the run's own.", rich_help_panel=_MANY)]
Histories = Annotated[
    Path | None,
    typer.Option(
        help='All lines of a file: JSON with "user" and "history" (ids or titles, oldest first), perhaps "block".',
        rich_help_panel=_MANY,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="File to write: .parquet, .csv or .jsonl.", rich_help_panel=_MANY),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace this file.", rich_help_panel=_MANY)]
Repeat = Annotated[bool, typer.Option("--repeat", help="Recommend what a user had before, too.", rich_help_panel=_MANY)]
Unknown = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="Items of a history that the catalog does not have.", rich_help_panel=_MANY),
]

_CHOICE = "What may be recommended"
Allow = Annotated[
    Path | None, typer.Option(help="Only items of this file: a name a line, or a table.", rich_help_panel=_CHOICE)
]
InStock = Annotated[Path | None, typer.Option(help="Of these, only items of this file.", rich_help_panel=_CHOICE)]
Block = Annotated[
    Path | None,
    typer.Option(help="No item of this file; with a column of users, not to them.", rich_help_panel=_CHOICE),
]
Genre = Annotated[
    list[str] | None, typer.Option(help="Only items of this genre; repeat it for several.", rich_help_panel=_CHOICE)
]


def recommend(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    history: Annotated[
        list[str] | None, typer.Option("--history", help="A title of one history, oldest first; repeat it.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Items per list: 5, for many users 10.")] = None,
    set: Set = None,
    json: Json = False,
    log: Log = None,
    histories: Histories = None,
    output: Output = None,
    overwrite: Overwrite = False,
    repeat: Repeat = False,
    unknown: Unknown = "raise",
    allow: Allow = None,
    in_stock: InStock = None,
    block: Block = None,
    genre: Genre = None,
) -> None:
    """Recommend items to somebody with this history, or to all users of a log or a file.

    With --set recommend.protocol=exact the scores in JSON and in files are log-probabilities.
    """
    from sprec.runs import Recommender
    from sprec.serve.batch import Choice, permitted, recommend_to_all

    many = {"--log": log, "--histories": histories, "-o": output, "--overwrite": overwrite, "--repeat": repeat}
    given = [name for name, value in many.items() if value]
    if history and given:
        raise UserError(f"{given[0]} goes with many users; leave out --history")
    if not history and (output is None or (log is None) == (histories is None)):
        raise UserError("give --history TITLE for one list; for many, -o FILE with --log LOG or --histories FILE")
    quiet()
    recommender, choice = Recommender.load(run, set or []), Choice(allow, in_stock, block, genre or (), repeat)
    if history:
        allowed = permitted(recommender, choice)[0]
        found = recommender.recommendations([history], 5 if k is None else k, allow=allowed, unknown=unknown)
        _show(recommender, found, json)
        return
    assert output is not None
    counts = recommend_to_all(
        recommender, output, log=log, histories=histories, k=10 if k is None else k, choice=choice, unknown=unknown,
        overwrite=overwrite,
    )  # fmt: skip
    typer.echo(dumps(vars(counts)) if json else "\n".join(_news(output, counts)))


def _show(recommender: "Recommender", found: "Recommendations", as_json: bool) -> None:
    if found.proven is not None and not found.proven.all():
        say("! the list may miss a better item; raise recommend.beams")
    items = [item for item in found.items[0].tolist() if item >= 0]  # -1: there is no further one
    if not as_json:
        for rank, item in enumerate(items, start=1):
            typer.echo(f"{rank:>3}. {recommender.catalog.titles[item]}")
        return
    catalog = recommender.catalog
    entries = [{"item": i, "source_id": catalog.source_ids[i], "title": catalog.titles[i]} for i in items]
    if found.log_probs is not None:
        entries = [e | {"log_prob": value} for e, value in zip(entries, found.log_probs[0].tolist(), strict=False)]
    if found.proven is not None:
        entries = [entry | {"proven": bool(found.proven[0])} for entry in entries]  # of the list as a whole
    typer.echo(dumps(entries))


def _news(output: Path, counts: "Counts") -> list[str]:
    """What was written, and what the reader should know of it."""
    told = [
        (counts.popular, "without a history got what is popular"),
        (counts.short, "got shorter lists: no more items are left for them"),
        (counts.unproven, "got lists that may miss a better item; raise recommend.beams"),
    ]
    lines = [f"wrote {output}: {counts.rows:,} items for {counts.users:,} users"]
    lines += [f"  {count:,} of the users {what}" for count, what in told if count]
    if counts.unknown:
        lines.append(f"  {counts.unknown:,} entries of histories are not in the catalog and were left out")
    return lines
