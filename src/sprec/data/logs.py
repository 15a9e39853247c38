"""From a log to a dataset: read it, clean titles, apply the protocol, select genres, and report what was done."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from sprec.data.about import Wording
from sprec.data.catalog import Catalog
from sprec.data.dataset import Dataset, Split
from sprec.data.events import Events, ascending, collect, core, drop_repeats, long_enough, tied
from sprec.data.genres import check_genres, count_genres, hierarchical_parents, select_genres
from sprec.data.readers import amazon, goodreads, movielens, recbole, steam
from sprec.data.readers.columns import NOTHING
from sprec.data.readers.log import Faults, Log
from sprec.data.readers.table import Columns, Reading
from sprec.data.readers.table import read as read_table
from sprec.data.titles import clean_genres, clean_title, distinguish, is_junk, repair_scraped, shorten
from sprec.data.windows import Protocol, assign, draw, examples, find_windows, late_training_targets
from sprec.system.errors import UserError
from sprec.system.paths import require_name, require_path

READERS: dict[str, Callable[[Path, Faults], Log]] = {
    "movielens": movielens.read,
    "goodreads": goodreads.read,
    "amazon": amazon.read,
    "steam": steam.read,
    "recbole": recbole.read,
}
"""Readers of published logs; other tables are read by :func:`sprec.data.readers.table.read`."""


_SHORTEST = 10
"""With fewer characters little of a title is left before the ellipsis."""
_UNTITLED = 0.05
"""If more than this share of the interactions lacks a title, log and list of items do not belong together."""


@dataclass(frozen=True)
class Cleaning:
    """What to do with titles and genres.

    Attributes:
        max_title: longer titles are cut at a word, in characters, at least 10; 0 for no limit.
        distinguish: tell items apart that share a title: by ``detail`` (year, author; then by id), by ``id``, or not.
            The addition does not count towards ``max_title``.
        drop_untitled: accept that more than 5% of the interactions are with items without a title.
        unseen_items: keep items without interactions; None for the reader's choice.
        genres: the selected genres; None for the most frequent ones of the training examples.
        top: how many.
        exclude: genres that are never selected.
        drop_parents: leave out genres that contain others (see :func:`sprec.data.genres.hierarchical_parents`).

    Raises:
        UserError: a number that is too small.
    """

    max_title: int = 200
    distinguish: Literal["no", "detail", "id"] = "no"
    drop_untitled: bool = False
    unseen_items: bool | None = None
    genres: Sequence[str] | None = None
    top: int = 10
    exclude: Collection[str] = ()
    drop_parents: bool = True

    def __post_init__(self) -> None:
        if self.max_title and self.max_title < _SHORTEST:
            raise UserError(f"max_title must be 0 (no limit) or at least {_SHORTEST} characters, got {self.max_title}")
        if self.top < 0:
            raise UserError(f"the number of genres to select must not be negative, got {self.top}")


def import_log(
    format: str,
    source: Path,
    name: str | None = None,
    protocol: Protocol | None = None,
    cleaning: Cleaning | None = None,
    *,
    items: Path | None = None,
    columns: Columns | None = None,
    reading: Reading | None = None,
    noun: str | None = None,
    verb: str | None = None,
) -> Dataset:
    """Read a log and make a dataset of it.

    Args:
        format: a key of :data:`READERS`, or ``table``.
        source: file or folder.
        name: of the dataset; by default that of the source.
        protocol: from log to windows and splits; not for RecBole's benchmark files, which are windows already.
        cleaning: of titles and genres (of RecBole's benchmark files: the genres to select only).
        items: the list of items (``table`` only).
        columns: names of columns (``table`` only).
        reading: how tables are read (``table`` only).
        noun: for the items in prompts; by default the format's.
        verb: what users did with them; by default the format's.

    Raises:
        UserError: what is wrong with the files or the settings, in one line.
    """
    if format not in READERS and format != "table":
        raise UserError(f'unknown format "{format}"; formats: {", ".join(["sprec", *READERS, "table"])}')
    source, faults, cleaning = require_path(source), Faults(), cleaning or Cleaning()
    title = require_name(name or source.resolve().name.split(".")[0] or "data")
    if format == "recbole" and recbole.has_windows(source):
        dataset = _of_windows(source, title, cleaning, wording(noun or "items", verb or "chosen"), faults)
    else:
        table = format == "table"
        log = read_table(source, items, faults, columns, reading) if table else READERS[format](source, faults)
        log = replace(log, noun=noun or log.noun, verb=verb or log.verb)
        dataset = build(log, title, protocol or Protocol(), cleaning, faults)
    told = {"source": {"format": format, "path": str(source)}}
    if format == "table":
        how = reading or Reading()
        where = {name: sorted(values) for name, values in how.where.items()}
        told["reading"] = asdict(columns or Columns()) | asdict(how) | {"where": where}
    return replace(dataset, meta={**dataset.meta, **told})


def _of_windows(source: Path, name: str, cleaning: Cleaning, wording: Wording, faults: Faults) -> Dataset:
    """A dataset from RecBole's benchmark files, which are windows already: no protocol applies."""
    catalog, splits = recbole.read_windows(source, faults)
    genres = _genres(catalog, splits["train"], cleaning)
    return Dataset(name, catalog, splits, genres, wording, faults.nonzero(), {"malformed": []})


def build(log: Log, name: str, protocol: Protocol, cleaning: Cleaning, faults: Faults) -> Dataset:
    """Apply a ``protocol`` and ``cleaning`` to a log, and call the dataset ``name``.

    ``Dataset.warnings`` counts everything that was dropped or repaired, ``faults`` included. ``Dataset.meta`` holds the
    counts of the whole ``log`` (rows read, users, items, interactions, windows = ``sequences``), of its parts, and the
    settings.

    Raises:
        UserError: nothing is left at some step, the log and the items do not fit together, a genre is unknown, or
            settings do not fit together or to the log.
    """
    if protocol.core and cleaning.unseen_items:
        raise UserError("--core leaves no items without interactions; leave out --unseen or --core")
    if protocol.split == "time" and not log.timed:
        raise UserError(f"{name} has no times, only an order per user; use --split leave-one-out or --split user")
    events, rows = collect(log.events, protocol.min_rating, protocol.ties, protocol.seed, faults)
    keep_unseen = log.whole_catalog if cleaning.unseen_items is None else cleaning.unseen_items
    items = _tidy(_chosen(log.items, events, keep_unseen, faults), cleaning, faults)
    events = _titled(events, items, log.items, faults, drop=cleaning.drop_untitled)
    events = _filter(events, protocol, faults)
    catalog, item_ids = _catalog(items, events, keep_unseen and not protocol.core)
    faults.add("items_that_share_a_title", count=catalog.sharing)
    windows = find_windows(events, protocol)
    parts = assign(events, windows, protocol)
    late = late_training_targets(events, parts) if log.timed else None
    faults.add("training_targets_later_than_first_test_target", count=late or 0)
    targets = draw(events, parts, protocol)
    splits = {split: examples(events, chosen, protocol.history, item_ids) for split, chosen in targets.items()}
    return Dataset(
        name=name,
        catalog=catalog,
        splits=splits,
        genres=_genres(catalog, splits["train"], cleaning),
        wording=wording(log.noun, log.verb),
        warnings=faults.nonzero(),
        meta=_meta(rows, events, catalog, parts, timed=log.timed)
        | {"options": _options(protocol, cleaning), "malformed": faults.examples.get("malformed_lines", [])}
        | ({} if late is None else {"late_training_targets": late}),
    )


def wording(noun: str, verb: str) -> Wording:
    """The wording of prompts about items called ``noun`` (movies) that users have ``verb`` (watched, read, bought)."""
    return Wording(
        instruction=f"Given a list of {noun} the user has {verb} before, recommend new {noun} that the user may like.",
        prefix=f"The user has {verb} the following {noun} before: ",
        suffix="\n",
        noun=noun,
    )


def _chosen(items: pl.DataFrame, events: Events, keep_unseen: bool, faults: Faults) -> pl.DataFrame:
    """The items that are needed, each id once, in the order of the ids."""
    once = items.unique("item", keep="first", maintain_order=True)
    faults.add("items_listed_twice", count=len(items) - len(once))
    if not keep_unseen:
        once = once.join(pl.DataFrame({"item": events.items.cast(pl.String)}), on="item", how="semi")
    number = pl.col("item").cast(pl.UInt64, strict=False)
    return once.sort(number, "item", nulls_last=True)


def _tidy(items: pl.DataFrame, cleaning: Cleaning, faults: Faults) -> pl.DataFrame:
    """Clean titles and drop items without a usable one."""
    before = ["" if title is None or title in NOTHING else title for title in items["title"].to_list()]
    after = [clean_title(repair_scraped(title)) for title in before]
    faults.add("titles_tidied", count=sum(old != new for old, new in zip(before, after, strict=True)))
    good = [not is_junk(title) for title in after]
    faults.add("items_dropped_without_title", count=good.count(False))
    if cleaning.max_title:
        faults.add("titles_shortened", count=sum(len(title) > cleaning.max_title for title in after))
        after = [shorten(title, cleaning.max_title) for title in after]
    tidied = items.with_columns(title=pl.Series(after, dtype=pl.String)).filter(pl.Series(good, dtype=pl.Boolean))
    if cleaning.distinguish == "no":
        return tidied
    details = tidied["detail"].to_list() if cleaning.distinguish == "detail" else [None] * len(tidied)
    return tidied.with_columns(
        title=pl.Series(distinguish(tidied["title"].to_list(), details, tidied["item"].to_list()))
    )


def _titled(events: Events, items: pl.DataFrame, listed: pl.DataFrame, faults: Faults, *, drop: bool) -> Events:
    """The events of items with a usable title (``items``, of those that were ``listed``)."""
    ids = events.items.cast(pl.String)
    known = ids.is_in(items["item"].implode()).to_numpy()
    kept = events.where(known[events.item])
    lost = len(events) - len(kept)
    if not len(kept):
        pair = _pair(str(ids[0]), listed["item"])
        raise UserError(f"none of the {len(known):,} items of the log has a title; {pair}")
    if lost > _UNTITLED * len(events) and not drop:
        counts = np.bincount(events.item, minlength=len(known))
        pair = _pair(str(ids[int(np.argmax(np.where(known, 0, counts)))]), listed["item"])
        share = f"{lost:,} of {len(events):,} interactions ({lost / len(events):.0%})"
        raise UserError(f"{share} are with items that have no title; {pair}; pass --drop-untitled to leave them out")
    faults.add("interactions_dropped_item_without_title", count=lost)
    return kept


def _pair(wanted: str, listed: pl.Series) -> str:
    """An id of the log without a title and an id of the list, the one that may be meant if there is one."""
    if wanted in listed:
        return f"the title of {wanted!r} cannot be used"
    alike = listed.filter(_bare(listed) == _bare(pl.Series([wanted])))
    theirs = f"ids like {[*alike, *listed[:1]][0]!r}" if len(listed) else "no ids"
    return f"the log has ids like {wanted!r}, the list of items has {theirs}"


def _bare(ids: pl.Series) -> pl.Series:
    """Ids without what spreadsheets and programs change: case, leading zeros, a trailing decimal point."""
    return ids.str.to_lowercase().str.replace(r"\.0+$", "").str.replace(r"^0+", "")


def _filter(events: Events, protocol: Protocol, faults: Faults) -> Events:
    unique = drop_repeats(events, protocol.repeats)
    faults.add("interactions_dropped_repeated", count=len(events) - len(unique))
    dense = core(unique, protocol.core) if protocol.core else unique
    faults.add("interactions_dropped_outside_core", count=len(unique) - len(dense))
    kept = long_enough(dense, protocol.min_length)
    faults.add("interactions_dropped_short_sequence", count=len(dense) - len(kept))
    if not len(kept):
        raise UserError(f"no user has {protocol.min_length} interactions; use a smaller min_length")
    return kept


def _catalog(items: pl.DataFrame, events: Events, keep_unseen: bool) -> tuple[Catalog, np.ndarray]:
    """The catalog, and its id of each item of the log (-1 for dropped items), shape (|items of the log|,)."""
    seen = events.items.cast(pl.String).filter(pl.Series(np.bincount(events.item, minlength=len(events.items)) > 0))
    kept = items if keep_unseen else items.filter(pl.col("item").is_in(seen.implode()))
    numbered = kept.select("item").with_row_index("id")
    ids = pl.DataFrame({"item": events.items.cast(pl.String)}).join(
        numbered, on="item", how="left", maintain_order="left"
    )
    genres = tuple(clean_genres(own or ()) for own in kept["genres"].to_list())
    catalog = Catalog(tuple(kept["title"].to_list()), genres, tuple(kept["item"].to_list()))
    return catalog, ids["id"].cast(pl.Int64).fill_null(-1).to_numpy()


def _genres(catalog: Catalog, train: Split, cleaning: Cleaning) -> tuple[str, ...]:
    if cleaning.genres:
        return check_genres(catalog, cleaning.genres)
    parents = hierarchical_parents(catalog) if cleaning.drop_parents else set()
    return select_genres(count_genres(catalog, train), cleaning.top, parents | set(cleaning.exclude))


def _meta(rows: int, events: Events, catalog: Catalog, parts: np.ndarray, *, timed: bool) -> dict[str, Any]:
    windows = np.bincount(parts, minlength=4)[:3].tolist()
    first, last = (int(time) // 1_000_000 for time in (events.time.min(), events.time.max()))  # milliseconds
    times = {"first": first, "last": last, "tied": int(np.count_nonzero(tied(events))), "ascending": ascending(events)}
    return ({"time": times} if timed else {}) | {
        "log": {
            "rows": rows,
            "users": int(np.count_nonzero(np.diff(events.bounds()))),
            "items": len(catalog),
            "interactions": len(events),
            "sequences": sum(windows),
        },
        "windows": dict(zip(("train", "valid", "test"), windows, strict=True)),
    }


def _options(protocol: Protocol, cleaning: Cleaning) -> dict[str, Any]:
    return (
        asdict(protocol) | {"shares": list(protocol.shares)} | asdict(cleaning) | {"exclude": sorted(cleaning.exclude)}
    )
