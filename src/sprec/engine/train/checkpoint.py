"""Checkpoints inside a training stage: parameters, the state of AdamW, the outcome so far, the best epoch.

With them a stage goes on at the step where it was stopped, bit for bit in fp32: batches, dropout and learning rates
are functions of (seed, step), so nothing else has to be remembered. Tensors are saved whole, whatever they are
sharded over, so another number of processes can go on.
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
_KEPT = 2  # the newest may turn out to be damaged


@dataclass
class Checkpoint:
    """A stage after ``step`` optimiser steps.

    Attributes:
        step: optimiser steps that were done.
        parameters: the trainable parameters, by name.
        moments: per parameter that had a gradient what AdamW remembers: exp_avg, exp_avg_sq, step.
        best: the parameters of the best epoch so far, empty without validation.
        outcome: JSON of what the stage has reported so far.
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
        folder: where they are; nothing else is in there. It is called by the key of the stage.
        every: optimiser steps between two of them.
    """

    folder: Path
    every: int

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint: all of it or nothing; the one before the last goes."""
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
        """The newest checkpoint that is whole, on the CPU; None where there is none."""
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
    """Trainable parameters and what AdamW remembers of them, whole and on the CPU; all processes must call it.

    AdamW remembers nothing of a parameter that never had a gradient (adapters in a part of the model that no title
    passes).
    """
    moments = {
        name: {kind: whole(optimizer.state[value][kind]) for kind in _MOMENTS}
        for name, value in policy.trainable()
        if optimizer.state.get(value)
    }
    return policy.state(), moments


def recall(policy: Policy, optimizer: torch.optim.Optimizer, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give the optimiser back what it remembered."""
    for name, value in policy.trainable():
        if name in moments:
            optimizer.state[value] = {kind: placed_like(moments[name][kind], value) for kind in _MOMENTS}
