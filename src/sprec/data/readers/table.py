"""Anyone's tables: a log with columns for user, item and time, and a list of items with columns for item and title."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sprec.data.readers.columns import to_events, to_genres
from sprec.data.readers.lines import read_objects
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.objects import as_text, event_batches, item_table
from sprec.data.readers.tables import batches, names_of, require_columns, scan
from sprec.data.readers.tables import read as read_table
from sprec.errors import UserError

_OBJECTS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")


@dataclass(frozen=True)
class Columns:
    """What the columns are called; ``rating``, ``genres`` and ``detail`` are used where they are there."""

    user: str = "user"
    item: str = "item"
    time: str = "time"
    rating: str = "rating"
    title: str = "title"
    genres: str = "genres"
    detail: str = "detail"
    separator: str = "|"
    """Between genres that are one text."""


def read(source: Path, items: Path | None, faults: Faults, columns: Columns | None = None) -> Log:
    """Open a log and its list of items: CSV, TSV, JSON lines (each gzipped or not) or Parquet.

    Args:
        source: the log.
        items: the list of items; None where the log has a column of titles, or where the ids are titles.
        faults: where malformed rows are counted.
        columns: their names.

    Raises:
        UserError: a file is missing, empty or not a table, or a column is missing.
    """
    names = columns or Columns()
    if source.name.endswith(_OBJECTS):
        events = event_batches(_rows(source, names, faults), source, faults)
    else:
        events = _events(source, names, faults)
    listed = items or source
    if listed.name.endswith(_OBJECTS):
        return Log(events, _items_of_objects(listed, names, faults, from_log=items is None))
    return Log(events, _items(listed, names, from_log=items is None))


def _events(path: Path, names: Columns, faults: Faults) -> Iterator[pl.DataFrame]:
    table = scan(path)
    known = names_of(table, path)
    wanted = {"user": names.user, "item": names.item, "time": names.time}
    require_columns(known, wanted.values(), path)
    if names.rating in known:
        wanted["rating"] = names.rating
    return (to_events(batch, path.name, faults) for batch in batches(table, path, wanted))


def _items(path: Path, names: Columns, *, from_log: bool) -> pl.DataFrame:
    table = scan(path)
    known = names_of(table, path)
    title = names.item if from_log and names.title not in known else names.title
    require_columns(known, (names.item, title), path)
    wanted = {"item": names.item, "title": title}
    wanted |= {ours: theirs for ours, theirs in (("genres", names.genres), ("detail", names.detail)) if theirs in known}
    frame = read_table(table.unique(subset=[names.item], keep="any") if from_log else table, path, wanted)
    kinds = to_genres(frame["genres"], names.separator) if "genres" in wanted else pl.lit([], pl.List(pl.String))
    detail = pl.col("detail").cast(pl.String) if "detail" in wanted else pl.lit(None, pl.String)
    texts = pl.col("item", "title").cast(pl.String).str.strip_chars()
    return frame.with_columns(texts, genres=kinds, detail=detail).select(list(ITEMS))


def _records(path: Path, wanted: Iterable[str], faults: Faults) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file, whose first one must have the wanted keys."""
    records = read_objects(path, faults)
    first = next(records, None)
    if first is None:
        raise UserError(f"{path} holds no JSON objects, one a line")
    require_columns(first[1], wanted, path)
    yield from itertools.chain([first], records)


def _rows(path: Path, names: Columns, faults: Faults) -> Iterator[tuple[int, Any, Any, Any, Any]]:
    for line, record in _records(path, (names.user, names.item, names.time), faults):
        user, item = as_text(record.get(names.user)), as_text(record.get(names.item))
        yield line, user, item, record.get(names.time), record.get(names.rating)


def _items_of_objects(path: Path, names: Columns, faults: Faults, *, from_log: bool) -> pl.DataFrame:
    needed = (names.item,) if from_log else (names.item, names.title)
    rows = {}
    for _, record in _records(path, needed, Faults() if from_log else faults):
        item = as_text(record.get(names.item))
        title = as_text(record.get(names.title, item if from_log else None))
        kinds = record.get(names.genres) or []
        genres = kinds if isinstance(kinds, list) else str(kinds).split(names.separator)
        if item and item not in rows:
            detail = as_text(record.get(names.detail))
            rows[item] = (item, title or "", [str(genre).strip() for genre in genres if str(genre).strip()], detail)
    return item_table(rows.values())
