"""Amazon reviews of 2014, 2018 and 2023: one file of reviews and one of metadata (``meta_*``) in a folder.

The metadata of 2014 are Python literals, not JSON; both are read (and never evaluated).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sprec.data.readers.lines import read_objects
from sprec.data.readers.log import Faults, Log
from sprec.data.readers.objects import Item, Row, as_text, event_batches, find_file, item_table
from sprec.system.errors import UserError

_SUFFIXES = (".json.gz", ".jsonl.gz", ".json", ".jsonl")


def read(source: Path, faults: Faults) -> Log:
    """Open the folder ``source`` with one file of reviews and one of metadata; dropped rows count in ``faults``.

    Raises:
        UserError: one of them is missing, or there are several.
    """
    metadata = find_file(source, [f"meta_*{suffix}" for suffix in _SUFFIXES], "Amazon metadata")
    reviews = _reviews(source, metadata)
    items = item_table(_items(metadata, faults), faults)
    return Log(event_batches(_rows(reviews, faults), reviews, faults), items, noun="products", verb="bought")


def _reviews(source: Path, metadata: Path) -> Path:
    found = [path for path in sorted(source.iterdir()) if path.name.endswith(_SUFFIXES) and path != metadata]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{source} must hold one file of reviews beside {metadata.name}, found {names}")
    return found[0]


def _rows(path: Path, faults: Faults) -> Iterator[Row]:
    for line, record in read_objects(path, faults):
        yield (
            line,
            as_text(record.get("reviewerID") or record.get("user_id")),
            as_text(record.get("parent_asin") or record.get("asin")),
            record.get("unixReviewTime", record.get("timestamp")),
            record.get("overall", record.get("rating")),
        )


def _items(path: Path, faults: Faults) -> Iterator[Item]:
    for _, record in read_objects(path, faults):
        item = as_text(record.get("parent_asin") or record.get("asin"))
        detail = as_text(record.get("brand") or record.get("store"))
        yield item, as_text(record.get("title")) or "", _categories(record), detail


def _categories(record: dict[str, Any]) -> list[str]:
    """2014: a list of paths (``categories``), 2018: one path (``category``), 2023: one path (``categories``)."""
    paths = record.get("categories") or record.get("category")
    if not isinstance(paths, list):
        return []
    flat = [name for path in paths for name in (path if isinstance(path, list) else [path])]
    return list(dict.fromkeys(name.strip() for name in flat if isinstance(name, str) and name.strip()))
