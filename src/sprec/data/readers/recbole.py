"""RecBole's atomic files: ``NAME.inter`` and ``NAME.item``, tab-separated with typed headers (``item_id:token``)."""

import itertools
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path

import polars as pl

from sprec.data.catalog import Catalog
from sprec.data.dataset import SPLITS, Split
from sprec.data.readers.columns import to_events, to_genres, with_id
from sprec.data.readers.files import source_of
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.objects import find_file
from sprec.data.readers.tables import Table, batches, require_columns, text_table
from sprec.data.readers.tables import read as read_table
from sprec.data.readers.text import Dialect
from sprec.data.titles import clean_genres, clean_title, is_junk
from sprec.system.errors import UserError

_TITLES = ("title", "movie_title", "book_title", "item_title", "name", "item_name")
_GENRES = ("genre", "genres", "class", "categories", "category", "tags")
_DETAILS = ("release_year", "year", "publication_year", "author", "brand")


def read(source: Path, faults: Faults) -> Log:
    """Open ``source``, a folder of atomic files (or its ``.inter`` file); dropped rows count in ``faults``.

    Raises:
        UserError: a file or a required column is missing, or a header has no types.
    """
    folder = source.parent if source.is_file() else source
    interactions = source if source.suffix == ".inter" else find_file(folder, ["*.inter"], "RecBole interactions")
    items = find_file(folder, [f"{escape(interactions.stem)}.item", "*.item"], "RecBole items")
    return Log(_events(interactions, faults), _items(items, faults))


def has_windows(source: Path) -> bool:
    """Whether the folder ``source`` holds RecBole's benchmark files, whose rows are windows (``item_id_list``).

    Raises:
        UserError: a file is not UTF-8.
    """
    return any("item_id_list" in _header(path) for path in source.glob("*.train.inter"))


def _header(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(1 << 20)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8") from error


def read_windows(source: Path, faults: Faults) -> tuple[Catalog, dict[str, Split]]:
    """Read the folder ``source`` with ``NAME.item`` and ``NAME.{train,valid,test,extra}.inter``, a window per row.

    Items without a usable title and rows with an unknown target are dropped and counted in ``faults``; unknown items
    are removed from histories.

    Raises:
        UserError: a file or a required column is missing.
    """
    train = find_file(source, ["*.train.inter"], "RecBole training windows")
    stem = train.name.removesuffix(".train.inter")
    listed = _items(find_file(source, [f"{escape(stem)}.item"], "RecBole items"), faults)
    items = listed.unique("item", keep="first", maintain_order=True)
    titles = [clean_title(title or "") for title in items["title"].to_list()]
    good = [not is_junk(title) for title in titles]
    faults.add("items_dropped_without_title", count=good.count(False))
    items = items.filter(pl.Series(good, dtype=pl.Boolean))
    genres = tuple(clean_genres(own or ()) for own in items["genres"].to_list())
    catalog = Catalog(tuple(itertools.compress(titles, good)), genres, tuple(items["item"].to_list()))
    faults.add("items_that_share_a_title", count=catalog.sharing)
    number = {item: row for row, item in enumerate(catalog.source_ids)}
    paths = {split: source / f"{stem}.{split}.inter" for split in SPLITS}
    return catalog, {split: _windows(path, number, faults) for split, path in paths.items() if path.exists()}


def _windows(path: Path, number: Mapping[str, int], faults: Faults) -> Split:
    table, columns = _scan(path)
    require_columns(list(columns), ("item_id_list", "item_id"), path)
    frame = read_table(table, {"history": columns["item_id_list"], "target": columns["item_id"]})
    rows = []
    for history, target in frame.select(pl.col("history").fill_null("").str.split(" "), "target").iter_rows():
        known = [number[item] for item in history if item in number]
        faults.add("history_items_dropped_unknown", count=len(history) - len(known) - history.count(""))
        if target in number:
            rows.append((known, number[target]))
        else:
            faults.add("rows_dropped_unknown_target")
    return Split.of(rows)


def _scan(path: Path) -> tuple[Table, dict[str, str]]:
    """The table and its columns by bare name (``item_id`` to ``item_id:token``)."""
    table = text_table(source_of(path), Dialect("\t", quote=None))
    if not all(":" in name for name in table.columns):
        found = ", ".join(table.columns)
        raise UserError(f"{path}:1: a RecBole header types its columns like item_id:token, found {found:.200}")
    return table, {name.split(":")[0]: name for name in table.columns}


def _events(path: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    table, columns = _scan(path)
    wanted = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    require_columns(list(columns), wanted.values(), path)
    if "rating" in columns:
        wanted["rating"] = "rating"
    return to_events(batches(table, {ours: columns[theirs] for ours, theirs in wanted.items()}), path.name, faults)


def _items(path: Path, faults: Faults) -> pl.DataFrame:
    table, columns = _scan(path)
    title = next((name for name in _TITLES if name in columns), None)
    if title is None or "item_id" not in columns:
        raise UserError(f"{path} needs the columns item_id and title; columns: {', '.join(columns)}")
    wanted = {"item": columns["item_id"], "title": columns[title]}
    for ours, theirs in (("genres", _GENRES), ("detail", _DETAILS)):
        first = next((name for name in theirs if name in columns), None)
        if first:
            wanted[ours] = columns[first]
    frame = with_id(read_table(table, wanted), path.name, faults)
    kinds = to_genres(frame["genres"], path.name, " ") if "genres" in wanted else pl.lit([], pl.List(pl.String))
    detail = pl.col("detail") if "detail" in wanted else pl.lit(None, pl.String)
    return frame.with_columns(genres=kinds, detail=detail).select(list(ITEMS))
