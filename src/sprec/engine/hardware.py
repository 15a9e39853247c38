"""What the processor at hand does well."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

_CLEARLY = 1.25
"""A gain from which on bf16 is taken: below it casts cost more than products save, and the clock may err."""
_SIZE = 512
_TURNS = 7


@cache
def cpu_prefers_bf16() -> bool:
    """Whether bf16 matrices are multiplied clearly faster than float32 ones on the CPU; decided once per process."""
    return prefers_bf16(_flags(), bf16_gain)


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for products of bf16 matrices, be they fast or slow."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(_flags())


def _flags() -> set[str]:
    info = Path("/proc/cpuinfo")  # Linux only
    return set(info.read_text().split()) if info.is_file() else set()


def prefers_bf16(flags: set[str], gain: Callable[[], float]) -> bool:
    """The decision for a CPU with these flags, as Linux lists them.

    Matrix units (amx_bf16) gain several times over. Vector instructions (avx512_bf16) gain on some processors and lose
    on others (.6 of float32's rate on a Xeon whose matrix units a virtual machine hides): there the clock decides.
    """
    return "amx_bf16" in flags or ("avx512_bf16" in flags and gain() > _CLEARLY)


def bf16_gain() -> float:
    """How many times as fast as a float32 product one in bf16 is, in the best of several turns; takes some 30 ms."""
    best: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * _TURNS:
        factor = torch.ones(_SIZE, _SIZE, dtype=dtype)
        started = perf_counter()
        factor @ factor
        best[dtype] = min(best.get(dtype, float("inf")), perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
