"""Another log in the layout of the one that a dataset was made from, read with the choices of that import."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprec.data.catalog import Catalog
from sprec.data.events import Events, collect, drop_repeats
from sprec.data.logs import READERS, Cleaning
from sprec.data.readers import recbole
from sprec.data.readers.log import Faults
from sprec.data.readers.table import Columns, Reading, read_events, read_listing
from sprec.data.readers.text import Dialect
from sprec.data.titles import clean_genres, clean_title, is_junk, repair_scraped, shorten
from sprec.system.errors import UserError
from sprec.system.paths import require_path


def columns_of(meta: Mapping[str, Any]) -> Columns:
    """The column names of the table that a dataset was made from; the usual ones if it was not made from a table.

    Args:
        meta: of the dataset.
    """
    kept = {name: value for name, value in meta.get("reading", {}).items() if name in Columns.__annotations__}
    return Columns(**kept)


def read_again(source: Path, meta: Mapping[str, Any], faults: Faults) -> Events:
    """Read a log in the way that a dataset's was read: format, columns, which events count, repeats.

    For datasets that were not made from a log it is a table with the columns user, item and time.

    Args:
        source: file or folder.
        meta: of the dataset.
        faults: counts the rows that are left out.

    Raises:
        UserError: what is wrong with the log, in one line.
    """
    format, options = meta.get("source", {}).get("format", ""), meta.get("options", {})
    path = require_path(source)
    if format == "recbole" and recbole.has_windows(path):
        raise UserError(f"{source} holds windows, not a log; give the histories in a file of JSON lines")
    if format in READERS:
        batches = READERS[format](path, faults).events
    else:
        batches = read_events(path, faults, columns_of(meta), _reading_of(meta))
    ties, seed = options.get("ties", "file"), options.get("seed", 0)
    events, _ = collect(batches, options.get("min_rating"), ties, seed, faults)
    return drop_repeats(events, options.get("repeats", "keep"))


def read_goods(path: Path, meta: Mapping[str, Any]) -> Catalog:
    """Read a list of items in the way that a dataset's was read: ids, titles (cleaned as in an import) and genres.

    Args:
        path: a table with columns for the id, the title and perhaps the genres.
        meta: of the dataset.

    Raises:
        UserError: the file is no such table, it is empty, or a row has no id or no title that can be used.
    """
    faults, limit = Faults(), meta.get("options", {}).get("max_title", Cleaning().max_title)
    frame = read_listing(require_path(path), faults, columns_of(meta), _reading_of(meta))
    dropped = sum(faults.counts.values())
    if dropped or not len(frame):
        raise UserError(
            f"{path} has {f'{dropped:,} rows without an id' if dropped else 'no rows'}; nothing was changed"
        )
    titles = [clean_title(repair_scraped(title or "")) for title in frame["title"].to_list()]
    for name, title in zip(frame["item"].to_list(), titles, strict=True):
        if is_junk(title):
            raise UserError(f"{path}: the title of {name!r:.80} cannot be used; nothing was changed")
    genres = (clean_genres(own or ()) for own in frame["genres"].to_list())
    shortened = (shorten(title, limit) if limit else title for title in titles)
    return Catalog(tuple(shortened), tuple(genres), tuple(frame["item"].to_list()))


def _reading_of(meta: Mapping[str, Any]) -> Reading:
    kept = {name: value for name, value in meta.get("reading", {}).items() if name in Reading.__annotations__}
    return Reading(**kept | {"dialect": Dialect(**kept.get("dialect", {}))})
