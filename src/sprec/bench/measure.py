"""Measurements: seconds, memory, FLOPs, and the best rate that the machine reaches."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import Policy
from sprec.system.hardware import pick_device, pick_precision

_MIB = 1 << 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Spent(NamedTuple):
    """Seconds.

    Attributes:
        wall: on the clock.
        cpu: of processor time of all threads; comparable even while other processes run.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Timed:
    """One repetition.

    Attributes:
        spent: its time.
        tokens: of the data, each sequence counted whole.
        losses: of each step, to compare the sides.
        found: the answers, to compare the sides.
        flops: the useful ones.
        prompt_tokens: mean length of a prompt.
        own_prompt_tokens: mean length of what a prompt does not share with all others.
        answer_tokens: mean length of an answer.
    """

    spent: Spent
    tokens: int
    losses: list[float] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)
    flops: float = 0.0
    prompt_tokens: float = 0.0
    own_prompt_tokens: float = 0.0
    answer_tokens: float = 0.0


def seconds(call: Callable[[], Any], device: torch.device) -> tuple[Spent, Any]:
    """Time a ``call`` until it has finished on the ``device``; returns its result, too."""
    _finish(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    _finish(device)
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    """The FLOPs of a ``call``'s matrix products and attention, and its result; counting makes it slower."""
    aten = torch.ops.aten
    forward: Callable[..., int] = sdpa_flop_count
    backward: Callable[..., int] = sdpa_backward_flop_count
    cpu_attention: dict[Any, Callable[..., int]] = {  # PyTorch counts those of GPUs only
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: forward(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: backward(g, q, k, v),
    }
    with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        result = call()
    return counter.get_total_flops(), result


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak() -> None:
    """Reset the peak of the memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def release() -> None:
    """Release the cached memory of the GPU: the other sides wait in processes of their own."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        gc.collect()
        torch.cuda.empty_cache()


def memory(on_gpu: bool) -> tuple[float, float]:
    """Memory in MiB, now and at its peak: the allocator's if ``on_gpu``, else this process's resident memory."""
    if on_gpu:
        return torch.cuda.memory_allocated() / _MIB, torch.cuda.max_memory_allocated() / _MIB
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (float(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak


def precision(device: str = "auto") -> str:
    """The engine's precision on a ``device``: ``bf16`` or ``fp32``."""
    picked = pick_precision("auto", pick_device(device))
    return next(name for name, dtype in DTYPES.items() if dtype is picked)


def matmul_size(device: str = "auto") -> int:
    """Rows and columns of the matrices of :func:`matmul_rate`: on a GPU ``device`` as many as keep all of it busy."""
    return 8192 if pick_device(device).type == "cuda" else 2048


def matmul_rate(device: str = "auto", size: int = 0, repetitions: int = 10, dtype: torch.dtype | None = None) -> float:
    """Best rate of a square matrix product in FLOP/s: the yardstick for the share of the machine used.

    Args:
        device: where to multiply.
        size: rows and columns; 0 takes :func:`matmul_size`.
        repetitions: how many products are tried.
        dtype: the engine's precision by default; bf16 takes minutes on a CPU without instructions for it.
    """
    where, size = pick_device(device), size or matmul_size(device)
    dtype = dtype or pick_precision("auto", where)
    left, right = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
    times = [seconds(lambda: left @ right, where)[0].wall for _ in range(repetitions + 2)]
    return 2 * size**3 / min(times[2:])


def useful_flops(policy: Policy, groups: Sequence[PromptGroup], passes: int) -> float:
    """FLOPs of reading ``groups`` with a ``policy``, every prompt once; ``passes`` is 1 for scoring, 3 for training.

    Two per weight and token (the head only for states that predict completion tokens), and four per hidden unit, layer
    and pair of tokens of which one attends to the other.
    """
    config = policy.model.config
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    body = sum(value.numel() for value in policy.model.parameters()) - embeddings
    total = 0.0
    for group in groups:
        prompt, above = len(group.prompt), group.tree.depth
        pairs = prompt * (prompt + 1) / 2 + sum(prompt + depth + 1 for depth in above)
        total += 2 * body * group.columns + 2 * head * (1 + len(above))
        total += 4 * config.hidden_size * config.num_hidden_layers * pairs
    return passes * total
