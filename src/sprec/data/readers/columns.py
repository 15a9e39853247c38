"""Columns as they come, made uniform: ids, times, genres; and rows that lack one of them, counted and dropped."""

import polars as pl

from sprec.data.readers.log import LINE, Faults
from sprec.errors import UserError

_DATES = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
)
_DATES_WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%a %b %d %H:%M:%S %z %Y")


def to_events(frame: pl.DataFrame, source: str, faults: Faults) -> pl.DataFrame:
    """Make a batch with ``user``, ``item``, ``time``, perhaps ``rating`` and line numbers what ``Log.events`` promises.

    Rows without a user, an item or a time are counted, the first few shown by line, and dropped.

    Raises:
        UserError: negative ids, or no time of the batch can be read.
    """
    columns = [to_id(frame["user"], source), to_id(frame["item"], source), to_time(frame["time"], source)]
    if "rating" in frame.columns:
        columns.append(frame["rating"].cast(pl.Float64, strict=False))
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


def to_id(values: pl.Series, source: str) -> pl.Series:
    """Ids as integers where the column is numeric, else as text; an empty text is no id.

    Raises:
        UserError: a negative number.
    """
    if values.dtype.is_float():
        whole = values.is_not_nan() & (values == values.round())
        values = values.cast(pl.Int64, strict=False).set(~whole, None)
    if not values.dtype.is_integer():
        texts = values.cast(pl.String).str.strip_chars()
        values = texts.set(texts == "", None)
    numbers = values.cast(pl.Int64, strict=False)
    lowest = numbers.min() if numbers.null_count() == values.null_count() else 0
    if isinstance(lowest, int) and lowest < 0:
        raise UserError(f"{source}: {values.name} id {lowest} is negative; ids count from 0 or are text")
    return numbers if values.dtype.is_integer() else values


def to_time(values: pl.Series, source: str) -> pl.Series:
    """Times as milliseconds since 1970, shape as given, null where unreadable.

    Dates, date texts (ISO, ``Wed Mar 01 12:00:00 -0800 2017``) and numbers are understood; of numbers the unit (s, ms,
    us, ns) is the one in which the largest falls before the year 5138.

    Raises:
        UserError: no value can be read.
    """
    if values.dtype.is_temporal():
        return values.dt.epoch("ms")
    numbers = values.cast(pl.Float64, strict=False) if values.dtype == pl.String else values
    mostly_numbers = 2 * numbers.count() >= values.count()
    times = _scale(numbers) if mostly_numbers else _parse_dates(values)
    if len(times) and times.null_count() == len(times):
        raise UserError(f"{source}: cannot read the time {values[0]!r}; use numbers (Unix time) or ISO dates")
    return times


def _scale(numbers: pl.Series) -> pl.Series:
    largest = numbers.abs().max()
    magnitude = float(largest) if isinstance(largest, int | float) else 0.0
    if magnitude < 1e11:
        return (numbers * 1000).round().cast(pl.Int64, strict=False)
    divisor = 1 if magnitude < 1e14 else 1000 if magnitude < 1e17 else 1_000_000
    return numbers.cast(pl.Int64, strict=False) // divisor


def _parse_dates(texts: pl.Series) -> pl.Series:
    column = pl.col(texts.name)
    plain = [column.str.to_datetime(form, time_unit="ms", strict=False) for form in _DATES]
    zoned = [
        column.str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False).dt.replace_time_zone(None)
        for form in _DATES_WITH_ZONE
    ]
    return texts.to_frame().select(pl.coalesce(*plain, *zoned).dt.epoch("ms").alias(texts.name)).to_series()


def to_genres(values: pl.Series, separator: str = "|") -> pl.Series:
    """Genres as lists of texts, each once, in their order; texts are split at ``separator``."""
    lists = values if values.dtype == pl.List else values.cast(pl.String).str.split(separator)
    parts = pl.element().cast(pl.String).str.strip_chars()
    return lists.list.eval(parts.filter((parts != "") & (parts != "(no genres listed)"))).list.unique(
        maintain_order=True
    )
