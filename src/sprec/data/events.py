"""A log in memory: 16 bytes per interaction, sorted by user and time; ties stay as the file has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from sprec.data.readers.log import Faults
from sprec.system.errors import UserError
from sprec.system.progress import bar

Repeats = Literal["keep", "consecutive", "first"]
Ties = Literal["file", "shuffle"]


@dataclass(frozen=True)
class Events:
    """``n`` interactions, grouped by user, oldest first.

    Attributes:
        user: numbers 0..|users|-1 in the order of the sorted ids, shape (n,), int32.
        item: likewise, shape (n,), int32.
        time: nanoseconds since 1970, shape (n,), int64.
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
        """Where the events of each user start, and where the last user's end, shape (|users|+1,)."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.user, minlength=len(self.users)))])

    def where(self, keep: np.ndarray) -> "Events":
        """The events for which the mask ``keep``, shape (n,), is True; users and items keep their numbers."""
        if keep.all():
            return self
        return Events(self.user[keep], self.item[keep], self.time[keep], self.users, self.items)


def collect(
    batches: Iterable[pl.DataFrame],
    min_rating: float | None = None,
    ties: Ties = "file",
    seed: int = 0,
    faults: Faults | None = None,
) -> tuple[Events, int]:
    """Read all batches of a log; returns the sorted events and the number of rows read.

    Args:
        batches: see :class:`~sprec.data.readers.log.Log`.
        min_rating: interactions with a lower rating, or without a readable one, are left out.
        ties: the order of a user's events with equal times: as in the ``file``, or by a hash of user, time, item and
            ``seed`` (``shuffle``), which does not depend on the order of the rows.
        seed: of the hash.
        faults: counts the interactions that are left out.

    Raises:
        UserError: there is a minimum rating but no ratings, or no interaction is left.
    """
    users, items = _Numbering(), _Numbering()
    columns: tuple[list[np.ndarray], ...] = ([], [], [])
    rows = 0
    for batch in batches:
        rows += len(batch)
        kept = batch if min_rating is None else _rated(batch, min_rating, faults or Faults())
        columns[0].append(users.number(kept["user"]))
        columns[1].append(items.number(kept["item"]))
        columns[2].append(kept["time"].to_numpy())
    if not sum(map(len, columns[0])):
        raise UserError("no interactions" + (" are left" if rows else " were found"))
    with bar("sorting interactions", None):
        user, user_ids = users.sort(_drain(columns[0]))
        item, item_ids = items.sort(_drain(columns[1]))
        time = _drain(columns[2])
        hashes = _hashes(user, item, time, seed) if ties == "shuffle" else None
        return Events(*_sort(user, item, time, hashes), user_ids, item_ids), rows


def _rated(batch: pl.DataFrame, lowest: float, faults: Faults) -> pl.DataFrame:
    if "rating" not in batch.columns:
        raise UserError("--min-rating was given, but the log has no ratings")
    kept = batch.filter(pl.col("rating") >= lowest)
    unrated = batch["rating"].null_count()
    faults.add("interactions_dropped_without_rating", count=unrated)
    faults.add("interactions_dropped_low_rating", count=len(batch) - len(kept) - unrated)
    return kept


def _drain(chunks: list[np.ndarray]) -> np.ndarray:
    """Join chunks, and free them."""
    joined = np.concatenate(chunks)
    chunks.clear()
    return joined


class _Numbering:
    """Numbers ids in the order of their appearance, batch by batch; an integer and its digits are the same id."""

    def __init__(self) -> None:
        self._known = pl.DataFrame()

    def number(self, ids: pl.Series) -> np.ndarray:
        """The numbers of ``ids``, shape (len(ids),), int32."""
        if self._known.is_empty():
            self._known = pl.DataFrame({"id": ids.head(0)}).with_row_index("code")
        if ids.dtype != self._known["id"].dtype:
            self._known, ids = self._known.with_columns(pl.col("id").cast(pl.String)), ids.cast(pl.String)
        frame = pl.DataFrame({"id": ids})
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


def _sort(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, ties: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort events by user and time, then by ``ties`` if given, else in their order; user and time as one integer.

    User and time are packed into 63 bits where they fit, which is fast and small; times in their largest common unit.
    """
    start = time.min()
    ticks = time - start
    unit = next(unit for unit in (1_000_000_000, 1_000_000, 1000, 1) if not (ticks % unit).any())
    ticks //= unit
    time_bits, user_bits = (int(column.max()).bit_length() for column in (ticks, user))
    if ties is not None or time_bits + user_bits > 63:
        order = np.lexsort((ticks, user) if ties is None else (ties, ticks, user))
        return user[order], item[order], time[order]
    key = user.astype(np.int64)
    key <<= time_bits  # in place throughout: a log of 100M events is 0.8 GB here
    key |= ticks
    del ticks
    order = np.argsort(key, kind="stable")
    item, key = item[order], key[order]
    del order
    user = (key >> time_bits).astype(np.int32)
    key &= (1 << time_bits) - 1
    key *= unit
    key += start
    return user, item, key


def _hashes(user: np.ndarray, item: np.ndarray, time: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random number for each event that depends only on the arguments, shape (n,), uint64."""
    mixed = np.full(len(user), np.random.default_rng(seed).integers(2**63), dtype=np.uint64)
    for column in (user, time, item):
        mixed = _mix(mixed ^ column.astype(np.uint64))
    return mixed


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def tied(events: Events) -> np.ndarray:
    """Which ``events`` share their time with another one of the same user (the order is unknown), shape (n,), bool."""
    same = (events.user[1:] == events.user[:-1]) & (events.time[1:] == events.time[:-1])
    mask: np.ndarray = np.append(same, False) | np.append(False, same)
    return mask


def ascending(events: Events) -> float:
    """Among neighbouring ``events`` of one user at one time, the share whose item ids ascend; 0 if there are none.

    Near 1 if the file was sorted by item, which a model can learn; one half if the order of the file is random.
    """
    same = (events.user[1:] == events.user[:-1]) & (events.time[1:] == events.time[:-1])
    return float(np.mean(events.item[1:][same] > events.item[:-1][same])) if same.any() else 0.0


def drop_repeats(events: Events, repeats: Repeats) -> Events:
    """Drop exact duplicates (same user, time and item), and on request further repeats.

    Args:
        events: sorted events.
        repeats: ``keep`` repeats at other times, drop items that follow themselves (``consecutive``), or keep only
            the ``first`` event of a user with an item.
    """
    if repeats == "first":
        return events.where(previous(events) < 0)
    events = events.where(~_duplicates(events))
    if repeats == "keep":
        return events
    same = (events.user[1:] == events.user[:-1]) & (events.item[1:] == events.item[:-1])
    return events.where(np.concatenate([[True], ~same]))


def _duplicates(events: Events) -> np.ndarray:
    """Which events repeat an earlier one with the same user, time and item, shape (n,), bool."""
    places = np.flatnonzero(tied(events))
    user, time, item = events.user[places], events.time[places], events.item[places]
    order = np.lexsort((item, time, user))  # stable: equal events stay in their order
    again = np.ones(max(0, len(order) - 1), dtype=bool)
    for column in (user, time, item):
        again &= column[order[1:]] == column[order[:-1]]
    duplicates = np.zeros(len(events), dtype=bool)
    duplicates[places[order[1:][again]]] = True
    return duplicates


def previous(events: Events) -> np.ndarray:
    """For each of the ``events``, the last one before it with the same user and item; -1 if none, shape (n,)."""
    key = events.user.astype(np.int64) * len(events.items) + events.item
    order = np.argsort(key, kind="stable")
    again = key[order[1:]] == key[order[:-1]]
    before = np.full(len(events), -1, dtype=np.int64)
    before[order[1:][again]] = order[:-1][again]
    return before


def core(events: Events, k: int) -> Events:
    """The largest part of the log ``events`` in which every user and every item has at least ``k`` events.

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
    """The ``events`` of users who have at least ``length`` of them."""
    return events.where((np.bincount(events.user, minlength=len(events.users)) >= length)[events.user])
