"""Parquet files with any name: polars would read ``[ ] * ?`` in a path as a pattern and ``~`` as the home folder."""

import io
from pathlib import Path

import polars as pl

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises on damaged bytes."""


def read_parquet(file: Path) -> pl.DataFrame:
    """Read the ``file`` of exactly this name.

    Raises:
        OSError: it cannot be read.
        PolarsError: it is not a Parquet file.
    """
    return parse_parquet(file.read_bytes())


def parse_parquet(content: bytes) -> pl.DataFrame:
    """The table in the ``content`` of a Parquet file: the bytes that were hashed, not what the file holds by now."""
    return pl.read_parquet(io.BytesIO(content))


def write_parquet(frame: pl.DataFrame, file: Path) -> None:
    """Write a ``frame`` to the ``file`` of exactly this name.

    Raises:
        OSError: it cannot be written; a full disk may also be a polars ``ComputeError``.
    """
    with file.open("wb") as target:
        frame.write_parquet(target)
