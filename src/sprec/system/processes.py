"""Several processes (torchrun, accelerate launch): which one writes, how they share batches and merge results.

A single process pays nothing for these functions. Several go through the same stages in the same order; each takes its
share of the batches, and only the first one writes.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from sprec.system import heartbeat
from sprec.system.errors import UserError
from sprec.system.progress import console

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: rollouts take longer on some than on others."""


def start(cpu: bool) -> None:
    """Join the other processes, if a launcher started some.

    Args:
        cpu: use gloo even where there are GPUs.
    """
    if launched() > 1 and not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
        heartbeat.watch()
    console.quiet = console.quiet or not first()


def launched() -> int:
    """The number of processes that a launcher started for one run, whether or not they have joined yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def share(batches: Sequence[T]) -> list[T]:
    """The share of the ``batches`` of this process: every :func:`world`-th one, so that long ones are spread."""
    return list(batches[rank() :: world()])


def merge(own: dict[int, T]) -> dict[int, T]:
    """The entries of all processes, on each of them: the union of every process's ``own``, whose keys differ."""
    if world() == 1:
        return own
    parts: list[dict[int, T]] = [{}] * world()
    dist.all_gather_object(parts, own)
    return {row: value for part in parts for row, value in part.items()}


def agree(value: T) -> T:
    """The first process's ``value``, on all of them."""
    if world() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def by_first(work: Callable[[], T]) -> T:
    """Do ``work`` in the first process and return its result on all of them; if it fails, all end.

    Raises:
        SystemExit: on the others, when the first one failed and says why.
    """
    if world() == 1:
        return work()
    value, failure = None, None
    if first():
        try:
            value = work()
        except BaseException as error:
            failure = error
    value, failed = agree((value, failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise SystemExit(2)
    return cast("T", value)


def total(values: Sequence[float], device: torch.device) -> list[float]:
    """Each of the ``values`` summed over the processes; ``device`` is where this process computes."""
    if world() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


@contextmanager
def together() -> Iterator[None]:
    """Run a block that needs all processes.

    Raises:
        UserError: another process died.
    """
    try:
        yield
    except RuntimeError as error:
        lost = ("closed by peer", "Connection reset", "Timed out", "timed out", "Broken pipe", "Socket")
        if world() == 1 or not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in lost)):
            raise
        raise UserError(
            f"process {rank()} of {world()} lost the others: one of them ended, see its message; "
            "the same command resumes, with another number of processes too"
        ) from error
