"""The queue of queries; compatible ones are answered in one call of the model."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sprec.recommend.protocols import Recommendations
from sprec.runs import Recommender


class QueueFullError(Exception):
    """Too many requests are waiting.

    Attributes:
        seconds: after which to try again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests are waiting; ask again in {seconds} s")
        self.seconds = seconds


class DeadlineError(Exception):
    """A request was not answered in time."""


@dataclass(frozen=True)
class Limits:
    """Limits of requests, and of the queue.

    Attributes:
        histories: lists per request.
        history: items of a history.
        k: items per list.
        names: entries of ``allow`` and ``block``.
        body: bytes of a request.
        queue: waiting requests.
        batch: histories that are answered in one call.
        seconds: for answering a request.
    """

    histories: int = 256
    history: int = 1000
    k: int = 100
    names: int = 10_000
    body: int = 1 << 20
    queue: int = 256
    batch: int = 512
    seconds: float = 10.0


@dataclass(frozen=True)
class Query:
    """A request to the model. Queries that differ only in the first two attributes can share a batch.

    Attributes:
        histories: items, oldest first.
        blocks: items that must not be recommended, per history.
        recommender: the run.
        k: items per list.
        allow: the items that may be recommended; None for all.
        genres: only items with one of these genres.
        settings: other arguments of :meth:`sprec.runs.Recommender.recommendations`, as pairs.
    """

    histories: list[list[int]]
    blocks: list[list[int]]
    recommender: Recommender
    k: int
    allow: tuple[int, ...] | None
    genres: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]

    @property
    def shared(self) -> tuple[Any, ...]:
        """The values that must be equal in a batch."""
        return id(self.recommender), self.k, self.allow, self.genres, self.settings


def answer(queries: Sequence[Query]) -> Recommendations:
    """The lists of queries that can share a batch, in their order.

    Args:
        queries: at least one; they share all of :attr:`Query.shared`.
    """
    first, blocks = queries[0], [own for query in queries for own in query.blocks]
    return first.recommender.recommendations(
        [history for query in queries for history in query.histories],
        first.k,
        allow=first.allow,
        blocks=blocks if any(blocks) else None,
        genres=first.genres,
        **dict(first.settings),
    )


@dataclass(frozen=True)
class Lists:
    """The answer to a query: some rows of the batch's lists.

    Attributes:
        found: all lists of the batch.
        first: the query's first row.
    """

    found: Recommendations
    first: int


@dataclass
class _Waiting:
    query: Query
    until: float
    answer: "Future[Lists]" = field(default_factory=Future)


class Batcher:
    """One thread takes the oldest query and all that can share its batch, and calls the model once.

    Args:
        limits: of the queue and of a batch.
        observe: called with the number of histories in each batch.
    """

    def __init__(self, limits: Limits, observe: Callable[[int], None] = lambda histories: None) -> None:
        self._limits, self._observe = limits, observe
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.05  # seconds per batch, smoothed
        self._thread = threading.Thread(target=self._work, name="recommend", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, query: Query) -> Lists:
        """The answer to a query.

        Args:
            query: the request.

        Raises:
            QueueFullError: too many queries are waiting.
            DeadlineError: it was not answered in time.
            UserError: it cannot be answered.
        """
        with self._changed:
            if len(self._waiting) >= self._limits.queue:
                raise QueueFullError(max(1, math.ceil(self._pace * len(self._waiting))))
            entry = _Waiting(query, time.monotonic() + self._limits.seconds)
            self._waiting.append(entry)
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(entry.answer), self._limits.seconds)
        except TimeoutError as error:
            raise DeadlineError(f"not answered within {self._limits.seconds:g} s; ask for less") from error

    @property
    def is_open(self) -> bool:
        """Whether queries are being answered."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Stop when all queries are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch = self._take()
            if batch:
                started = time.monotonic()
                self._answer(batch)
                self._pace += 0.2 * (time.monotonic() - started - self._pace)

    def _take(self) -> list[_Waiting]:
        """The oldest query and those that can share its batch; queries past their deadline are dropped."""
        now = time.monotonic()
        alive = [one for one in self._waiting if one.until > now and not one.answer.cancelled()]
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        room = self._limits.batch
        shared = alive[0].query.shared if alive else ()
        for one in alive:
            if one.query.shared == shared and (not batch or len(one.query.histories) <= room):
                batch.append(one)
                room -= len(one.query.histories)
            else:
                rest.append(one)
        self._waiting = rest
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        asked = [one for one in batch if one.answer.set_running_or_notify_cancel()]
        if not asked:
            return
        try:
            found = answer([one.query for one in asked])
        except Exception as error:
            for one in asked:
                self._alone(one, error if len(asked) == 1 else None)
            return
        first = 0
        for one in asked:
            one.answer.set_result(Lists(found, first))
            first += len(one.query.histories)
        self._observe(first)

    def _alone(self, one: _Waiting, error: Exception | None) -> None:
        """What failed together is answered one by one: only the query at fault gets the error."""
        try:
            if error:
                raise error
            one.answer.set_result(Lists(answer([one.query]), 0))
        except Exception as own:
            one.answer.set_exception(own)
