"""What the processor at hand does well."""

from functools import cache
from pathlib import Path

import torch

from sprec.system.errors import UserError

_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})


@cache
def cpu_prefers_bf16() -> bool:
    """Whether bf16 matrices are multiplied clearly faster than float32 ones on the CPU."""
    return prefers_bf16(_words())


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for products of bf16 matrices, be they fast or slow."""
    return not _INSTRUCTIONS.isdisjoint(_words())


def prefers_bf16(words: set[str]) -> bool:
    """The decision for a CPU that Linux describes with these words, its flags and its vendor among them.

    Matrix units (amx_bf16) gain several times over. Vector instructions (avx512_bf16) alone reach .6 of float32's rate
    on Intel's cores (research/log.md, on a Xeon whose matrix units a virtual machine hides), and four times it on AMD's
    (Zen 5, same page). No clock decides: the precision is part of what a stage is known by, so it must be the same in
    all processes and on all days.
    """
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words


def _words() -> set[str]:
    info = Path("/proc/cpuinfo")  # Linux only
    return set(info.read_text().split()) if info.is_file() else set()


def pick_device(wish: str) -> torch.device:
    """The device for a wish of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch sees no CUDA device; use device=cpu or install a CUDA build of torch")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def pick_precision(wish: str, device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies bf16 matrices faster (GPUs, many CPUs with amx or avx512_bf16), else fp32."""
    if wish != "auto":
        return torch.bfloat16 if wish == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if cpu_prefers_bf16() else torch.float32
