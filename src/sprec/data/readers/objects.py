"""Tables of events and items out of files of one object a line (Goodreads, Amazon, Steam)."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from sprec.data.readers.columns import to_events, with_id
from sprec.data.readers.log import ITEMS, LINE, Faults
from sprec.system.errors import UserError

Row = tuple[int, Any, Any, Any, Any]
"""Line, user, item, time, rating."""
Item = tuple[str | None, str, list[str], str | None]
"""Item, title, genres, detail."""

BATCH = 200_000


def event_batches(
    rows: Iterable[Row], source: Path, faults: Faults, *, date_format: str = "", timed: bool = True
) -> Iterator[pl.DataFrame]:
    """Batches of events from rows whose values are what the file holds (None where it holds nothing).

    Args:
        rows: the rows.
        source: the file that they are from.
        faults: where malformed rows are counted.
        date_format: see :func:`~sprec.data.readers.columns.to_events`.
        timed: whether their times count; else their order does.
    """
    frames = _frames(iter(rows))
    if not timed:
        frames = (frame.drop("time") for frame in frames)
    return to_events(frames, source.name, faults, date_format)


def _frames(rows: Iterator[Row]) -> Iterator[pl.DataFrame]:
    while batch := list(itertools.islice(rows, BATCH)):
        line, user, item, *numbers = zip(*batch, strict=True)
        time, rating = ([value if is_value(value) else None for value in column] for column in numbers)
        types = [_type_of(column) for column in (time, rating)]
        yield pl.DataFrame(
            {
                LINE: pl.Series(line, dtype=pl.Int64),
                "user": pl.Series(user, dtype=pl.String, strict=False),
                "item": pl.Series(item, dtype=pl.String, strict=False),
                "time": pl.Series(time, dtype=types[0], strict=False),
                "rating": pl.Series(rating, dtype=types[1], strict=False),
            }
        )


def _type_of(values: Iterable[Any]) -> type[pl.DataType]:
    """Of a column with whole numbers, others or texts; text for a mixture, which keeps each as it is."""
    kinds = {type(value) for value in values if value is not None}
    return pl.Int64 if kinds <= {int} else pl.Float64 if kinds == {float} else pl.String


def item_table(rows: Iterable[Item], faults: Faults) -> pl.DataFrame:
    """The table of items (see :data:`~sprec.data.readers.log.ITEMS`); rows without an id are counted and dropped."""
    return with_id(pl.DataFrame(list(rows), schema=ITEMS, orient="row"), "items", faults)


def find_file(source: Path, patterns: Iterable[str], what: str) -> Path:
    """The one file of a folder that fits the first pattern that any file fits.

    Raises:
        UserError: none, or several; the message lists them.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; give the one that holds the {what}")
    for pattern in patterns:
        found = sorted(path for path in source.glob(pattern) if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{source} holds several files of {what}: {', '.join(path.name for path in found)}; keep one"
            )
    raise UserError(f"{source} holds no {what} ({', '.join(patterns)})")


def is_value(value: Any) -> bool:
    """Whether this is a number or a text."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def as_text(value: Any) -> str | None:
    """A whole number or a text as text; None for anything else and for the empty text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (str(value).strip() or None) if isinstance(value, str | int) and not isinstance(value, bool) else None
