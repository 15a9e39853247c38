"""Make columns uniform (ids, times, genres), and count and drop rows that lack one of them.

A ``source`` is the name of the log in messages, ``values`` are a column.
"""

import contextlib
from collections.abc import Iterable, Iterator

import polars as pl

from sprec.data.readers.log import EXAMPLES, LINE, Faults
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE

NOTHING = frozenset(["", "nan", "NaN", "NAN", "null", "Null", "NULL", "none", "None", "NONE", "\\N"])
NOTHING |= {"NA", "N/A", "n/a", "#N/A", "<NA>"}
"""What databases and data frames write for a missing value."""

_SECOND = 1_000_000_000
_DATES = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%Y%m%dT%H%M%S",
)
_DATES_WITH_ZONE = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%d %H:%M%#z",
    "%a %b %d %H:%M:%S %z %Y",
)


def to_events(
    frames: Iterable[pl.DataFrame], source: str, faults: Faults, date_format: str = ""
) -> Iterator[pl.DataFrame]:
    """Turn batches with ``user``, ``item``, ``time``, perhaps ``rating`` and line numbers into those of ``Log.events``.

    Rows without a user, an item or a time are counted, the first few shown by line, and dropped. Without a column
    ``time`` the rows are numbered.

    Args:
        frames: the batches.
        source: the name of the log in messages.
        faults: counts the dropped rows.
        date_format: of the times, with the codes of ``strftime``.

    Raises:
        UserError: negative ids, a column of a type that cannot be used, or no time of the first batch can be read.
    """
    ids = {"user": _Numbers(), "item": _Numbers()}
    rows = 0
    for number, frame in enumerate(frames):
        times = to_time(frame["time"], source, date_format) if "time" in frame.columns else _numbered(rows, len(frame))
        if number == 0 and len(times) and times.null_count() == len(times):
            raise UserError(f"{source}: {_unreadable_times(to_id(frame['time'], source), date_format)}")
        columns = [to_id(frame[name], source) for name in ids]
        for column in columns:
            ids[column.name].add(column)
        yield _complete_rows(frame, [*columns, times], source, faults)
        rows += len(frame)
    for name, numbers in ids.items():
        if numbers.all and numbers.lowest < 0:
            raise UserError(f"{source}: {name} id {numbers.lowest} is negative; ids count from 0 or are text")


def _numbered(start: int, count: int) -> pl.Series:
    """The order of the rows in place of times: one second each."""
    return pl.int_range(start, start + count, eager=True).alias("time") * _SECOND


def _unreadable_times(found: pl.Series, date_format: str) -> str:
    found = found.drop_nulls()
    if not len(found):
        return "no time can be read; use numbers (Unix time) or ISO dates, or --order file if there are no times"
    if date_format:
        return f"cannot read the time {found[0]!r:.60} as {date_format!r}"
    how = "use numbers (Unix time) or ISO dates, or pass their format: --date-format '%d/%m/%Y'"
    return f"cannot read the time {found[0]!r:.60}; {how}"


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
        columns = [*columns, to_number(frame["rating"], source)]
    events = pl.DataFrame(columns)
    if not events["user"].null_count() + events["item"].null_count() + events["time"].null_count():
        return events
    good = pl.Series([True]).new_from_index(0, len(events))
    for name in ("user", "item", "time"):  # a row that lacks several of them counts once, as lacking the first
        lacking = good & events[name].is_null()
        faults.add(f"interactions_dropped_without_{name}", count=int(lacking.sum() or 0))
        good &= ~lacking
    for row in frame.filter(~good).head(EXAMPLES).iter_rows(named=True):
        line = f":{row[LINE]}" if LINE in row else ""
        found = ", ".join(f"{name}={row[name]!r:.40}" for name in ("user", "item", "time") if name in row)
        faults.add("malformed_lines", f"{source}{line}: {found}", count=0)
    return events.filter(good)


def to_number(values: pl.Series, source: str) -> pl.Series:
    """Numbers as floats, with decimal points or commas; null for anything else.

    Raises:
        UserError: the type of the column holds no numbers.
    """
    values = as_plain(values, source)
    numbers = values.cast(pl.Float64, strict=False)
    if values.dtype == pl.String and numbers.null_count() > values.null_count():
        points = values.str.strip_chars().str.replace(r"^([+-]?\d*),(\d+)$", "${1}.${2}")
        numbers = points.cast(pl.Float64, strict=False)
    return numbers.fill_nan(None)


def as_plain(values: pl.Series, source: str, *others: type[pl.DataType]) -> pl.Series:
    """Categories and bytes as text, other values as they are.

    Raises:
        UserError: lists, structures, bytes that are not UTF-8, or one of the ``others``; names column and type.
    """
    kind = values.dtype
    if kind in (pl.Categorical, pl.Enum, pl.Binary):
        with contextlib.suppress(pl.exceptions.ComputeError):  # not UTF-8
            return values.cast(pl.String)
    elif not kind.is_nested() and kind not in (pl.Object, *others):
        return values
    raise UserError(f"{source}: cannot use the column of type {kind!s:.60} as {values.name}; write numbers or text")


def with_id(items: pl.DataFrame, source: str, faults: Faults) -> pl.DataFrame:
    """The rows of a table of ``items`` with an id, as text in a log's form; others are counted in ``faults``.

    Raises:
        UserError: see :func:`to_id`.
    """
    known = items.with_columns(to_id(items["item"], source).cast(pl.String)).filter(pl.col("item").is_not_null())
    faults.add("items_dropped_without_id", count=len(items) - len(known))
    return known


def to_id(values: pl.Series, source: str) -> pl.Series:
    """Ids as integers if all are canonical numbers, else as text; those in :data:`NOTHING` are missing.

    Integers, which are faster, stand for their digits: if a later batch has text, the caller makes all of them text.

    Raises:
        UserError: the type of the column holds no ids.
    """
    values = as_plain(values, source)
    if values.dtype.is_float():
        whole = values.is_not_nan() & (values == values.round())
        values = values.cast(pl.Int64, strict=False).set(~whole, None)
    if values.dtype.is_integer():
        return values
    texts = values.cast(pl.String)
    if values.dtype.is_decimal():
        texts = texts.str.replace(r"\.0+$", "")
    numbers = texts.cast(pl.Int64, strict=False)
    padded = (texts.str.starts_with("0") & (texts.str.len_bytes() > 1)) | texts.str.starts_with("+")
    if numbers.null_count() == texts.null_count() < len(texts) and not (padded | texts.str.starts_with("-")).any():
        return numbers
    texts = texts.str.strip_chars()
    return texts.set(texts.is_in(NOTHING), None)


def to_time(values: pl.Series, source: str, date_format: str = "") -> pl.Series:
    """Times as nanoseconds since 1970, shape as given; null if unreadable or not between 1678 and 2261.

    Dates, date texts (ISO, ``Wed Mar 01 12:00:00 -0800 2017``) and numbers are understood, each value by itself; the
    unit of a number is the first of s, ms, us and ns in which it falls before the year 5138. Numbers are precise to
    the microsecond, texts to the nanosecond.

    Args:
        values: the column.
        source: the name of the log in messages.
        date_format: of texts, with the codes of ``strftime``.

    Raises:
        UserError: the type of the column holds no times, or the format is impossible.
    """
    values = as_plain(values, source, pl.Time, pl.Duration)
    if values.dtype.is_temporal():
        return _moments(values)
    if values.dtype != pl.String:
        return _scale(values)
    if date_format:
        return _parse(values.str.strip_chars(), date_format)
    whole = values.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count():
        return _scale(whole)
    times, others = _scale(whole), values.str.strip_chars().set(whole.is_not_null(), None)
    for kind in (lambda rest: _scale(rest.cast(pl.Decimal(38, 9), strict=False)), _parse_dates):
        if others.null_count() < len(others):
            found = kind(others)
            times, others = times.fill_null(found), others.set(found.is_not_null(), None)
    return times


def _moments(values: pl.Series) -> pl.Series:
    """Dates and times as nanoseconds, null out of their range."""
    if isinstance(values.dtype, pl.Datetime) and values.dtype.time_unit == "ns":
        return values.dt.epoch("ns")
    return _times(values.dt.epoch("us"), 1000)


def _times(values: pl.Series, unit: int) -> pl.Series:
    """Integers in units of this many nanoseconds; null if 64 bits do not hold them."""
    most = (2**63 - 1) // unit
    return values.set((values > most) | (values < -most), None) * unit


def _scale(numbers: pl.Series) -> pl.Series:
    """Nanoseconds of numbers whose size tells their unit; null if 64 bits do not hold them (from 2262 on)."""
    if numbers.dtype.is_integer() and len(numbers) > numbers.null_count():
        low, high = numbers.min(), numbers.max()
        if isinstance(low, int) and isinstance(high, int) and -9.2e9 < low <= high < 9.2e9:  # all are seconds
            return numbers.cast(pl.Int64) * _SECOND
    size = pl.col(numbers.name).cast(pl.Float64, strict=False).abs()
    times: pl.Expr = _in_units(numbers, 1)
    for unit, below in ((1000, 1e17), (1_000_000, 1e14), (_SECOND, 1e11)):
        times = pl.when(size >= below).then(times).when(size < 9.2e18 / unit).then(_in_units(numbers, unit))
    return numbers.to_frame().select(times.alias(numbers.name)).to_series()


def _in_units(numbers: pl.Series, unit: int) -> pl.Expr:
    """Numbers in units of this many nanoseconds as nanoseconds; floats are precise to the microsecond."""
    number = pl.col(numbers.name)
    if numbers.dtype.is_float() and unit > 1:
        return (number * (unit // 1000)).round().cast(pl.Int64, strict=False) * 1000
    if numbers.dtype.is_decimal():
        return (number * unit).cast(pl.Int64, strict=False)
    return number.cast(pl.Int64, strict=False) * unit


def _parse(texts: pl.Series, date_format: str) -> pl.Series:
    """Texts that all have one format."""
    zone = "UTC" if "%z" in date_format or "%#z" in date_format else None
    try:
        coarse, fine = (
            texts.str.to_datetime(date_format, time_unit=unit, time_zone=zone, strict=False) for unit in ("us", "ns")
        )
    except UNREADABLE as error:
        raise UserError(f"--date-format {date_format!r:.60}: {str(error).splitlines()[0]}") from error
    return _times(coarse.dt.epoch("us"), 1000) + fine.dt.nanosecond() % 1000  # dates that 64 bits lack are null


def _parse_dates(texts: pl.Series) -> pl.Series:
    texts = texts.str.replace(r" (UTC|GMT)$", "")
    column = pl.col(texts.name)
    plain = [column.str.to_datetime(form, time_unit="us", strict=False) for form in _DATES]
    zoned = [
        column.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False).dt.replace_time_zone(None)
        for form in _DATES_WITH_ZONE
    ]
    frame = texts.to_frame()
    times = _times(frame.select(pl.coalesce(*plain, *zoned).dt.epoch("us").alias(texts.name)).to_series(), 1000)
    finer = texts.str.extract(r"\.(\d{6})(\d{1,3})", 2).str.pad_end(3, "0").cast(pl.Int64, strict=False)
    return times + finer.fill_null(0)


def to_genres(values: pl.Series, source: str, separator: str = "|") -> pl.Series:
    """Genres as lists of texts, each once, in their order; texts are split at ``separator``.

    Raises:
        UserError: the column holds neither texts nor lists of them.
    """
    listed = values.dtype == pl.List
    plain = as_plain(values.explode() if listed else values, source)
    lists = values if listed else plain.cast(pl.String).str.split(separator)
    parts = pl.element().cast(pl.String).str.strip_chars()
    return lists.list.eval(parts.filter(~parts.is_in([*NOTHING, "(no genres listed)"]))).list.unique(
        maintain_order=True
    )
