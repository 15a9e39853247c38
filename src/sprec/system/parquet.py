"""Parquet files under any name: polars takes ``[ ] * ?`` in a path for a pattern and ``~`` for a home."""

import io
from pathlib import Path

import polars as pl

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises on damaged bytes."""


def read_parquet(file: Path) -> pl.DataFrame:
    """Read this very file.

    Raises:
        OSError: it cannot be read.
        PolarsError: it is not a Parquet file.
    """
    return parse_parquet(file.read_bytes())


def parse_parquet(content: bytes) -> pl.DataFrame:
    """The table that these bytes of a Parquet file hold: those that were hashed, not those that are there by now."""
    return pl.read_parquet(io.BytesIO(content))


def write_parquet(frame: pl.DataFrame, file: Path) -> None:
    """Write this very file.

    Raises:
        OSError: it cannot be written; a full disk may also be a polars ``ComputeError``.
    """
    with file.open("wb") as target:
        frame.write_parquet(target)
