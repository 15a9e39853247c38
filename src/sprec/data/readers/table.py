"""Anyone's tables: a log with columns for user, item and time, and a list of items with columns for item and title."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sprec.data.readers.columns import as_plain, to_events, to_genres, with_id
from sprec.data.readers.lines import read_objects
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.objects import as_text, event_batches, item_table
from sprec.data.readers.tables import batches, names_of, require_columns, scan
from sprec.data.readers.tables import read as read_table
from sprec.system.errors import UserError

_ROWS = "#rows"
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
    return Log(events, _items(listed, names, faults, from_log=items is None))


def _events(path: Path, names: Columns, faults: Faults) -> Iterator[pl.DataFrame]:
    table = scan(path)
    known = names_of(table, path)
    wanted = {"user": names.user, "item": names.item, "time": names.time}
    require_columns(known, wanted.values(), path)
    if names.rating in known:
        wanted["rating"] = names.rating
    return to_events(batches(table, path, wanted), path.name, faults)


def _items(path: Path, names: Columns, faults: Faults, *, from_log: bool) -> pl.DataFrame:
    table = scan(path)
    known = names_of(table, path)
    title = names.item if from_log and names.title not in known else names.title
    require_columns(known, (names.item, title), path)
    wanted = {"item": names.item, "title": title}
    wanted |= {ours: theirs for ours, theirs in (("genres", names.genres), ("detail", names.detail)) if theirs in known}
    frame = read_table(table, path, wanted, count=_ROWS if from_log else "")
    frame = frame.with_columns(as_plain(frame[name], path.name) for name in wanted if name != "genres")
    kinds = (
        to_genres(frame["genres"], path.name, names.separator) if "genres" in wanted else pl.lit([], pl.List(pl.String))
    )
    detail = pl.col("detail").cast(pl.String) if "detail" in wanted else pl.lit(None, pl.String)
    texts = pl.col("item", "title").cast(pl.String).str.strip_chars()
    if frame["item"].dtype.is_float():
        frame = frame.with_columns(pl.col("item").cast(pl.Int64, strict=False))  # as the ids of the log
    if title == names.item:
        frame = frame.with_columns(title="item")
    frame = frame.with_columns(texts, genres=kinds, detail=detail)
    if from_log:  # whose rows without an item are malformed events
        return _most_frequent(with_id(frame, Faults()), faults)
    return with_id(frame, faults).select(list(ITEMS))


def _most_frequent(frame: pl.DataFrame, faults: Faults) -> pl.DataFrame:
    """One row per item of a log, with its most frequent title (of several the first in the alphabet), else its id.

    Args:
        frame: what the log says of items, with the number of rows that say so.
        faults: where items with several titles are counted.
    """
    frame = frame.with_columns(pl.col("title").fill_null(""))
    titled = (pl.col("title") != "") & (pl.col("title") != pl.col("item"))
    titles = frame.filter(titled).group_by("item").agg(pl.col("title").n_unique())
    faults.add("items_with_several_titles", count=titles.filter(pl.col("title") > 1).height)
    ranked = frame.sort(
        titled,
        pl.col(_ROWS).sum().over("item", "title"),
        *("title", _ROWS, "detail", "genres"),
        descending=[True, True, False, True, False, False],
        nulls_last=True,
    )
    return ranked.unique("item", keep="first", maintain_order=True).select(list(ITEMS))


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
    rows: Counter[tuple[str, str, tuple[str, ...], str | None]] = Counter()
    own = Faults() if from_log else faults  # lines of a log are judged where its events are read
    for _, record in _records(path, needed, own):
        item = as_text(record.get(names.item))
        title = as_text(record.get(names.title, item if from_log else None))
        kinds = record.get(names.genres) or []
        genres = kinds if isinstance(kinds, list) else str(kinds).split(names.separator)
        if item:
            kept = tuple(str(genre).strip() for genre in genres if genre is not None and str(genre).strip())
            rows[item, title or "", kept, as_text(record.get(names.detail))] += 1
        else:
            own.add("items_dropped_without_id")
    frame = item_table(((item, title, list(kept), detail) for item, title, kept, detail in rows), own)
    if not from_log:
        return frame
    return _most_frequent(frame.with_columns(pl.Series(_ROWS, list(rows.values()), dtype=pl.Int64)), faults)
