"""All tokens of a padded batch in one row, for CPUs: padding is read by nobody but attention.

Everything in a decoder but attention treats tokens one by one. So the model gets the N tokens of a batch in a single
row, and attention lays them out in the rows of the batch, (R, W), whose padding costs little there. Moving tokens
between the two layouts replaces the copies that attention makes anyway.

The gradients are gathers, too. Those of padding are whatever stands in column 0: a padded query sees nothing but its
own padded key, and neither of them goes back to a token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a row of N columns stand in R rows of W slots.

    Columns: a few fillers, which are read and used by nobody; the prefix; other tokens; the tokens whose states are
    needed behind the last layer.

    Attributes:
        place: (R, W) long: the column of each slot, some column for padding.
        slot: (N,) long: the flat slot of each column, 0 for fillers.
        fillers: how many of them.
        prefix: tokens of row 0 whose keys and values stand in front of those of every row.
        kept: trailing slots of the rows whose queries are needed in the last layer.
    """

    place: Tensor
    slot: Tensor
    fillers: int
    prefix: int
    kept: int
    _made: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # indices, the same in all layers

    @property
    def columns(self) -> int:
        """N."""
        return len(self.slot)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a row as attention needs them; the queries of the last slots only."""
        whole = self.place.shape[1]
        keys, values = (self.spread(states, whole, self.prefix) for states in (key, value))
        return self.spread(query, width, 0), keys, values

    def spread(self, states: Tensor, width: int, prefix: int) -> Tensor:
        """States (1, H, N, D) as rows (R, H, prefix + width, D): those of the prefix, then of the last slots."""
        return cast("Tensor", _Spread.apply(states, self, width, prefix))  # type: ignore[no-untyped-call]

    def collect(self, rows: Tensor) -> Tensor:
        """Rows (R, H, width, D) of the last slots as states (1, N, H, D); what had no slot there is arbitrary."""
        return cast("Tensor", _Collect.apply(rows, self))  # type: ignore[no-untyped-call]

    def from_columns(self, heads: int, width: int, prefix: int) -> Tensor:
        """For each of (R, H, prefix + width) its entry in (N, H), flat."""

        def make() -> Tensor:
            first = self.place[:1, :prefix].expand(len(self.place), -1)
            place = torch.cat([first, self.place[:, self.place.shape[1] - width :]], 1)
            return (place[:, None] * heads + torch.arange(heads)[None, :, None]).flatten()

        return self._once(("columns", heads, width, prefix), make)

    def from_rows(self, heads: int, width: int, prefix: int) -> Tensor:
        """For each of (N, H) its entry in (R, H, prefix + width), flat; any entry where it has none."""

        def make() -> Tensor:
            row, slot = self.slot // self.place.shape[1], self._slot_of(width).clamp(min=0)
            entry = (row[:, None] * heads + torch.arange(heads)) * (prefix + width) + prefix + slot[:, None]
            return entry.flatten()

        return self._once(("rows", heads, width, prefix), make)

    def absent(self, width: int) -> Tensor:
        """The columns that have no slot among the last ones, fillers included."""

        def make() -> Tensor:
            missing = self._slot_of(width) < 0
            missing[: self.fillers] = True
            return missing.nonzero()[:, 0]

        return self._once(("absent", width), make)

    def _slot_of(self, width: int) -> Tensor:
        return self.slot % self.place.shape[1] - (self.place.shape[1] - width)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, layout: Layout, width: int, prefix: int) -> Tensor:
        heads, size = states.shape[1], states.shape[3]
        ctx.layout, ctx.sizes = layout, (heads, width, prefix)
        flat = states[0].transpose(0, 1).reshape(-1, size)
        rows = flat.index_select(0, layout.from_columns(heads, width, prefix))
        return rows.view(len(layout.place), heads, prefix + width, size)

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> Any:
        layout, (heads, width, prefix) = ctx.layout, ctx.sizes
        entries = layout.from_rows(heads, width, prefix)
        states = rows.reshape(-1, rows.shape[3]).index_select(0, entries).view(layout.columns, heads, -1)
        states.index_fill_(0, layout.absent(width), 0.0)
        if prefix:
            own = states[layout.fillers : layout.fillers + prefix]
            own += rows[:, :, :prefix].sum(0).transpose(0, 1)
        return states.transpose(0, 1)[None], None, None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout) -> Tensor:
        heads, width, size = rows.shape[1:]
        ctx.layout, ctx.width = layout, width
        entries = layout.from_rows(heads, width, 0)
        return rows.reshape(-1, size).index_select(0, entries).view(1, layout.columns, heads, size)

    @staticmethod
    def backward(ctx: Any, states: Tensor) -> Any:
        heads, size = states.shape[2:]
        entries = ctx.layout.from_columns(heads, ctx.width, 0)
        rows = states.reshape(-1, size).index_select(0, entries)
        return rows.view(len(ctx.layout.place), heads, ctx.width, size), None


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)


def current() -> Layout | None:
    """The layout of the forward pass under way."""
    return _LAYOUT.get()


def layout_of(query: Tensor) -> Layout | None:
    """The layout of the forward pass under way, where these queries (1, H, N, D) are those of its row."""
    layout = _LAYOUT.get()
    return layout if layout is not None and query.shape[2] == layout.columns and len(query) == 1 else None


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Inside the block attention knows where the tokens of a row stand."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)
