"""Delimited text and Parquet in batches, with the errors of the parser turned into one line."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl

from sprec.data.readers.files import require_file
from sprec.data.readers.log import LINE
from sprec.system.errors import UserError
from sprec.system.progress import bar, console

BATCH = 1_000_000
"""Rows per batch."""
_SEPARATORS = ",;\t|"


def scan(path: Path, *, separator: str = "", quote: str | None = '"') -> pl.LazyFrame:
    """Open a table: Parquet, or delimited text with a header (all columns as text, gzipped or not, with line numbers).

    Args:
        path: the file.
        separator: between fields of delimited text; by default the most frequent one of the header.
        quote: around fields; None for never.

    Raises:
        UserError: missing or empty.
    """
    if not require_file(path).stat().st_size:
        raise UserError(f"{path} is empty")
    if path.suffix == ".parquet":
        return pl.scan_parquet(path.absolute(), glob=False)  # absolute, as polars would expand a ~
    return scan_text(path, separator=separator or _sniff(path), quote=quote)


def _sniff(path: Path) -> str:
    """The separator that the header holds most often."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            header = file.readline(1 << 16)
        except (EOFError, OSError, zlib.error):
            return ","  # the parser will tell what is wrong
    return max(_SEPARATORS, key=lambda separator: header.count(separator.encode()))


def scan_text(
    source: Path | bytes,
    *,
    separator: str = ",",
    quote: str | None = '"',
    header: bool = True,
    columns: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
) -> pl.LazyFrame:
    """Open delimited text.

    Where ``columns`` are given (by name where there is a header, else by place), fields that do not fit them become
    null and further fields are ignored; else a row with more fields than the header is an error when it is read.
    """
    return pl.scan_csv(
        source.absolute() if isinstance(source, Path) else source,  # polars would expand a ~
        glob=False,
        separator=separator,
        quote_char=quote,
        has_header=header,
        schema=dict(columns) if columns and not header else None,
        schema_overrides=dict(columns) if columns and header else None,
        infer_schema=False,
        ignore_errors=columns is not None,
        truncate_ragged_lines=columns is not None,
        row_index_name=LINE,
        row_index_offset=2 if header else 1,
    )


def batches(table: pl.LazyFrame, source: object, columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Read a table batch by batch, its ``columns`` (our name to theirs) renamed, line numbers kept.

    Raises:
        UserError: a column is missing, the file cannot be parsed, or a Parquet file gives other rows than it promises.
    """
    read, promised = 0, None
    try:
        names = table.collect_schema().names()
        require_columns(names, columns.values(), source)
        text = LINE in names
        chosen = [pl.col(theirs).alias(ours) for ours, theirs in columns.items()]
        chosen += [pl.col(LINE)] if text else []
        if console.is_terminal or not text:  # of text only for the ETA: it has to be read for that
            promised = table.select(pl.len()).collect().item()
        # text is read with all its columns: else polars does not notice rows with too many fields
        flags = pl.QueryOptFlags(projection_pushdown=not text)
        with bar(f"reading {Path(str(source)).name}", promised) as progress:
            for batch in table.select(chosen).collect_batches(
                chunk_size=BATCH, maintain_order=True, optimizations=flags
            ):
                read += len(batch)
                yield batch
                progress.advance(len(batch))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"cannot read {source}: {_one_line(error)}") from error
    if not text and read != promised:  # polars ends early, without an exception, where one of its threads panics
        raise UserError(f"cannot read {source}: {read:,} of {promised:,} rows are there; it is damaged, write it again")


def read(table: pl.LazyFrame, source: object, columns: Mapping[str, str], count: str = "") -> pl.DataFrame:
    """Read a table at once; see :func:`batches`.

    Args:
        table: of :func:`scan` or :func:`scan_text`.
        source: what errors call it.
        columns: our names to theirs.
        count: a column to add: how often the row is there. Each row comes once then, in any order.
    """
    found = [_counted(batch, count) if count else batch for batch in batches(table, source, columns)]
    if not found:
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | ({count: pl.Int64} if count else {}))
    frame = pl.concat(found, how="vertical_relaxed")
    return frame.group_by(list(columns)).agg(pl.col(count).sum()) if count else frame


def _counted(batch: pl.DataFrame, count: str) -> pl.DataFrame:
    return batch.group_by(pl.exclude(LINE)).agg(pl.len().cast(pl.Int64).alias(count))


def names_of(table: pl.LazyFrame, source: object) -> list[str]:
    """The columns of a table.

    Raises:
        UserError: the file cannot be parsed.
    """
    try:
        return [name for name in table.collect_schema().names() if name != LINE]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"cannot read {source}: {_one_line(error)}") from error


def require_columns(names: Iterable[str], wanted: Iterable[str], source: object) -> None:
    """Raise a UserError that names the columns there are if one of ``wanted`` is missing."""
    for name in wanted:
        if name not in names:
            there = " ".join(", ".join(known for known in names if known != LINE).split())[:200]
            raise UserError(f'{source} has no column "{name}"; columns: {there}')


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if lines and "found more fields" in lines[0]:
        return "a row has more fields than the header; put quotes around fields that hold the separator"
    if lines and "utf-8" in lines[0].lower():
        return "it is not UTF-8; save it as UTF-8 (iconv -f latin1 -t utf8)"
    return lines[0] if lines else type(error).__name__
