"""Delimited text and Parquet in batches, with the errors of the parser turned into one line."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from sprec.errors import UserError

BATCH = 1_000_000
"""Rows per batch."""


def scan(path: Path, *, separator: str = ",", quote: str | None = '"', header: bool = True) -> pl.LazyFrame:
    """Open a table by its suffix: Parquet, JSON lines, else delimited text (all columns as text), gzipped or not.

    Delimited text gets a column ``line`` with the line number (from 1, where no field holds a line break).

    Raises:
        UserError: missing, empty, or not such a table.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind == "parquet":
        return pl.scan_parquet(path)
    if kind in ("jsonl", "ndjson", "json"):
        return pl.scan_ndjson(path, infer_schema_length=10_000)
    return scan_text(path, separator="\t" if kind == "tsv" else separator, quote=quote, header=header)


def scan_text(
    source: Path | bytes,
    *,
    separator: str = ",",
    quote: str | None = '"',
    header: bool = True,
    columns: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
) -> pl.LazyFrame:
    """Open delimited text; fields that do not fit ``columns`` become null, further fields are ignored."""
    return pl.scan_csv(
        source,
        separator=separator,
        quote_char=quote,
        has_header=header,
        schema=dict(columns) if columns else None,
        infer_schema=False,
        ignore_errors=columns is not None,
        truncate_ragged_lines=True,
        row_index_name="line",
        row_index_offset=2 if header else 1,
    )


def batches(table: pl.LazyFrame, source: object, columns: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Read a table batch by batch, its ``columns`` (our name to theirs) renamed; ``line`` is kept where there is one.

    Raises:
        UserError: a column is missing, or the file cannot be parsed.
    """
    try:
        names = table.collect_schema().names()
        require_columns(names, columns.values(), source)
        chosen = [pl.col(theirs).alias(ours) for ours, theirs in columns.items()]
        chosen += [pl.col("line")] if "line" in names else []
        yield from table.select(chosen).collect_batches(chunk_size=BATCH, maintain_order=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"cannot read {source}: {_one_line(error)}") from error


def read(table: pl.LazyFrame, source: object, columns: Mapping[str, str]) -> pl.DataFrame:
    """Read a table at once; see :func:`batches`."""
    found = list(batches(table, source, columns))
    return pl.concat(found, how="vertical_relaxed") if found else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))


def names_of(table: pl.LazyFrame, source: object) -> list[str]:
    """The columns of a table.

    Raises:
        UserError: the file cannot be parsed.
    """
    try:
        return [name for name in table.collect_schema().names() if name != "line"]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"cannot read {source}: {_one_line(error)}") from error


def require_columns(names: list[str], wanted: object, source: object) -> None:
    """Raise a UserError that names the columns there are if one of ``wanted`` is missing."""
    for name in wanted:  # type: ignore[attr-defined]
        if name not in names:
            there = ", ".join(known for known in names if known != "line")
            raise UserError(f'{source} has no column "{name}"; columns: {there}')


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
