"""Users' own tables: a log with columns for user, item and time, and a list of items with their titles."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl
import polars.selectors as cs

from sprec.data.readers.columns import NOTHING, as_plain, to_events, to_genres, with_id
from sprec.data.readers.files import require_file
from sprec.data.readers.lines import holds_objects, read_objects
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.objects import Row, as_text, event_batches, item_table
from sprec.data.readers.tables import batches, open_table, require_columns
from sprec.data.readers.tables import read as read_table
from sprec.data.readers.text import Dialect
from sprec.system.errors import UserError
from sprec.system.paths import require_path

_ROWS = "#rows"
_WHERE = "#where "


@dataclass(frozen=True)
class Columns:
    """The names of the columns for ``user``, ``item``, ``time`` and ``title``.

    Those for ``rating``, ``genres`` and ``detail`` are optional. Fields of structures are called ``column.field``.

    Raises:
        UserError: one column in two roles.
    """

    user: str = "user"
    item: str = "item"
    time: str = "time"
    rating: str = "rating"
    title: str = "title"
    genres: str = "genres"
    detail: str = "detail"
    key: str = ""
    """The item in the list of items; empty if it has the same name as in the log."""
    separator: str = "|"
    """Between the genres in a text."""

    def __post_init__(self) -> None:
        roles: dict[str, str] = {}
        for role in ("user", "item", "time", "rating"):
            name = getattr(self, role)
            if name in roles:
                raise UserError(f'the column "{name}" cannot be both {roles[name]} and {role}')
            roles[name] = role


@dataclass(frozen=True)
class Reading:
    """How tables are read.

    Attributes:
        dialect: of delimited text.
        where: which events to keep: column to its allowed values. All columns must match.
        order: what orders the events of a user: their ``time``, or their place in a ``file`` without times.
        date_format: of times that are neither numbers nor ISO dates, such as ``%d/%m/%Y``.
    """

    dialect: Dialect = field(default_factory=Dialect)
    where: Mapping[str, Collection[str]] = field(default_factory=dict)
    order: Literal["time", "file"] = "time"
    date_format: str = ""

    def needed(self, names: Columns) -> dict[str, str]:
        """The columns that a log must have: our names to those in ``names``."""
        timed = {"time": names.time} if self.order == "time" else {}
        return {"user": names.user, "item": names.item} | timed | {_WHERE + name: name for name in self.where}


def read(
    source: Path,
    items: Path | None,
    faults: Faults,
    columns: Columns | None = None,
    reading: Reading | None = None,
) -> Log:
    """Open a log and its list of items: CSV, TSV, JSON (lines or an array), each gzipped or not, or Parquet.

    Args:
        source: the log.
        items: the list of items; None if the log has a column of titles, or if the ids are titles.
        faults: counts the rows that are left out.
        columns: their names.
        reading: how they are read.

    Raises:
        UserError: a file is missing, empty or not a table, or a column is missing.
    """
    names, how = columns or Columns(), reading or Reading()
    _refuse_useless(how.dialect, source, items)
    events = read_events(source, faults, names, how)
    listing = read_listing(items or source, faults, names, how, from_log=items is None)
    return Log(events, listing, timed=how.order == "time")


def read_listing(path: Path, faults: Faults, names: Columns, how: Reading, *, from_log: bool = False) -> pl.DataFrame:
    """Read a list of items: the columns of :data:`~sprec.data.readers.log.ITEMS`.

    Args:
        path: the list, or a log whose rows name items.
        faults: counts the rows that are left out.
        names: of the columns.
        how: how the table is read.
        from_log: whether it is a log.

    Raises:
        UserError: the file is missing, empty or not a table, or a column is missing.
    """
    read_items = _items_of_objects if _is_json(path) else _items
    return read_items(path, names, how, faults, from_log=from_log)


def read_events(source: Path, faults: Faults, names: Columns, how: Reading) -> Iterator[pl.DataFrame]:
    """Open a log without its items: batches as in :class:`~sprec.data.readers.log.Log`.

    Args:
        source: the log.
        faults: counts the rows that are left out.
        names: of the columns.
        how: how the table is read.

    Raises:
        UserError: the file is missing, empty or not a table, or a column is missing.
    """
    if _is_json(source):
        rows = _rows(source, names, how, faults)
        return event_batches(rows, source, faults, date_format=how.date_format, timed=how.order == "time")
    return _events(source, names, how, faults)


def _refuse_useless(dialect: Dialect, *paths: Path | None) -> None:
    """Raise a UserError if options for delimited text are given and no file is delimited text."""
    usual = Dialect(encoding=dialect.encoding)
    if dialect != usual and all(path is None or path.suffix == ".parquet" or _is_json(path) for path in paths):
        options = {"separator": "--separator", "quote": "--quote", "escape": "--escape", "header": "--no-header"}
        given = [option for name, option in options.items() if getattr(dialect, name) != getattr(usual, name)]
        raise UserError(f"{', '.join(given)} apply to delimited text, which {paths[0]} is not")


def _is_json(path: Path) -> bool:
    return path.suffix != ".parquet" and not require_path(path).is_dir() and holds_objects(require_file(path))


def _events(path: Path, names: Columns, reading: Reading, faults: Faults) -> Iterator[pl.DataFrame]:
    table = open_table(path, reading.dialect)
    wanted = reading.needed(names)
    require_columns(table.columns, wanted.values(), path)
    if names.rating in table.columns:
        wanted["rating"] = names.rating
    frames = _wanted_events(batches(table, wanted), path, reading.where, faults)
    return to_events(frames, path.name, faults, reading.date_format)


def _wanted_events(
    frames: Iterable[pl.DataFrame], path: Path, where: Mapping[str, Collection[str]], faults: Faults
) -> Iterator[pl.DataFrame]:
    """The events that ``where`` keeps, without its columns; the others are counted."""
    choice = _Choice(path, where, faults)
    for frame in frames:
        keep = pl.Series([True]).new_from_index(0, len(frame))
        for name in where:
            values = as_plain(frame[_WHERE + name], path.name).cast(pl.String).str.strip_chars()
            choice.saw(name, values.unique().to_list())
            keep &= values.is_in(list(where[name])).fill_null(False)
        choice.kept(int(keep.sum()), len(frame))
        yield frame.filter(keep).drop(cs.starts_with(_WHERE))
    choice.done()


class _Choice:
    """Counts the events that are filtered out, and names the values found if all are."""

    def __init__(self, path: Path, where: Mapping[str, Collection[str]], faults: Faults) -> None:
        self._path, self._where, self._faults = path, where, faults
        self._values: dict[str, dict[str, None]] = {name: {} for name in where}
        self._kept = self._rows = 0

    def saw(self, name: str, values: Iterable[str | None]) -> None:
        """Remember a few values of a column."""
        known = self._values[name]
        known.update(dict.fromkeys(value for value in values if value is not None and len(known) < 20))

    def kept(self, kept: int, rows: int) -> None:
        """Count events."""
        self._kept, self._rows = self._kept + kept, self._rows + rows
        self._faults.add("interactions_dropped_other_events", count=rows - kept)

    def done(self) -> None:
        """Raise a UserError if no event was kept."""
        if self._rows and not self._kept:
            asked = " and ".join(f"{name}={'|'.join(sorted(values))}" for name, values in self._where.items())
            there = "; ".join(f"{name}: {', '.join(sorted(values))}" for name, values in self._values.items())
            raise UserError(f"{self._path}: no event has {asked}; values found: {there:.300}")


def _items(path: Path, names: Columns, reading: Reading, faults: Faults, *, from_log: bool) -> pl.DataFrame:
    table = open_table(path, reading.dialect)
    item = names.item if from_log else names.key or names.item
    title = item if from_log and names.title not in table.columns else names.title
    require_columns(table.columns, (item, title), path)
    wanted = {"item": item, "title": title}
    optional = (("genres", names.genres), ("detail", names.detail))
    wanted |= {ours: theirs for ours, theirs in optional if theirs in table.columns}
    frame = read_table(table, wanted, count=_ROWS if from_log else "")
    frame = frame.with_columns(as_plain(frame[name], path.name) for name in wanted if name != "genres")
    kinds = (
        to_genres(frame["genres"], path.name, names.separator) if "genres" in wanted else pl.lit([], pl.List(pl.String))
    )
    detail = pl.col("detail").cast(pl.String) if "detail" in wanted else pl.lit(None, pl.String)
    frame = with_id(frame.with_columns(genres=kinds, detail=detail), path.name, Faults() if from_log else faults)
    frame = frame.with_columns(
        pl.col("item" if title == item else "title").cast(pl.String).str.strip_chars().alias("title")
    )
    if from_log:  # its rows without an item are counted when its events are read
        return _most_frequent(frame, faults)
    return frame.select(list(ITEMS))


def _most_frequent(frame: pl.DataFrame, faults: Faults) -> pl.DataFrame:
    """One row per item of a log, with its most frequent title (ties in alphabetical order), else its id.

    Args:
        frame: distinct rows about items, with their number.
        faults: counts items with several titles.
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


def _records(
    path: Path, wanted: Iterable[str], faults: Faults, encoding: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file; the first must have the wanted keys."""
    records = read_objects(path, faults, encoding)
    first = next(records, None)
    if first is None:
        raise UserError(f"{path} holds no JSON objects, one a line or in one array")
    names = [*first[1], *(name for name in wanted if _has(first[1], name))]
    require_columns(dict.fromkeys(names), wanted, path)
    yield from itertools.chain([first], records)


def _has(record: Mapping[str, Any], name: str) -> bool:
    head, dot, rest = name.partition(".")
    inner = record.get(head)
    return name in record or bool(dot and isinstance(inner, dict) and _has(inner, rest))


def _get(record: Mapping[str, Any], name: str) -> Any:
    """The value of a key, or of ``key.field``; None if there is none."""
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    inner = record.get(head)
    return _get(inner, rest) if dot and isinstance(inner, dict) else None


def _rows(path: Path, names: Columns, reading: Reading, faults: Faults) -> Iterator[Row]:
    choice = _Choice(path, reading.where, faults)
    for line, record in _records(path, reading.needed(names).values(), faults, reading.dialect.encoding):
        found = {name: _as_choice(_get(record, name)) for name in reading.where}
        for name, value in found.items():
            choice.saw(name, [value])
        wanted = all(found[name] in values for name, values in reading.where.items())
        choice.kept(int(wanted), 1)
        if wanted:
            user, item = as_text(_get(record, names.user)), as_text(_get(record, names.item))
            yield line, user, item, _get(record, names.time), _get(record, names.rating)
    choice.done()


def _as_choice(value: Any) -> str | None:
    return str(value).lower() if isinstance(value, bool) else as_text(value)


def _items_of_objects(path: Path, names: Columns, reading: Reading, faults: Faults, *, from_log: bool) -> pl.DataFrame:
    key = names.item if from_log else names.key or names.item
    needed = (key,) if from_log else (key, names.title)
    rows: Counter[tuple[str, str, tuple[str, ...], str | None]] = Counter()
    own = Faults() if from_log else faults  # the lines of a log are counted when its events are read
    for _, record in _records(path, needed, own, reading.dialect.encoding):
        item, title = as_text(_get(record, key)), as_text(_get(record, names.title))
        if from_log and not _has(record, names.title):
            title = item
        kinds = _get(record, names.genres) or []
        genres = kinds if isinstance(kinds, list) else str(kinds).split(names.separator)
        if item:
            kept = tuple(str(genre).strip() for genre in genres if genre is not None and str(genre).strip())
            rows[item, title or "", kept, as_text(_get(record, names.detail))] += 1
        else:
            own.add("items_dropped_without_id")
    frame = item_table(((item, title, list(kept), detail) for item, title, kept, detail in rows), own)
    if not from_log:
        return frame
    numbers = pl.Series(_ROWS, list(rows.values()), dtype=pl.Int64)
    known = pl.Series([key[0] not in NOTHING for key in rows], dtype=pl.Boolean)
    return _most_frequent(frame.with_columns(numbers.filter(known)), faults)
