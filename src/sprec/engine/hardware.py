"""What the processor at hand can do."""

from functools import cache
from pathlib import Path


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions for products of bf16 matrices (avx512_bf16 or amx), as Linux lists them."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
