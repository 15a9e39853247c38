"""Files that name items: which may be recommended, which are in stock, which are blocked, perhaps for single users."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sprec.data import Catalog
from sprec.data.again import columns_of
from sprec.data.readers.files import require_file
from sprec.data.readers.tables import open_table, read
from sprec.system.errors import UserError
from sprec.system.progress import say


@dataclass(frozen=True)
class Named:
    """The items that a file names.

    Attributes:
        items: for all users.
        by_user: for single users.
    """

    items: list[int]
    by_user: dict[str, list[int]]


def read_items(file: Path, catalog: Catalog, meta: Mapping[str, Any], *, users: bool = False) -> Named:
    """Read a list of items: a name per line, or a table with a column of names, which are source ids or titles.

    The column has the same name as in the log that the dataset was made from, or ``item``. Unknown names are counted
    and reported.

    Args:
        file: text, CSV, TSV or Parquet.
        catalog: the items.
        meta: of the dataset.
        users: whether a column of users restricts rows to a user; a row without a user is for all.

    Raises:
        UserError: the file cannot be read, or names no item of the catalog.
    """
    rows = _rows(file, meta)
    items, by_user, unknown = [], dict[str, list[int]](), []
    for name, user in rows:
        item = catalog.locate(name)
        if item is None:
            unknown.append(name)
        elif users and user:
            by_user.setdefault(user, []).append(item)
        else:
            items.append(item)
    if len(unknown) == len(rows):
        example = f", such as {unknown[0]!r:.80}" if unknown else ""
        raise UserError(f"{file} names no item of the catalog{example}; give source ids or titles")
    if unknown:
        say(f"! {file}: {len(unknown):,} of {len(rows):,} items are not in the catalog, such as {unknown[0]!r:.80}")
    return Named(items, by_user)


def _rows(file: Path, meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of items, and of users if there are any."""
    columns = columns_of(meta)
    table = open_table(file)
    item = next((name for name in (columns.item, "item") if name in table.columns), None)
    if item is None:
        if file.suffix == ".parquet" or len(table.columns) > 1:
            there = ", ".join(table.columns)
            raise UserError(f'{file} has no column "{columns.item}" or "item"; columns: {there:.200}')
        lines = require_file(file).read_text("utf-8-sig").split("\n")  # titles may contain other line separators
        return [(line.strip(), "") for line in lines if line.strip()]
    user = next((name for name in (columns.user, "user") if name in table.columns), None)
    frame = read(table, {"item": item} | ({"user": user} if user else {})).with_columns(pl.all().cast(pl.String))
    users = frame["user"].fill_null("").to_list() if user else [""] * len(frame)
    return [(name.strip(), own) for name, own in zip(frame["item"].to_list(), users, strict=True) if name]
