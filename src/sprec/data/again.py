"""A further log in the layout of the one that a dataset was made of, read with the choices of that import."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprec.data.events import Events, collect, drop_repeats
from sprec.data.logs import READERS
from sprec.data.readers import recbole
from sprec.data.readers.log import Faults
from sprec.data.readers.table import Columns, Reading, read_events
from sprec.data.readers.text import Dialect
from sprec.system.errors import UserError
from sprec.system.paths import require_path


def columns_of(meta: Mapping[str, Any]) -> Columns:
    """What the columns were called in the table that a dataset was made of; the usual names where it was no table.

    Args:
        meta: of the dataset.
    """
    kept = {name: value for name, value in meta.get("reading", {}).items() if name in Columns.__annotations__}
    return Columns(**kept)


def read_again(source: Path, meta: Mapping[str, Any], faults: Faults) -> Events:
    """Read a log as the one of a dataset was read: format, columns, which events count, repeats.

    Datasets that were not made of a log take a table with the columns user, item and time.

    Args:
        source: file or folder.
        meta: of the dataset.
        faults: where rows that are left out are counted.

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


def _reading_of(meta: Mapping[str, Any]) -> Reading:
    kept = {name: value for name, value in meta.get("reading", {}).items() if name in Reading.__annotations__}
    return Reading(**kept | {"dialect": Dialect(**kept.get("dialect", {}))})
