"""Which device and precision to compute with."""

from functools import cache
from pathlib import Path

import torch

from sprec.system.errors import UserError

_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})


@cache
def cpu_prefers_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices clearly faster than float32 ones."""
    return prefers_bf16(_words())


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16 matrix products, fast or slow."""
    return not _INSTRUCTIONS.isdisjoint(_words())


def prefers_bf16(words: set[str]) -> bool:
    """Whether a CPU multiplies bf16 faster, given the ``words`` with which Linux describes it (flags, vendor).

    Matrix units (amx_bf16) are several times as fast. Vector instructions (avx512_bf16) alone reach .6 of float32's
    rate on Intel's cores (research/log.md, on a Xeon whose matrix units a virtual machine hides), and four times it on
    AMD's (Zen 5, same page). This is not measured at run time: the precision is part of a stage's key, so it must be
    the same in all processes and on all days.
    """
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words


def _words() -> set[str]:
    info = Path("/proc/cpuinfo")  # Linux only
    return set(info.read_text().split()) if info.is_file() else set()


def pick_device(wish: str) -> torch.device:
    """The device for a ``wish`` of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: CUDA is asked for, but PyTorch sees no such device.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch sees no CUDA device; use device=cpu or install a CUDA build of torch")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def pick_precision(wish: str, device: torch.device) -> torch.dtype:
    """The precision for a ``wish`` of ``auto``, ``fp32`` or ``bf16`` on a ``device``.

    ``auto`` is bf16 where the hardware multiplies bf16 matrices faster (GPUs, CPUs with amx, AMD's avx512_bf16).
    """
    if wish != "auto":
        return torch.bfloat16 if wish == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if cpu_prefers_bf16() else torch.float32
