"""Tables of events and items from files with one object per line (Goodreads, Amazon, Steam)."""

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
    """Batches of events from rows with the values of a file (None for missing ones).

    Args:
        rows: the rows.
        source: their file.
        faults: counts malformed rows.
        date_format: see :func:`~sprec.data.readers.columns.to_events`.
        timed: whether the times count; if not, the order of the rows does.
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
    """The type of a column: integers, floats or text; text for a mixture, so that no value changes."""
    kinds = {type(value) for value in values if value is not None}
    return pl.Int64 if kinds <= {int} else pl.Float64 if kinds == {float} else pl.String


def item_table(rows: Iterable[Item], faults: Faults) -> pl.DataFrame:
    """The table of items (see :data:`~sprec.data.readers.log.ITEMS`); ``rows`` without an id count in ``faults``."""
    return with_id(pl.DataFrame(list(rows), schema=ITEMS, orient="row"), "items", faults)


def find_file(source: Path, patterns: Iterable[str], what: str) -> Path:
    """The only file in a folder that matches a pattern, by the first pattern that has matches.

    Args:
        source: the folder.
        patterns: as :meth:`pathlib.Path.glob` takes them.
        what: names the file in messages.

    Raises:
        UserError: there is none, or several, which the message lists.
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
    """Whether ``value`` is a number or a text."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def as_text(value: Any) -> str | None:
    """An integer or text ``value`` as text; None for anything else and for the empty text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (str(value).strip() or None) if isinstance(value, str | int) and not isinstance(value, bool) else None
