"""Keys and values that grow: new columns are written into tensors that have room for them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer, (B, H_kv, columns, D): views of larger tensors, if there are any."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.wholes: tuple[Tensor, ...] = ()

    def hold(self, wholes: tuple[Tensor, ...], columns: int) -> None:
        """Use these tensors, of which so many columns are filled."""
        if not self.is_initialized:
            self.lazy_initialization(*wholes)
        self.wholes = wholes
        self.keys, self.values = (whole[:, :, :columns] for whole in wholes)

    def states(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return cast("Tensor", self.keys), cast("Tensor", self.values)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append columns; several rows may continue a single one."""
        start, wholes = self.get_seq_length(), self.wholes
        end, new = start + key_states.shape[2], (key_states, value_states)
        if not wholes or wholes[0].shape[2] < end:
            wholes = tuple(one.new_empty(*one.shape[:2], end + self.room, one.shape[3]) for one in new)
            if start:
                for whole, known in zip(wholes, self.states(), strict=True):
                    whole[:, :, :start] = known
        for whole, states in zip(wholes, new, strict=True):
            whole[:, :, start:end] = states
        self.hold(wholes, end)
        return self.states()

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        rows, columns = indices.to(self.device), self.get_seq_length()
        wholes = tuple(whole.new_empty(len(rows), *whole.shape[1:]) for whole in self.wholes)
        for new, known in zip(wholes, self.states(), strict=True):  # unfilled columns are not copied
            torch.index_select(known, 0, rows, out=new[:, :, :columns])
        self.hold(wholes, columns)


class RoomyCache(DynamicCache):
    """The keys and values of all layers. Whenever columns are copied, there is room for ``room`` more than needed.

    Concatenation would copy everything at every step. The fused kernels accept strided views.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.layer_class_to_replicate = partial(_RoomyLayer, room)  # type: ignore[assignment]

    def continued(self, room: int) -> "RoomyCache":
        """A cache whose rows, however many, all continue the single row of this one, which does not change.

        ``room`` is for further columns.
        """
        cache = RoomyCache(room)
        for layer in self._layers():
            own = _RoomyLayer(room)
            own.hold(layer.states(), layer.get_seq_length())
            own.wholes = ()  # the first update copies them
            cache.layers.append(own)
        return cache

    @classmethod
    def joined(cls, caches: Sequence["RoomyCache"], room: int) -> "RoomyCache":
        """The rows of ``caches`` in one, shorter ones padded with zeros, with ``room``. The caches are emptied."""
        cache = cls(room)
        for layers in zip(*(one._layers() for one in caches), strict=True):
            columns = max(layer.get_seq_length() for layer in layers)
            own = _RoomyLayer(room)
            parts = zip(*(layer.states() for layer in layers), strict=True)
            own.hold(tuple(_below(states, columns, room) for states in parts), columns)
            for layer in layers:
                layer.keys, layer.values, layer.wholes, layer.is_initialized = None, None, (), False
            cache.layers.append(own)
        return cache

    def _layers(self) -> list[_RoomyLayer]:
        return cast("list[_RoomyLayer]", self.layers)


def _below(parts: Sequence[Tensor], columns: int, room: int) -> Tensor:
    """Tensors (b, H, c, D) stacked into one with so many columns, and unfilled room for more."""
    _, heads, _, size = parts[0].shape
    whole = parts[0].new_empty(sum(map(len, parts)), heads, columns + room, size)
    for part, rows in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
        rows[:, :, : part.shape[2]] = part
        rows[:, :, part.shape[2] : columns] = 0.0  # masked out, but NaN would still spread
    return whole
