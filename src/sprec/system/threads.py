"""How the threads of a product wait for each other: it depends on who else computes on the machine."""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

STAT = Path("/proc/stat")
_BUSY = 0.5  # cores
_MOMENT = 0.1  # seconds
_LOOKS = 10  # a command of half a second beside this one is no reason to wait passively for hours
Ticks = tuple[int, int]
"""Of all cores since the machine started: in processes, and altogether."""


def choose() -> None:
    """Let waiting threads sleep where other processes compute, before PyTorch is imported; what is set stays.

    Alone, the default (spin a moment, then sleep) made a training step up to 2.8 times as fast on two cores; next to
    a busy process it made it 1.5 to 10 times as slow (``research/log.md``).
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
    """Whether others computed between all readings; no further one is taken once they did not."""
    return all(busy_cores(*pair) >= _BUSY for pair in pairwise(readings))


def ticks(stat: str) -> Ticks:
    """Read the first line of ``/proc/stat``: user, nice, system, idle, waiting for input, interrupts, and so on."""
    numbers = [int(number) for number in stat.split("\n", 1)[0].split()[1:]]
    return sum(numbers[:3]), sum(numbers[:7])


def busy_cores(before: Ticks, after: Ticks) -> float:
    """How many cores were busy between two readings."""
    total = after[1] - before[1]
    return (os.cpu_count() or 1) * (after[0] - before[0]) / total if total else 0.0
