"""Columns as they come, made uniform: ids, times, genres; and rows that lack one of them, counted and dropped."""

import contextlib
from collections.abc import Iterable, Iterator

import polars as pl

from sprec.data.readers.log import LINE, Faults
from sprec.system.errors import UserError

_DATES = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
)
_DATES_WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%a %b %d %H:%M:%S %z %Y")


def to_events(frames: Iterable[pl.DataFrame], source: str, faults: Faults) -> Iterator[pl.DataFrame]:
    """Make batches with ``user``, ``item``, ``time``, perhaps ``rating`` and line numbers what ``Log.events`` promises.

    Rows without a user, an item or a time are counted, the first few shown by line, and dropped.

    Raises:
        UserError: negative ids, a column of a type that cannot be used, or no time of the first batch can be read.
    """
    ids = {"user": _Numbers(), "item": _Numbers()}
    for number, frame in enumerate(frames):
        times = to_time(frame["time"], source)
        if number == 0 and len(times) and times.null_count() == len(times):
            found = frame["time"].drop_nulls()
            what = f"cannot read the time {found[0]!r}" if len(found) else "no time can be read"
            raise UserError(f"{source}: {what}; use numbers (Unix time) or ISO dates")
        columns = [to_id(frame[name], source) for name in ids]
        for column in columns:
            ids[column.name].add(column)
        yield _complete_rows(frame, [*columns, times], source, faults)
    for name, numbers in ids.items():
        if numbers.all and numbers.lowest < 0:
            raise UserError(f"{source}: {name} id {numbers.lowest} is negative; ids count from 0 or are text")


class _Numbers:
    """Whether all ids of a column are numbers, and the lowest one."""

    def __init__(self) -> None:
        self.all, self.lowest = True, 0

    def add(self, ids: pl.Series) -> None:
        if self.all:
            numbers = ids if ids.dtype.is_integer() else ids.cast(pl.Int64, strict=False)
            lowest = numbers.min()
            self.all = numbers.null_count() == ids.null_count()
            self.lowest = min(self.lowest, lowest) if isinstance(lowest, int) else self.lowest


def _complete_rows(frame: pl.DataFrame, columns: list[pl.Series], source: str, faults: Faults) -> pl.DataFrame:
    if "rating" in frame.columns:
        columns = [*columns, as_plain(frame["rating"], source).cast(pl.Float64, strict=False).fill_nan(None)]
    events = pl.DataFrame(columns)
    good = events.select(pl.all_horizontal(pl.col("user", "item", "time").is_not_null())).to_series()
    if good.all():
        return events
    bad = frame.filter(~good)
    for row in bad.head(3).iter_rows(named=True):
        line = f":{row[LINE]}" if LINE in row else ""
        found = ", ".join(f"{name}={row[name]!r}" for name in ("user", "item", "time"))
        faults.add("malformed_lines", f"{source}{line}: {found}", count=0)
    faults.add("malformed_lines", count=len(bad))
    return events.filter(good)


def as_plain(values: pl.Series, source: str, *others: type[pl.DataType]) -> pl.Series:
    """Categories and bytes as text, other values as they are.

    Raises:
        UserError: lists, structures, bytes that are not UTF-8, or one of the ``others``; column and type are named.
    """
    kind = values.dtype
    if kind in (pl.Categorical, pl.Enum, pl.Binary):
        with contextlib.suppress(pl.exceptions.ComputeError):  # not UTF-8
            return values.cast(pl.String)
    elif not kind.is_nested() and kind not in (pl.Object, *others):
        return values
    raise UserError(f"{source}: cannot use the column of type {kind!s:.60} as {values.name}; write numbers or text")


def with_id(items: pl.DataFrame, faults: Faults) -> pl.DataFrame:
    """The rows of a table of items that have an id; the others are counted."""
    known = items.filter(pl.col("item").str.strip_chars() != "")
    faults.add("items_dropped_without_id", count=len(items) - len(known))
    return known


def to_id(values: pl.Series, source: str) -> pl.Series:
    """Ids as integers where the column is numeric, else as text; an empty text is no id.

    Raises:
        UserError: a column of a type that holds no ids.
    """
    values = as_plain(values, source)
    if values.dtype.is_float():
        whole = values.is_not_nan() & (values == values.round())
        values = values.cast(pl.Int64, strict=False).set(~whole, None)
    if not values.dtype.is_integer():
        texts = values.cast(pl.String).str.strip_chars()
        values = texts.set(texts == "", None)
    return values


def to_time(values: pl.Series, source: str) -> pl.Series:
    """Times as milliseconds since 1970, shape as given, null where unreadable.

    Dates, date texts (ISO, ``Wed Mar 01 12:00:00 -0800 2017``) and numbers are understood, each value by itself; the
    unit of a number is the first of s, ms, us and ns in which it falls before the year 5138.

    Raises:
        UserError: a column of a type that holds no moments.
    """
    values = as_plain(values, source, pl.Time, pl.Duration)
    if values.dtype.is_temporal():
        return values.dt.epoch("ms")
    if values.dtype != pl.String:
        return _scale(values)
    numbers = values.cast(pl.Float64, strict=False)
    times, texts = _scale(numbers), values.set(numbers.is_not_null(), None)
    return times if texts.null_count() == len(texts) else times.fill_null(_parse_dates(texts))


def _scale(numbers: pl.Series) -> pl.Series:
    value = pl.col(numbers.name).cast(pl.Float64, strict=False)
    whole = pl.col(numbers.name).cast(pl.Int64, strict=False)  # null for what is too large, infinite or NaN
    times = (
        pl.when(value.abs() < 1e11)
        .then((value * 1000).round().cast(pl.Int64, strict=False))
        .when(value.abs() < 1e14)
        .then(whole)
        .when(value.abs() < 1e17)
        .then(whole // 1000)
        .otherwise(whole // 1_000_000)
    )
    return numbers.to_frame().select(times.alias(numbers.name)).to_series()


def _parse_dates(texts: pl.Series) -> pl.Series:
    column = pl.col(texts.name)
    plain = [column.str.to_datetime(form, time_unit="ms", strict=False) for form in _DATES]
    zoned = [
        column.str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False).dt.replace_time_zone(None)
        for form in _DATES_WITH_ZONE
    ]
    return texts.to_frame().select(pl.coalesce(*plain, *zoned).dt.epoch("ms").alias(texts.name)).to_series()


def to_genres(values: pl.Series, source: str, separator: str = "|") -> pl.Series:
    """Genres as lists of texts, each once, in their order; texts are split at ``separator``.

    Raises:
        UserError: a column of a type that holds no texts, or lists of such.
    """
    listed = values.dtype == pl.List
    plain = as_plain(values.explode() if listed else values, source)
    lists = values if listed else plain.cast(pl.String).str.split(separator)
    parts = pl.element().cast(pl.String).str.strip_chars()
    return lists.list.eval(parts.filter((parts != "") & (parts != "(no genres listed)"))).list.unique(
        maintain_order=True
    )
