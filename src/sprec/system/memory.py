"""Memory: keeping it between steps, noticing that it ran out, and going on in smaller pieces."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from sprec.system.errors import UserError
from sprec.system.progress import say

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def out_of_memory(error: Exception) -> bool:
    """Whether an ``error`` says that a tensor did not fit, on a GPU or on the host."""
    told = any(words in str(error) for words in ("allocate memory", "out of memory"))  # compilers wrap the error
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


@cache
def keep_freed() -> None:
    """Let glibc keep the memory that a training step frees for the next one; nothing happens with other C libraries.

    By default it returns the blocks of activations to the system after each step and requests them again in the next,
    and the first access to a page costs microseconds, above all in virtual machines.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(_TRIM_THRESHOLD, sys.maxsize >> 32)


@contextmanager
def settled() -> Iterator[None]:
    """Inside the block garbage collection looks at new objects only.

    The Trainer collects garbage when it starts, which takes a quarter of a second for all the libraries' objects.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class _Shortages:
    count: int = 0


_shortages = _Shortages()


def shortages() -> int:
    """How often memory ran out in this process and work went on in smaller pieces."""
    return _shortages.count


def free() -> None:
    """Release cached blocks, so that smaller pieces fit; called when memory has run out."""
    _shortages.count += 1
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Pieces:
    """Work on batches of rows, in smaller and smaller pieces once a batch did not fit in memory.

    Attributes:
        work: computes a value per row, which does not depend on the other rows.
        what: names the work in messages.
        parts: the number of pieces that batches are cut into, so far.
    """

    work: Callable[[list[int]], list[Any]]
    what: str
    parts: int = 1

    def __call__(self, rows: list[int]) -> list[Any]:
        """The values of a batch of ``rows``, in order.

        Raises:
            UserError: a single row does not fit.
        """
        found = None
        while found is None:
            found = self._attempt(rows)
        return found

    def _attempt(self, rows: list[int]) -> list[Any] | None:
        try:
            return [value for piece in self._cut(rows) for value in self.work(piece)]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if self.parts >= len(rows):  # outside of the except clause, which holds the tensors of the failed attempt
            raise UserError(f"out of memory in {self.what} with one example at once; take a smaller model")
        self.parts *= 2
        say(f"! out of memory in {self.what}: going on with 1/{self.parts} of a batch at once")
        free()
        return None

    def _cut(self, rows: Sequence[int]) -> list[list[int]]:
        size = -(-len(rows) // self.parts)
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
