"""How the threads of a matrix product wait for each other, depending on what else runs on the machine."""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

STAT = Path("/proc/stat")
_BUSY = 0.5  # cores
_MOMENT = 0.1  # seconds
_LOOKS = 10  # another command that takes half a second is no reason to wait passively for hours
Ticks = tuple[int, int]
"""Ticks of all cores since the machine started: busy ones, and all."""


def choose() -> None:
    """Let waiting threads sleep if other processes compute; call it before PyTorch is imported.

    With the machine to itself, the default (spin a moment, then sleep) makes a training step up to 2.8 times as fast on
    two cores; beside a busy process it makes it 1.5 to 10 times as slow (``research/log.md``). A variable of the
    environment that the user has set stays.
    """
    if "OMP_WAIT_POLICY" in os.environ or not STAT.exists():
        return
    if always_busy(_readings()):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _readings() -> Iterator[Ticks]:
    yield ticks(STAT.read_text())
    for _ in range(_LOOKS):
        time.sleep(_MOMENT)
        yield ticks(STAT.read_text())


def always_busy(readings: Iterable[Ticks]) -> bool:
    """Whether other processes computed between any two ``readings``; stops reading as soon as they did not."""
    return all(busy_cores(*pair) >= _BUSY for pair in pairwise(readings))


def ticks(stat: str) -> Ticks:
    """Parse the first line of ``/proc/stat``, ``stat``: user, nice, system, idle, waiting for input, and so on."""
    numbers = [int(number) for number in stat.split("\n", 1)[0].split()[1:]]
    return sum(numbers[:3]), sum(numbers[:7])


def busy_cores(before: Ticks, after: Ticks) -> float:
    """The mean number of busy cores between two readings, ``before`` and ``after``."""
    total = after[1] - before[1]
    return (os.cpu_count() or 1) * (after[0] - before[0]) / total if total else 0.0
