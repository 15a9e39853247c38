"""Checkpoints inside a training stage: parameters, the state of AdamW, the outcome so far, the best epoch.

With them a stage resumes at the step where it was stopped, bit for bit in fp32: batches, dropout and learning rates are
functions of (seed, step), so nothing else has to be saved. Sharded tensors are saved whole, so another number of
processes can resume.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sprec.engine.model.policy import Policy
from sprec.engine.model.sharding import placed_like, whole
from sprec.system import storage
from sprec.system.progress import say

_STATE, _PROGRESS = "state.safetensors", "progress.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_KEPT = 2  # the newest may be damaged


@dataclass
class Checkpoint:
    """A stage after ``step`` optimiser steps.

    Attributes:
        step: the number of finished optimiser steps.
        parameters: the trainable parameters, by name.
        moments: AdamW's state of each parameter that had a gradient: exp_avg, exp_avg_sq, step.
        best: the parameters of the best epoch so far, empty without validation.
        outcome: of the stage so far, as JSON.
    """

    step: int
    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    best: dict[str, Tensor] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage.

    Attributes:
        folder: holds them and nothing else; its name is the key of the stage.
        every: optimiser steps between two of them.
    """

    folder: Path
    every: int

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a ``checkpoint``, completely or not at all, and remove all but the newest two."""
        tensors = {f"parameter/{name}": value for name, value in checkpoint.parameters.items()}
        tensors |= {f"best/{name}": value for name, value in checkpoint.best.items()}
        for name, moments in checkpoint.moments.items():
            tensors |= {f"{kind}/{name}": value for kind, value in moments.items()}
        with storage.replacing(self.folder / f"step-{checkpoint.step:08d}") as scratch:
            save_file(tensors, scratch / _STATE)
            storage.write_json(scratch / _PROGRESS, {"step": checkpoint.step, "outcome": checkpoint.outcome})
            storage.seal(scratch, {"stage": self.folder.name})
        for old in self._folders()[_KEPT:]:
            storage.discard(old)

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint, on the CPU; None if there is none."""
        for folder in self._folders():
            problem = storage.verify(folder)
            if not problem:
                return _read(folder)
            say(f"! {problem}; going back to the checkpoint before it")
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _read(folder: Path) -> Checkpoint:
    progress = storage.read_json(folder / _PROGRESS)
    kinds: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / _STATE).items():
        kind, name = key.split("/", 1)
        kinds.setdefault(kind, {})[name] = value
    parameters = kinds["parameter"]
    moments = {name: {kind: kinds[kind][name] for kind in _MOMENTS} for name in kinds.get(_MOMENTS[0], {})}
    return Checkpoint(progress["step"], parameters, moments, kinds.get("best", {}), progress["outcome"])


def capture(policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The trainable parameters of a ``policy`` and their state in an ``optimizer``, whole and on the CPU.

    All processes must call it. AdamW has no state for a parameter that never had a gradient (adapters in a part of the
    model that titles do not use).
    """
    moments = {
        name: {kind: whole(optimizer.state[value][kind]) for kind in _MOMENTS}
        for name, value in policy.trainable()
        if optimizer.state.get(value)
    }
    return policy.state(), moments


def recall(policy: Policy, optimizer: torch.optim.Optimizer, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Restore the ``moments`` of a :class:`Checkpoint` in the ``optimizer`` of a ``policy``."""
    for name, value in policy.trainable():
        if name in moments:
            optimizer.state[value] = {kind: placed_like(moments[name][kind], value) for kind in _MOMENTS}
