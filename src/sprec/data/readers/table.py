"""Anyone's tables: a log with columns for user, item and time, and a list of items with columns for item and title."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sprec.data.readers.columns import to_events, to_genres
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.tables import batches, names_of, require_columns, scan
from sprec.data.readers.tables import read as read_table


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
    table = scan(source)
    known = names_of(table, source)
    require_columns(known, (names.user, names.item, names.time), source)
    wanted = {"user": names.user, "item": names.item, "time": names.time}
    if names.rating in known:
        wanted["rating"] = names.rating
    return Log(_events(table, source, wanted, faults), _items(items or source, names, from_log=items is None))


def _events(table: pl.LazyFrame, path: Path, wanted: Mapping[str, str], faults: Faults) -> Iterator[pl.DataFrame]:
    for batch in batches(table, path, wanted):
        yield to_events(batch, path.name, faults)


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
