"""A whole benchmark: the model, the parts, the machine, and the record of it all."""

import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, cast

import torch

from sprec.bench.measure import DTYPES, matmul_rate, matmul_size, precision, release
from sprec.bench.runner import NOBODY, PARTS, Part, compare, parts
from sprec.bench.work import MICRO, SIZES, Size, Work, make_model
from sprec.data import Dataset
from sprec.data.demo import demo
from sprec.system.errors import UserError
from sprec.system.hardware import cpu_has_bf16, pick_device
from sprec.system.interrupts import Interrupted
from sprec.system.progress import bar

PEERS = {"trl": "trl", "datasets": "datasets"}


def run(
    size: str,
    names: Sequence[str],
    data: Path | None,
    repeats: int,
    base: Work,
    negatives: Sequence[int],
    log: Path | None,
    peers: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare the engine with its peers.

    Args:
        size: of the model, a key of :data:`sprec.bench.work.SIZES`.
        names: the parts to run; all if empty.
        data: a dataset; None for the demo data.
        repeats: of each side, in turn; medians are kept.
        base: samples, batch, tokens at once and device; the folders of model and data are filled in here.
        negatives: how many per prompt the preference part has, one part for each number.
        log: a file for the output of the sides; None discards it.
        peers: those to compare with; all by default, :data:`sprec.bench.runner.NOBODY` for none.

    Returns:
        The record: machine, versions, date, settings, and for each part medians, spreads and ratios; ``failed`` names
        the parts whose sides compute different things or ended, and the one in which a signal stopped the rest.

    Raises:
        UserError: a wrong setting, or a missing peer.
    """
    device = base.device
    _check(size, names, base, peers)
    parts(base, names, negatives, peers)  # unknown names are told before a model is made
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sprec-bench-")))
        messages = cast("TextIO", stack.enter_context((log or Path(os.devnull)).open("a")))
        if data is None:
            data = folder / "demo"
            demo().save(data)
        dataset = Dataset.load(data)
        parameters = make_model(folder / "model", cast("Size", size), dataset, device)
        release()
        asked = parts(replace(base, model=str(folder / "model"), data=str(data)), names, negatives, peers)
        results, failed, rates = _beside_the_limit(asked, repeats, messages, f"bench {size}", device)
    return {
        "date": date.today().isoformat(),
        "size": size,
        "parameters": parameters,
        "data": dataset.name,
        "repeats": repeats,
        "batch": base.batch,
        "tokens": base.tokens,
        "machine": machine(device),
        "precision": precision(device),
        "matmul_size": matmul_size(device),
        "matmul_flops": rates[precision(device)],
        "matmul_flops_bf16": rates.get("bf16"),
        "parts": results,
        "failed": failed,
    }


def _beside_the_limit(
    asked: Sequence[Part], repeats: int, messages: TextIO, description: str, device: str
) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, float]]:
    """The results of :func:`measured`, each part with its share of the matmul rate, and the rates by precision.

    The rate in bf16 is measured, too, on a CPU that has the instructions and is faster without them.
    """
    own = precision(device)
    also = ["bf16"] if pick_device(device).type == "cpu" and cpu_has_bf16() and own == "fp32" else []
    rates: dict[str, float] = {}

    def look() -> None:  # the best rate counts: other processes can only lower a measurement
        for name in [own, *also]:
            rates[name] = max(rates.get(name, 0.0), matmul_rate(device, dtype=DTYPES[name]))

    with bar(description, sum(repeats + (not part.whole) for part in asked)) as progress:

        def measure(part: Part) -> dict[str, Any]:
            look()
            return compare(part, repeats, messages, progress)

        results, failed = measured(asked, measure)
    look()
    for result in results:
        if result["flops"]:
            result["share"] = result["flops"] / result["engine"]["seconds"] / rates[own]
    return results, failed, rates


def measured(
    asked: Sequence[Part], measure: Callable[[Part], dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The results of ``measure`` for the ``asked`` parts, and why the others have none.

    A part that fails, or a signal, does not lose the results so far, which may have taken hours.
    """
    results, failed = [], {}
    for part in asked:
        try:
            results.append(measure(part))
        except UserError as error:
            failed[part.name] = str(error).removeprefix(f"{part.name}: ")
        except Interrupted as signal:
            failed[part.name] = f"stopped by {signal}"
            break
    return results, failed


def _check(size: str, names: Sequence[str], base: Work, peers: Sequence[str]) -> None:
    if size not in SIZES:
        raise UserError(f"there is no size {size!r}; sizes: {', '.join(SIZES)}")
    for name in names:
        if name not in PARTS:
            raise UserError(f"there is no part {name!r}; parts: {', '.join(PARTS)}")
    where = pick_device(base.device)
    if size == "1b" and where.type == "cpu":
        raise UserError("size 1b needs a CUDA device; take 2m, 30m or 135m here")
    for package, name in PEERS.items() if [*peers] != [NOBODY] else ():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the benchmark compares with {name}, which is not installed: pip install 'sprec[dev]'")
    if {"dpo", "sft", "iteration"} & set(names):
        _check_steps(base.samples, base.batch)


def _check_steps(samples: int, batch: int) -> None:
    """The peers' micro-batches must fit into the steps of the engine."""
    step = min(samples, batch)
    if samples % step or step % min(step, MICRO):
        raise UserError(
            f"{samples} samples are not a multiple of {batch} prompts per step in micro-batches of {MICRO}; "
            f"use --samples {max(1, samples // 64) * 64} --batch 32"
        )


def machine(device: str) -> dict[str, str]:
    """What the numbers depend on: the ``device``, threads, versions."""
    where = pick_device(device)
    name = torch.cuda.get_device_name() if where.type == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    packages = [name for name in ("torch", "transformers", "trl", "datasets") if importlib.util.find_spec(name)]
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
