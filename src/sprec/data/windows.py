"""The paper's protocol: a log of interactions becomes examples (the last items of a user, and the next one).

A user's events in order of time give one window per position with enough history before it (paper, section on data;
for MovieLens-10M 10,000,054 - 10 x 69,878 users = 9,301,274 windows). Windows are split by the time of their target
and sampled; a window is stored as the position of its target in the sorted log.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from sprec.data.dataset import Split
from sprec.data.events import Events, Repeats, Ties, previous
from sprec.system.errors import UserError

PARTS = ("train", "valid", "test")
_NO_WINDOW = len(PARTS)
_BLOCK = 1 << 20
_LONGEST = 100_000
"""Maximum items of a history; models read a few dozen."""


@dataclass(frozen=True)
class Sizes:
    """How many examples to draw for ``train``, ``valid`` and ``test`` (paper: 4,096, 512, 1,000).

    ``extra`` are further ones from the training part.
    """

    train: int = 4096
    valid: int = 512
    test: int = 1000
    extra: int = 4096


@dataclass(frozen=True)
class Protocol:
    """How a log becomes a dataset.

    Attributes:
        history: maximum length of a history, in items.
        min_history: minimum length of a window's history; None for ``history`` (the paper's choice).
        min_length: users with fewer interactions are left out (paper: 10).
        min_rating: interactions with a lower rating are left out.
        core: keep only users and items with this many interactions each, repeatedly; 0 for all.
        repeats: see :func:`sprec.data.events.drop_repeats`.
        ties: the order of a user's interactions with equal times, see :func:`sprec.data.events.collect`.
        drop_seen_targets: leave out windows whose target is in their history.
        windows: ``sliding``, one per position, or ``last``, one per user.
        split: by the ``time`` of the target (paper), ``leave-one-out`` (the last window of a user is for the test, the
            one before for validation) or by ``user``.
        shares: of train, valid and test, if the split is by time or user (paper: 8:1:1).
        sizes: examples to draw.
        seed: of the draws, of the split by user and of shuffled ties.
    """

    history: int = 10
    min_history: int | None = None
    min_length: int = 10
    min_rating: float | None = None
    core: int = 0
    repeats: Repeats = "keep"
    ties: Ties = "file"
    drop_seen_targets: bool = False
    windows: Literal["sliding", "last"] = "sliding"
    split: Literal["time", "leave-one-out", "user"] = "time"
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    sizes: Sizes = Sizes()
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = self.history if self.min_history is None else self.min_history
        if not 1 <= lowest <= self.history:
            raise UserError(f"history must be at least 1 and at least min_history, got {self.history} and {lowest}")
        if self.history > _LONGEST:
            raise UserError(f"history must be at most {_LONGEST:,} items, got {self.history:,}")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise UserError(f"min_rating must be a number, got {self.min_rating}")
        cut = self.shares[0] and self.shares[2] and abs(sum(self.shares) - 1) <= 1e-9  # False if one is NaN
        if not cut or min(self.shares) < 0:
            raise UserError(f"shares must be positive and sum to 1, got {self.shares}")
        if min(asdict(self.sizes).values()) < 0 or not (self.sizes.train and self.sizes.test):
            raise UserError(f"train and test need at least one example and no size may be negative, got {self.sizes}")
        if self.windows == "last" and self.split == "leave-one-out":
            raise UserError("leave-one-out needs sliding windows: with one window per user nothing is left to train on")


def find_windows(events: Events, protocol: Protocol) -> np.ndarray:
    """Which ``events`` are the target of a window by the ``protocol``, a mask of shape (n,).

    Raises:
        UserError: there is none.
    """
    bounds = events.bounds()
    starts, ends = bounds[:-1], bounds[1:]
    lowest = protocol.history if protocol.min_history is None else protocol.min_history
    if protocol.windows == "last":
        mask = np.zeros(len(events), dtype=bool)
        mask[(ends - 1)[ends - starts > lowest]] = True
    else:
        mask = np.ones(len(events), dtype=bool)
        for position in range(min(lowest, int((ends - starts).max()))):
            mask[(starts + position)[ends - starts > position]] = False
    if protocol.drop_seen_targets:
        before = previous(events)
        mask &= (before < 0) | (before < np.arange(len(events)) - protocol.history)
    if not mask.any():
        raise UserError(f"no user has more than {lowest} interactions; use a smaller history or min_history")
    return mask


def assign(events: Events, windows: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The part of each of the ``windows`` (a mask of ``events``) by the ``protocol``, shape (n,), uint8.

    It is an index into :data:`PARTS`, 3 for events that are not a target.
    """
    rules = {"time": _by_time, "leave-one-out": _leave_one_out, "user": _by_user}
    parts = np.full(len(events), _NO_WINDOW, dtype=np.uint8)
    parts[windows] = rules[protocol.split](events, windows, protocol)
    return parts


def _cuts(n: int, shares: tuple[float, float, float]) -> list[int]:
    return [min(n - 1, int(n * share + 1e-9)) for share in (shares[0], shares[0] + shares[1])]


def _by_time(events: Events, windows: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Cut the windows, in order of their target's time (ties in the order of the log), into exact shares."""
    times = events.time[windows]
    cuts = _cuts(len(times), protocol.shares)
    parts = np.zeros(len(times), dtype=np.uint8)
    for cut, border in zip(cuts, np.partition(times, cuts)[cuts], strict=True):
        parts += times > border
        tied = np.flatnonzero(times == border)
        parts[tied[cut - np.count_nonzero(times < border) :]] += 1
    return parts


def _leave_one_out(events: Events, windows: np.ndarray, protocol: Protocol) -> np.ndarray:
    last = np.diff(events.user[windows], append=-1) != 0
    parts = np.full(len(last), PARTS.index("train"), dtype=np.uint8)
    parts[:-1][~last[:-1] & last[1:]] = PARTS.index("valid")
    parts[last] = PARTS.index("test")
    return parts


def _by_user(events: Events, windows: np.ndarray, protocol: Protocol) -> np.ndarray:
    users = np.flatnonzero(np.bincount(events.user[windows], minlength=len(events.users)))
    shuffled = np.random.default_rng([protocol.seed, len(PARTS)]).permutation(users)
    part_of_user = np.empty(len(events.users), dtype=np.uint8)
    for part, chosen in enumerate(np.split(shuffled, _cuts(len(users), protocol.shares))):
        part_of_user[chosen] = part
    parts: np.ndarray = part_of_user[events.user[windows]]
    return parts


def draw(events: Events, parts: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """Sample each part without replacement: positions of targets, in order of time (then of the log).

    ``extra`` is drawn from the training part, disjoint from ``train``. A part smaller than its size is taken whole.

    Args:
        events: sorted events.
        parts: of :func:`assign`.
        protocol: has the sizes and the seed.

    Raises:
        UserError: there is no window for training or for the test.
    """
    positions = {}
    wanted = (protocol.sizes.train + protocol.sizes.extra, protocol.sizes.valid, protocol.sizes.test)
    for part, (name, size) in enumerate(zip(PARTS, wanted, strict=True)):
        here = parts == part
        count = int(np.count_nonzero(here))
        if not count and name != "valid":
            raise UserError(f"no window is left for the {name} split; the log is too small or a rule too strict")
        ranks = np.random.default_rng([protocol.seed, part]).choice(count, min(size, count), replace=False)
        positions[name] = _nth(here, ranks)
    positions["extra"] = positions["train"][protocol.sizes.train :]
    positions["train"] = positions["train"][: protocol.sizes.train]
    return {name: chosen[np.lexsort((chosen, events.time[chosen]))] for name, chosen in positions.items()}


def _nth(mask: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The positions of the ``ranks``-th True values (from 0), block by block to save memory."""
    blocks = [mask[start : start + _BLOCK] for start in range(0, len(mask), _BLOCK)]
    before = np.concatenate([[0], np.cumsum([np.count_nonzero(block) for block in blocks])])
    block_of_rank = np.searchsorted(before, ranks, side="right") - 1
    positions = np.empty(len(ranks), dtype=np.int64)
    for block in np.unique(block_of_rank).tolist():
        here = block_of_rank == block
        positions[here] = np.flatnonzero(blocks[block])[ranks[here] - before[block]] + block * _BLOCK
    return positions


def examples(events: Events, targets: np.ndarray, history: int, item_ids: np.ndarray) -> Split:
    """Write out the windows with these targets.

    Args:
        events: sorted events.
        targets: positions, shape (m,).
        history: maximum length of a history.
        item_ids: the catalog's id of each item of the log, shape (|items|,).
    """
    starts = np.maximum(events.bounds()[events.user[targets]], targets - history)
    lengths = targets - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Split(item_ids[events.item[np.repeat(starts, lengths) + within]], offsets, item_ids[events.item[targets]])


def late_training_targets(events: Events, parts: np.ndarray) -> int:
    """How many training windows of ``events`` have a target later than the earliest test target, by ``parts``.

    It is 0 unless the split leaks the future.
    """
    earliest = events.time[parts == PARTS.index("test")].min()
    return int(np.count_nonzero((events.time > earliest) & (parts == PARTS.index("train"))))
