"""Tables, batch by batch: delimited text, a Parquet file, a folder of Parquet parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sprec.data.readers.files import Source, source_of
from sprec.data.readers.log import LINE
from sprec.data.readers.text import Dialect, Text
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE
from sprec.system.paths import require_path
from sprec.system.progress import bar

BATCH = 1_000_000
"""Rows per batch of Parquet."""


@dataclass(frozen=True)
class Table:
    """A table that can be read any number of times.

    Attributes:
        name: for messages.
        columns: the names of its columns, stripped; fields of structures are ``column.field``.
        frames: reads the columns with the given names, in this order, perhaps with line numbers.
    """

    name: str
    columns: tuple[str, ...]
    frames: Callable[[list[str]], Iterator[pl.DataFrame]]


def open_table(path: Path, dialect: Dialect | None = None) -> Table:
    """Open a table.

    Args:
        path: a Parquet file, a folder of them (the parts of one table) or delimited text, gzipped or not.
        dialect: of delimited text.

    Raises:
        UserError: it is missing, empty, or something else.
    """
    if require_path(path).is_dir():
        return _parquet(_parts(path), str(path))
    if path.suffix == ".parquet":
        source_of(path)
        return _parquet([path], str(path))
    return text_table(source_of(path), dialect)


def text_table(source: Source, dialect: Dialect | None = None) -> Table:
    """Open delimited text from a ``source`` in a ``dialect``; see :class:`~sprec.data.readers.text.Text`."""
    text = Text(source, dialect or Dialect())

    def frames(names: list[str]) -> Iterator[pl.DataFrame]:
        places = {name: str(text.columns.index(name)) for name in names}
        columns = [pl.col(place).alias(name) for name, place in places.items()]
        for frame in text.frames():
            yield frame.select(*columns, LINE)

    return Table(source.name, tuple(text.columns), frames)


def _parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names, without hidden ones and markers (``_SUCCESS``)."""
    found = sorted(path for path in folder.rglob("*.parquet") if path.is_file() and path.name[0] not in "._")
    if not found:
        raise UserError(f"{folder} is a folder without Parquet files (*.parquet); give a file")
    return found


def _parquet(paths: list[Path], name: str) -> Table:
    # absolute, as polars would expand ~ and read s3: as a protocol
    table = pl.scan_parquet([path.absolute() for path in paths], glob=False, hive_partitioning=False)
    try:
        fields = dict(_fields(table.collect_schema()))
    except (*UNREADABLE, OSError) as error:
        raise _unreadable(name, error) from error

    def frames(names: list[str]) -> Iterator[pl.DataFrame]:
        read = 0
        try:
            promised = table.select(pl.len()).collect().item()
            chosen = table.select(fields[column].alias(column) for column in names)
            with bar(f"reading {Path(name).name}", promised) as progress:
                for batch in chosen.collect_batches(chunk_size=BATCH, maintain_order=True):
                    read += len(batch)
                    yield batch
                    progress.advance(len(batch))
        except (*UNREADABLE, OSError) as error:
            raise _unreadable(name, error) from error
        if read != promised:  # polars ends early, without an exception, if one of its threads panics
            raise UserError(
                f"cannot read {name}: {read:,} of {promised:,} rows are there; it is damaged, write it again"
            )

    return Table(name, tuple(fields), frames)


def _fields(schema: Mapping[str, pl.DataType]) -> Iterator[tuple[str, pl.Expr]]:
    """The columns by name, each structure followed by its fields, ``column.field``."""
    for place, (name, kind) in enumerate(schema.items()):
        yield name.strip(), pl.nth(place)  # by place: polars reads some names as patterns
        if isinstance(kind, pl.Struct):
            yield from _inner(name.strip(), pl.nth(place), kind)


def _inner(prefix: str, column: pl.Expr, kind: pl.Struct) -> Iterator[tuple[str, pl.Expr]]:
    for field in kind.fields:
        name, inner = f"{prefix}.{field.name.strip()}", column.struct.field(field.name)
        yield name, inner
        if isinstance(field.dtype, pl.Struct):
            yield from _inner(name, inner, field.dtype)


def _unreadable(name: str, error: BaseException) -> UserError:
    return UserError(f"cannot read {name}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")


def batches(table: Table, columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Read a table batch by batch, its ``columns`` (our name to theirs) renamed, line numbers kept.

    Raises:
        UserError: a column is missing or there twice, the file cannot be parsed, or a Parquet file gives other rows
            than it promises.
    """
    require_columns(table.columns, columns.values(), table.name)
    for frame in table.frames(list(dict.fromkeys(columns.values()))):
        numbers = [frame[LINE]] if LINE in frame.columns else []
        yield pl.DataFrame([*(frame[theirs].alias(ours) for ours, theirs in columns.items()), *numbers])


def read(table: Table, columns: Mapping[str, str], count: str = "") -> pl.DataFrame:
    """Read a table at once; see :func:`batches`.

    Args:
        table: what to read.
        columns: our names to theirs.
        count: name of a column to add, how often each row occurs; the rows are then distinct, in any order.
    """
    found = [_counted(batch, count) if count else batch for batch in batches(table, columns)]
    if not found:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | ({count: pl.Int64} if count else {}))
    frame = pl.concat(found, how="vertical_relaxed")
    return frame.group_by(list(columns)).agg(pl.col(count).sum()) if count else frame


def _counted(batch: pl.DataFrame, count: str) -> pl.DataFrame:
    return batch.group_by(pl.exclude(LINE)).agg(pl.len().cast(pl.Int64).alias(count))


def require_columns(names: Iterable[str], wanted: Iterable[str], source: object) -> None:
    """Raise a UserError unless each of the columns ``wanted`` occurs once in ``names``, the columns of ``source``."""
    known = list(names)
    for name in wanted:
        if name not in known:
            there = " ".join(", ".join(known).split())[:200]
            raise UserError(f'{source} has no column "{name}"; columns: {there}')
        if known.count(name) > 1:
            raise UserError(f'{source} has {known.count(name)} columns "{name}"; rename all but one')
