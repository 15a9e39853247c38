"""What every reader of raw logs returns: batches of interactions, a table of items, and counts of faults."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from sprec.system.errors import printable

ITEMS: dict[str, pl.DataType | type[pl.DataType]] = {
    "item": pl.String,
    "title": pl.String,
    "genres": pl.List(pl.String),
    "detail": pl.String,
}
"""The columns of a table of items; ``detail`` (a year, an author) can tell items apart that share a title."""

LINE = "#line"
"""The column of line numbers in a batch, from 1 (exact where no field of a text file holds a line break)."""

EXAMPLES = 3
"""How many faulty lines of each kind are shown."""


@dataclass
class Faults:
    """What a reader repaired or dropped: ``counts`` by kind, and ``examples``, the first few places of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str = "", count: int = 1) -> None:
        """Add ``count`` faults of a ``kind``; ``where`` (file, line and why) is kept for the first few."""
        if count:
            self.counts[kind] += count
        if where and len(self.examples.setdefault(kind, [])) < EXAMPLES:
            self.examples[kind].append(printable(where))

    def nonzero(self) -> dict[str, int]:
        """The counts by name, without those that stayed zero."""
        return {kind: count for kind, count in sorted(self.counts.items()) if count}


@dataclass(frozen=True)
class Log:
    """A log of interactions as its files give it, not yet in memory.

    Attributes:
        events: batches with the columns ``user`` and ``item`` (integers or text; an integer and its digits are the same
            id), ``time`` (nanoseconds since 1970) and, if there are ratings, ``rating``, in the order of the file; can
            be read once.
        items: has the columns of :data:`ITEMS`.
        noun: for the items in prompts.
        verb: what users did with them ("The user has watched ...").
        whole_catalog: whether ``items`` is the catalog of a platform, kept although some items have no interactions
            (MovieLens), or a larger dump of metadata of which only the items in the log count (Amazon).
        timed: whether the times are real, or only number the events of each user.
    """

    events: Iterator[pl.DataFrame]
    items: pl.DataFrame
    noun: str = "items"
    verb: str = "chosen"
    whole_catalog: bool = False
    timed: bool = True
