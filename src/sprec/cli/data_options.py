"""The options of ``sprec data import``, in the order in which they work: source, log to windows, splits, titles."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option


def _option(*declarations: str, panel: str, help: str) -> Any:
    return Option(*declarations, help=help, rich_help_panel=panel)


_LOG, _SPLIT, _TITLES, _TABLE = "From log to windows", "Splits", "Titles and genres", "Format table"

Formats = Literal["sprec", "movielens", "goodreads", "amazon", "steam", "recbole", "table"]
"""Of raw files and logs. The command takes any text: a wrong one ends in one line of ours."""
Output = Annotated[Path, Option("-o", "--output", help="Where the dataset directory is written.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an existing dataset.")]
Name = Annotated[str | None, Option(help="Name of the dataset; for the format sprec, which one to import.")]

History = Annotated[int, _option(panel=_LOG, help="Longest history.")]
MinHistory = Annotated[int | None, _option(panel=_LOG, help="Shortest history of a window (default: --history).")]
MinLength = Annotated[int, _option(panel=_LOG, help="Leave out users with fewer interactions.")]
MinRating = Annotated[float | None, _option(panel=_LOG, help="Leave out interactions rated lower.")]
Core = Annotated[int, _option(panel=_LOG, help="Keep users and items with at least this many interactions; 0 for all.")]
Repeats = Annotated[
    Literal["keep", "consecutive", "first"],
    _option(panel=_LOG, help="Keep repeated items, drop immediate repeats, or keep only the first."),
]
Ties = Annotated[
    Literal["file", "shuffle"],
    _option(panel=_LOG, help="Interactions of a user at the same time: as in the file, or shuffled (--seed)."),
]
DropSeenTargets = Annotated[
    bool, _option("--drop-seen-targets", panel=_LOG, help="Leave out windows whose target is in their history.")
]
Windows = Annotated[Literal["sliding", "last"], _option(panel=_LOG, help="One window per position, or per user.")]

SplitBy = Annotated[
    Literal["time", "leave-one-out", "user"], _option("--split", panel=_SPLIT, help="How the splits are made.")
]
Shares = Annotated[str, _option(panel=_SPLIT, help="train:valid:test, for splits by time or user.")]
Train = Annotated[int, _option(panel=_SPLIT, help="Training examples to draw.")]
Valid = Annotated[int, _option(panel=_SPLIT, help="Validation examples to draw.")]
Test = Annotated[int, _option(panel=_SPLIT, help="Test cases to draw.")]
Extra = Annotated[int, _option(panel=_SPLIT, help="Further training examples, for pre-training and SASRec.")]
Seed = Annotated[int, Option(min=0, help="Seed of the draws.", rich_help_panel=_SPLIT)]

Genre = Annotated[list[str] | None, _option(panel=_TITLES, help="A genre for the fairness metrics; repeatable.")]
TopGenres = Annotated[int, Option(min=0, help="How many genres to select if none are given.", rich_help_panel=_TITLES)]
ExcludeGenre = Annotated[list[str] | None, _option(panel=_TITLES, help="A genre never to select; repeatable.")]
Parents = Annotated[
    bool, _option("--keep-parents/--drop-parents", panel=_TITLES, help="Also select genres that only contain others.")
]
MaxTitle = Annotated[
    int, _option(panel=_TITLES, help="Cut titles to this many characters (at least 10); 0 for no limit.")
]
Distinguish = Annotated[
    Literal["no", "detail", "id"],
    _option(
        panel=_TITLES,
        help="Tell items with one title apart by year or author (then id), or by id; --max-title does not count it.",
    ),
]
DropUntitled = Annotated[
    bool, _option("--drop-untitled", panel=_TITLES, help="Continue even if over 5% of the interactions have no title.")
]
Unseen = Annotated[
    bool | None,
    _option(
        "--unseen/--no-unseen",
        panel=_TITLES,
        help="Keep items without interactions in the catalog (default: by format).",
    ),
]
Noun = Annotated[
    str | None, _option(panel=_TITLES, help="What prompts call the items: books, films (default: by format).")
]
Verb = Annotated[
    str | None, _option(panel=_TITLES, help="What users did with them: read, watched (default: by format).")
]

Items = Annotated[Path | None, _option(panel=_TABLE, help="The file of items, with titles.")]
ColumnNames = Annotated[
    str,
    _option(
        panel=_TABLE,
        help="Names of columns: user=customer,item=sku,time=at,title=name,genres=type; key=ean where --items calls "
        "the item differently; item=product.id for a field.",
    ),
]
GenreSeparator = Annotated[str, _option(panel=_TABLE, help="Separator of several genres in one field.")]
Where = Annotated[
    list[str] | None,
    _option(panel=_TABLE, help="Keep only events like type=purchase; repeat it for more values or columns."),
]
Order = Annotated[
    Literal["time", "file"], _option(panel=_TABLE, help="Order of a user's events: by time, or as in the file.")
]
DateFormat = Annotated[
    str, _option(panel=_TABLE, help="Format of times, like %d/%m/%Y (default: Unix times, ISO dates).")
]
Separator = Annotated[str, _option(panel=_TABLE, help="Field separator, like ; or :: (default: from the first line).")]
Quote = Annotated[str, _option(panel=_TABLE, help='Quote character, or none (default: ", none with tabs).')]
Escape = Annotated[str, _option(panel=_TABLE, help="Escape character, usually a backslash (default: none).")]
NoHeader = Annotated[
    bool, _option("--no-header", panel=_TABLE, help="Text files have no header; columns are called 1, 2, 3, ...")
]
Encoding = Annotated[str, _option(panel=_TABLE, help="Text encoding, like cp1252 (default: UTF-8, or by its mark).")]
