"""RecBole's atomic files: ``NAME.inter`` and ``NAME.item``, tab-separated with typed headers (``item_id:token``)."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from sprec.data.readers.columns import to_events, to_genres
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.objects import find_file
from sprec.data.readers.tables import batches, names_of, require_columns, scan
from sprec.data.readers.tables import read as read_table
from sprec.errors import UserError

_TITLES = ("title", "movie_title", "book_title", "item_title", "name", "item_name")
_GENRES = ("genre", "genres", "class", "categories", "category", "tags")
_DETAILS = ("release_year", "year", "publication_year", "author", "brand")


def read(source: Path, faults: Faults) -> Log:
    """Open a folder of atomic files (or its ``.inter`` file).

    Raises:
        UserError: a file or a needed column is missing, or a header has no types.
    """
    folder = source.parent if source.is_file() else source
    interactions = source if source.suffix == ".inter" else find_file(folder, ["*.inter"], "RecBole interactions")
    items = find_file(folder, [f"{interactions.stem}.item", "*.item"], "RecBole items")
    return Log(_events(interactions, faults), _items(items))


def _scan(path: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    """The table and its columns by bare name (``item_id`` to ``item_id:token``)."""
    table = scan(path, separator="\t", quote=None)
    names = names_of(table, path)
    if not all(":" in name for name in names):
        raise UserError(f"{path}:1: a RecBole header types its columns like item_id:token, found {', '.join(names)}")
    return table, {name.split(":")[0]: name for name in names}


def _events(path: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    table, columns = _scan(path)
    wanted = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    require_columns(list(columns), wanted.values(), path)
    if "rating" in columns:
        wanted["rating"] = "rating"
    for batch in batches(table, path, {ours: columns[theirs] for ours, theirs in wanted.items()}):
        yield to_events(batch, path.name, faults)


def _items(path: Path) -> pl.DataFrame:
    table, columns = _scan(path)
    title = next((name for name in _TITLES if name in columns), None)
    if title is None or "item_id" not in columns:
        raise UserError(f"{path} needs the columns item_id and title; columns: {', '.join(columns)}")
    wanted = {"item": columns["item_id"], "title": columns[title]}
    for ours, theirs in (("genres", _GENRES), ("detail", _DETAILS)):
        first = next((name for name in theirs if name in columns), None)
        if first:
            wanted[ours] = columns[first]
    frame = read_table(table, path, wanted)
    kinds = to_genres(frame["genres"], " ") if "genres" in wanted else pl.lit([], pl.List(pl.String))
    detail = pl.col("detail") if "detail" in wanted else pl.lit(None, pl.String)
    return frame.with_columns(genres=kinds, detail=detail).select(list(ITEMS))
