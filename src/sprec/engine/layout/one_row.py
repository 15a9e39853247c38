"""All tokens of a padded batch in one row, for CPUs: only attention reads padding.

All parts of a decoder except attention treat tokens separately. So the model gets the N tokens of a batch in a single
row, and attention lays them out in the rows of the batch, (R, W), whose padding costs little there. Moving tokens
between the two layouts replaces the copies that attention makes anyway.

The gradients are gathers, too. Those of padding are an arbitrary copy of column 0: a padded query only sees its own
padded key, and neither of them goes back to a token.
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
    """Where the tokens of a row of N columns are in R rows of W slots.

    Columns: a few unused fillers; the prefix; other tokens; the tokens whose states are needed after the last layer.

    Attributes:
        place: (R, W) long: the column of each slot, any column for padding.
        slot: (N,) long: the flat slot of each column, 0 for fillers.
        fillers: their number.
        prefix: tokens of row 0 whose keys and values precede those of every row.
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
        """N, the number of columns."""
        return len(self.slot)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The row's ``query``, ``key`` and ``value``, (1, H, N, D), as rows; queries of the last ``width`` slots."""
        whole = self.place.shape[1]
        keys, values = (self.spread(states, whole, self.prefix) for states in (key, value))
        return self.spread(query, width, 0), keys, values

    def spread(self, states: Tensor, width: int, prefix: int) -> Tensor:
        """``states`` (1, H, N, D) as rows (R, H, prefix + width, D): those of the prefix, then of the last slots."""
        return cast("Tensor", _Spread.apply(states, self, width, prefix))  # type: ignore[no-untyped-call]

    def collect(self, rows: Tensor) -> Tensor:
        """``rows`` (R, H, width, D) of the last slots as states (1, N, H, D), arbitrary for columns without a slot."""
        return cast("Tensor", _Collect.apply(rows, self))  # type: ignore[no-untyped-call]

    def from_columns(self, heads: int, width: int, prefix: int) -> Tensor:
        """The flat index in (N, H) of each entry of (R, H, prefix + width), for H ``heads``."""

        def make() -> Tensor:
            first = self.place[:1, :prefix].expand(len(self.place), -1)
            place = torch.cat([first, self.place[:, self.place.shape[1] - width :]], 1)
            return (place[:, None] * heads + torch.arange(heads)[None, :, None]).flatten()

        return self._once(("columns", heads, width, prefix), make)

    def from_rows(self, heads: int, width: int, prefix: int) -> Tensor:
        """The flat index in (R, H, prefix + width) of each entry of (N, H), H ``heads``; any index if there is none."""

        def make() -> Tensor:
            row, slot = self.slot // self.place.shape[1], self._slot_of(width).clamp(min=0)
            entry = (row[:, None] * heads + torch.arange(heads)) * (prefix + width) + prefix + slot[:, None]
            return entry.flatten()

        return self._once(("rows", heads, width, prefix), make)

    def absent(self, width: int) -> Tensor:
        """The columns without a slot among the last ``width`` ones, including fillers."""

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
    """The layout of the current forward pass."""
    return _LAYOUT.get()


def layout_of(query: Tensor) -> Layout | None:
    """The layout of the current forward pass, if ``query`` (1, H, N, D) belongs to its row."""
    layout = _LAYOUT.get()
    return layout if layout is not None and query.shape[2] == layout.columns and len(query) == 1 else None


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Inside the block attention uses this ``layout`` of the row."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)
