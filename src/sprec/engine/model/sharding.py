"""Tensors sharded over several processes (FSDP2), and whole ones."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Tensor) -> Tensor:
    """A copy of a tensor ``value`` on the CPU, gathered if it is sharded (then all processes must call this)."""
    full = value.detach()
    if isinstance(full, DTensor):
        full = full.full_tensor()
    return full.cpu().clone()


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """The whole tensor ``value`` on the device of ``like``, sharded in the same way if the shapes agree."""
    moved = value.to(like.device)
    if isinstance(like, DTensor) and moved.shape == like.shape:
        return distribute_tensor(moved, like.device_mesh, like.placements)
    return moved


def sharded(model: torch.nn.Module) -> bool:
    """Whether parameters of a ``model`` are sharded."""
    return any(isinstance(value, DTensor) for value in model.parameters())


def finite(value: Tensor) -> bool:
    """Whether all numbers of a tensor ``value`` (of this process's part of it) are finite."""
    own = value.to_local() if isinstance(value, DTensor) else value
    return bool(own.isfinite().all())
