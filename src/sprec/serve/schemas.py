"""The schemas of requests and answers."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sprec.serve.batcher import Limits

Name = Annotated[str, Field(max_length=1000)] | Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""An item by its id in the source, or its title."""


class Asked(BaseModel):
    """A request for recommendations."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, strict=True)

    histories: list[list[Name]]
    """Ids or titles of each history, oldest first. Empty histories get popular items."""
    k: Annotated[int, Field(ge=1)] = 10
    """Items per list."""
    run: str | None = None
    """The run that answers; the first one by default."""
    protocol: str | None = None
    """The protocol; by default the run's."""
    tilt: bool | Annotated[float, Field(ge=0, le=10)] | None = None
    """Strength of the tilt, which spreads exposure: 0 or false for none, 1 or true for the learned strength; by default
    the run's."""
    allow: list[Name] | None = None
    """The items that may be recommended; by default all. Unknown items are ignored."""
    block: list[Name] = []
    """Items that must not be recommended."""
    genres: list[str] = []
    """Recommend only items with one of these genres."""
    repeat: bool = False
    """Recommend items of the history, too."""

    def beyond(self, limits: Limits) -> str:
        """The limit that this request breaks, in one sentence; empty if it breaks none.

        Args:
            limits: those of the service.
        """
        sizes: Sequence[tuple[str, int, int]] = (
            ("histories", len(self.histories), limits.histories),
            ("a history", max(map(len, self.histories), default=0), limits.history),
            ("k", self.k, limits.k),
            ("allow", len(self.allow or ()), limits.names),
            ("block", len(self.block), limits.names),
            ("genres", len(self.genres), limits.histories),
        )
        over = (f"{what}: {size:,} is over the limit of {most:,}" for what, size, most in sizes if size > most)
        return next(over, "")


class Item(BaseModel):
    """A recommended item."""

    item: int
    """The row of the catalog."""
    source_id: str
    title: str
    score: float | None
    """What the protocol ranks by, higher is better; null if it has no scores."""


class List(BaseModel):
    """The list of one history."""

    items: list[Item]
    """Best first; fewer than k if no more are left."""
    proven: bool | None
    """Whether it is proven that no better list exists; null for protocols without a search."""
    popular: bool
    """Whether the list is by popularity, because the history has no known item."""
    unknown: list[str]
    """Entries of the history that are not in the catalog and were ignored."""


class Answer(BaseModel):
    """The lists in the order of the histories."""

    run: str
    protocol: str
    lists: list[List]


class Found(BaseModel):
    """An item of the catalog."""

    item: int
    source_id: str
    title: str
    genres: list[str]
    popularity: int
    """Its rank by popularity in the training data, from 1."""


class FoundItems(BaseModel):
    """Items whose titles contain the text."""

    items: list[Found]


class Exposed(Found):
    """An item and how often it is recommended."""

    share: float
    """Of the lists that have it."""


class Evaluation(BaseModel):
    """How the lists of an evaluation share attention among the items."""

    name: str
    lists: int
    lorenz: list[float]
    """Share of all places that the least recommended items fill, for 101 shares of the items from 0 to 1."""
    gini: float
    covered: float
    """Share of the items that are recommended at all."""
    tail: float | None
    """Share of the places that go to the long tail; null where nothing is known of popularity."""
    top: list[Exposed]
    """The most recommended items."""


class ExposureOfRun(BaseModel):
    """Exposure by the test lists that a run has on record."""

    run: str
    k: int
    """Places of each list that count."""
    items: int
    evaluations: list[Evaluation]


class Run(BaseModel):
    """A run that is served."""

    name: str
    method: str
    dataset: str
    items: int
    protocol: str
    """How it recommends by default."""
    protocols: list[str]
    """The protocols that it can use."""
    tilts: list[str]
    """The protocols that have a tilt."""


class RunList(BaseModel):
    """All runs, the default one first."""

    runs: list[Run]


class Health(BaseModel):
    """The state of the service."""

    status: str


class Problem(BaseModel):
    """What went wrong, in one sentence."""

    detail: str


def sentence(error: Mapping[str, Any]) -> str:
    """A validation error in one sentence: where, and what is wrong.

    Args:
        error: pydantic's first error.
    """
    if error["type"] == "json_invalid":
        return f"the request is not JSON: {error['ctx']['error']}, at character {error['loc'][-1]}"
    inside = [part for part in error["loc"] if part not in ("body", "query") and not _is_type(part)]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside).lstrip(".")
    return f"{where}: {error['msg']}" if where else error["msg"]


def _is_type(part: int | str) -> bool:
    """Whether a part of a location names a branch of a union instead of a field."""
    return isinstance(part, str) and (part in ("bool", "float") or part.startswith("constrained-"))
