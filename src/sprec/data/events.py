"""A log in memory: 16 bytes per interaction, sorted by user, time and item, whatever order the file had."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from sprec.system.errors import UserError
from sprec.system.progress import bar

Repeats = Literal["keep", "consecutive", "first"]


@dataclass(frozen=True)
class Events:
    """``n`` interactions, those of a user behind each other, oldest first; ties in time by item.

    Attributes:
        user: numbers 0..|users|-1 in the order of the sorted ids, shape (n,), int32.
        item: likewise, shape (n,), int32.
        time: milliseconds since 1970, shape (n,), int64.
        users: the id of each user.
        items: the id of each item.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    users: pl.Series
    items: pl.Series

    def __len__(self) -> int:
        return len(self.item)

    def bounds(self) -> np.ndarray:
        """Where the events of each user start and those of the last end, shape (|users|+1,)."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.user, minlength=len(self.users)))])

    def where(self, keep: np.ndarray) -> "Events":
        """The events that a boolean mask of shape (n,) keeps; users and items keep their numbers."""
        if keep.all():
            return self
        return Events(self.user[keep], self.item[keep], self.time[keep], self.users, self.items)


def collect(batches: Iterable[pl.DataFrame], min_rating: float | None = None) -> tuple[Events, int]:
    """Read all batches of a log; returns the sorted events and the number of rows read.

    Args:
        batches: see :class:`~sprec.data.readers.log.Log`.
        min_rating: interactions rated lower, or not rated, are left out.

    Raises:
        UserError: a minimum rating is asked for and there are no ratings, or no interaction is left.
    """
    users, items = _Numbering(), _Numbering()
    columns: tuple[list[np.ndarray], ...] = ([], [], [])
    rows = 0
    for batch in batches:
        rows += len(batch)
        kept = batch if min_rating is None else _rated(batch, min_rating)
        columns[0].append(users.number(kept["user"]))
        columns[1].append(items.number(kept["item"]))
        columns[2].append(kept["time"].to_numpy())
    if not sum(map(len, columns[0])):
        raise UserError("no interactions" + (" are left" if rows else " were found"))
    with bar("sorting interactions", None):
        user, user_ids = users.sort(_drain(columns[0]))
        item, item_ids = items.sort(_drain(columns[1]))
        return Events(*_sort(user, item, _drain(columns[2])), user_ids, item_ids), rows


def _rated(batch: pl.DataFrame, lowest: float) -> pl.DataFrame:
    if "rating" not in batch.columns:
        raise UserError("a minimum rating is asked for, but the log has no ratings")
    return batch.filter(pl.col("rating") >= lowest)


def _drain(chunks: list[np.ndarray]) -> np.ndarray:
    """Join chunks and let go of them."""
    joined = np.concatenate(chunks)
    chunks.clear()
    return joined


class _Numbering:
    """Numbers ids in the order in which they come, batch by batch."""

    def __init__(self) -> None:
        self._known = pl.DataFrame()

    def number(self, ids: pl.Series) -> np.ndarray:
        """The numbers of these ids, shape (len(ids),), int32."""
        frame = pl.DataFrame({"id": ids})
        if self._known.is_empty():
            self._known = frame.head(0).with_row_index("code")
        fresh = frame.unique().join(self._known, on="id", how="anti")
        numbered = fresh.with_row_index("code", offset=len(self._known))
        self._known = pl.concat([self._known, numbered])
        codes = frame.join(self._known, on="id", how="left", maintain_order="left")["code"]
        return codes.cast(pl.Int32).to_numpy()

    def sort(self, codes: np.ndarray) -> tuple[np.ndarray, pl.Series]:
        """Renumber ``codes`` by sorted id; returns them and the ids. Ids that are all digits sort as numbers."""
        ids = self._known.select("id", number=pl.col("id").cast(pl.UInt64, strict=False)).with_row_index("code")
        ordered = ids.sort("id") if ids["number"].null_count() else ids.sort("number", "id")
        rank = np.empty(len(ordered), dtype=np.int32)
        rank[ordered["code"].to_numpy()] = np.arange(len(ordered), dtype=np.int32)
        return rank[codes], ordered["id"]


def _sort(user: np.ndarray, item: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort events by user, time and item: as one packed integer where that fits 63 bits, which is fast and small."""
    start = time.min()
    ticks = time - start
    unit = 1000 if not (ticks % 1000).any() else 1
    ticks //= unit
    item_bits, time_bits, user_bits = (int(column.max()).bit_length() for column in (item, ticks, user))
    if item_bits + time_bits + user_bits > 63:
        order = np.lexsort((item, ticks, user))
        del ticks
        return user[order], item[order], time[order]
    key = user.astype(np.int64)
    key <<= time_bits  # in place throughout: a log of 100M events is 0.8 GB here
    key |= ticks
    key <<= item_bits
    key |= item
    del ticks
    key.sort()
    item = (key & ((1 << item_bits) - 1)).astype(np.int32)
    key >>= item_bits
    user = (key >> time_bits).astype(np.int32)
    key &= (1 << time_bits) - 1
    key *= unit
    key += start
    return user, item, key


def drop_repeats(events: Events, repeats: Repeats) -> Events:
    """Drop exact duplicates (same user, time and item), and on request further repeats.

    Args:
        events: sorted events.
        repeats: ``keep`` what happened at another time, drop what follows itself (``consecutive``), or keep only the
            ``first`` time that a user meets an item.
    """
    same = (events.user[1:] == events.user[:-1]) & (events.item[1:] == events.item[:-1])
    if repeats == "keep":
        same &= events.time[1:] == events.time[:-1]
    if repeats == "first":
        return events.where(previous(events) < 0)
    return events.where(np.concatenate([[True], ~same]))


def previous(events: Events) -> np.ndarray:
    """Where the same user met the same item before, -1 if never, shape (n,)."""
    key = events.user.astype(np.int64) * len(events.items) + events.item
    order = np.argsort(key, kind="stable")
    again = key[order[1:]] == key[order[:-1]]
    before = np.full(len(events), -1, dtype=np.int64)
    before[order[1:][again]] = order[:-1][again]
    return before


def core(events: Events, k: int) -> Events:
    """The largest part of the log in which every user and every item has at least ``k`` events.

    Raises:
        UserError: nothing is left.
    """
    while len(events):
        user = np.bincount(events.user, minlength=len(events.users)) >= k
        item = np.bincount(events.item, minlength=len(events.items)) >= k
        keep = user[events.user] & item[events.item]
        if keep.all():
            return events
        events = events.where(keep)
    raise UserError(f"no interactions are left in the {k}-core; use a smaller k")


def long_enough(events: Events, length: int) -> Events:
    """The events of users with at least ``length`` of them."""
    return events.where((np.bincount(events.user, minlength=len(events.users)) >= length)[events.user])
