"""One training stage: prompt groups, an objective over their completion log-probabilities, an order of the samples.

The order is a pure function of seed, epoch and index; a stage saves checkpoints and resumes from them.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import TrainerCallback

from sprec.config import Training
from sprec.engine.layout.groups import PromptGroup, sizes_of
from sprec.engine.model.policy import Policy
from sprec.engine.model.sharding import finite
from sprec.engine.train.checkpoint import Checkpoint, Checkpoints, capture, recall
from sprec.engine.train.recompute import recomputing
from sprec.engine.train.scoring import score
from sprec.engine.train.trainer import LOG, GroupTrainer, Objective, Outcome, Task
from sprec.system import interrupts, processes
from sprec.system.errors import UserError
from sprec.system.memory import keep_freed, settled
from sprec.system.progress import bar, say

__all__ = ["LOG", "Objective", "Outcome", "plan", "token_loss", "train"]

_BUCKET = 32  # batches sorted by length together; with more, neighbouring rows of the shuffle would be too alike


def plan(lengths: ArrayLike, batch: int, epochs: int, seed: int) -> list[np.ndarray]:
    """The batches of a stage: row indices, one array per optimiser step; a function of the arguments.

    Each epoch is shuffled, then the rows of every 32 batches are sorted by length and cut into batches, which are
    shuffled again: rows of a batch have similar lengths and little padding.

    Args:
        lengths: of the rows, in tokens.
        batch: rows per step.
        epochs: passes over the rows.
        seed: of the order.
    """
    sizes = np.asarray(lengths)
    steps: list[np.ndarray] = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(sizes))
        cuts = range(0, len(sizes), batch * _BUCKET)
        buckets = [order[cut : cut + batch * _BUCKET] for cut in cuts]
        alike = np.concatenate([rows[np.argsort(sizes[rows], kind="stable")] for rows in buckets]) if buckets else order
        batches = [alike[start : start + batch] for start in range(0, len(sizes), batch)]
        steps += [batches[index] for index in rng.permutation(len(batches))]
    return steps


def train(
    policy: Policy,
    groups: Sequence[PromptGroup],
    objective: Objective,
    settings: Training,
    *,
    seed: int,
    extra: Mapping[str, Tensor] | None = None,
    valid: Sequence[PromptGroup] = (),
    budget: int = 8192,
    description: str = "train",
    track: Sequence[str] = (),
    log_folder: Path | None = None,
    checkpoints: Checkpoints | None = None,
    recompute: bool = False,
) -> Outcome:
    """Train a policy in place.

    Args:
        policy: the model; its trainable parameters change.
        groups: the training examples.
        objective: the loss.
        settings: rate, epochs, batch, warm-up and weight decay.
        seed: of the order of the examples and the dropout.
        extra: tensors of shape (len(groups), ...) that the objective finds in ``batch.extra``.
        valid: examples for the loss after each epoch; with them the best epoch's parameters are kept.
        budget: tokens per forward pass; a batch is split into micro-batches. Without dropout it changes the result only
            by rounding, with dropout it also changes the masks.
        description: for the progress bar.
        track: experiment trackers that get the training log.
        log_folder: for the log, experiment trackers and the batch of a failed step.
        checkpoints: saved during the stage, which resumes from them.
        recompute: keep less in memory and compute more (:mod:`sprec.engine.train.recompute`); the result is the same.

    Raises:
        UserError: a loss, gradient or weight is not finite (the batch of such a loss or gradient is saved and named),
            or a single example does not fit in memory.
        Interrupted: a signal came; a checkpoint has been written.
    """
    steps = plan(sizes_of(groups), settings.batch, settings.epochs, seed)
    if not steps:
        return Outcome()
    saved = _resumed(policy, checkpoints, description, len(steps))
    outcome = Outcome(**saved.outcome) if saved else Outcome()
    keep_freed()
    task = Task(groups, objective, dict(extra or {}), settings, steps, seed, saved.step if saved else 0)
    keeper = _KeepBest(policy, valid, len(steps) // settings.epochs, budget, outcome, saved.best if saved else {})
    with bar(description, len(steps)) as progress, _folder(log_folder) as logs, interrupts.patiently():
        progress.advance(task.done)
        if task.done < len(steps):
            trainer = GroupTrainer(policy, task, budget, outcome, progress, logs, track)
            trainer.add_callback(keeper)
            own = None if trainer.is_deepspeed_enabled else checkpoints  # DeepSpeed does not expose AdamW's state
            trainer.add_callback(_Saver(policy, task, own, saved, outcome, keeper))
            with settled(), recomputing(policy.model) if recompute else nullcontext():
                trainer.train()
    keeper.restore()
    _require_numbers(dict(policy.trainable()), len(steps))
    policy.model.eval()
    return outcome


def _resumed(policy: Policy, checkpoints: Checkpoints | None, description: str, steps: int) -> Checkpoint | None:
    """The last checkpoint, after its parameters have been restored."""
    saved = checkpoints.latest() if checkpoints else None
    if saved:
        policy.restore(saved.parameters)
        say(f"= {description}: resuming after step {saved.step} of {steps}")
    return saved


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder of the logs: a temporary one only if none is given, as a killed process would leave it behind."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


class _KeepBest(TrainerCallback):
    """After each epoch: validation loss, and a copy of the best epoch's parameters."""

    def __init__(
        self,
        policy: Policy,
        valid: Sequence[PromptGroup],
        per_epoch: int,
        budget: int,
        outcome: Outcome,
        best: dict[str, Tensor],
    ) -> None:
        self.policy, self.valid, self.per_epoch, self.budget = policy, valid, per_epoch, budget
        self.outcome, self.best = outcome, best

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.valid or state.global_step % self.per_epoch:
            return
        loss = token_loss(self.policy, self.valid, self.budget)
        if not math.isfinite(loss):
            raise UserError(f"the validation loss is {loss} after step {state.global_step}; lower the learning rate")
        if loss < min(self.outcome.valid_loss, default=math.inf):
            self.best = self.policy.state()
            self.outcome.best_epoch = len(self.outcome.valid_loss)
        self.outcome.valid_loss.append(loss)

    def restore(self) -> None:
        """Restore the best epoch's parameters; without validation the last ones stay."""
        if self.best:
            self.policy.restore(self.best)


class _Saver(TrainerCallback):
    """Saves checkpoints regularly and when a signal asks to leave; restores the optimiser's state at the start."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        checkpoints: Checkpoints | None,
        saved: Checkpoint | None,
        outcome: Outcome,
        keeper: _KeepBest,
    ) -> None:
        self.policy, self.task, self.checkpoints, self.saved = policy, task, checkpoints, saved
        self.outcome, self.keeper = outcome, keeper

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.global_step = self.task.done
        if self.saved:
            recall(self.policy, kwargs["optimizer"], self.saved.moments)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (signals,) = processes.total([float(interrupts.requested())], self.policy.device)
        due = self.checkpoints is not None and state.global_step % self.checkpoints.every == 0
        if self.checkpoints and (signals or (due and state.global_step < len(self.task.steps))):
            self._save(self.checkpoints, state.global_step, kwargs["optimizer"])
        if signals:
            interrupts.leave()

    def _save(self, checkpoints: Checkpoints, step: int, optimizer: torch.optim.Optimizer) -> None:
        parameters, moments = capture(self.policy, optimizer)
        _require_numbers(parameters, step)
        if processes.first():
            checkpoints.save(Checkpoint(step, parameters, moments, self.keeper.best, vars(self.outcome)))


def _require_numbers(parameters: Mapping[str, Tensor], step: int) -> None:
    if not all(map(finite, parameters.values())):
        raise UserError(f"the weights are no longer finite after step {step}; lower the learning rate")


def token_loss(policy: Policy, groups: Sequence[PromptGroup], budget: int = 8192) -> float:
    """Mean negative log-likelihood per completion token; ``policy``, ``groups`` and ``budget`` as for :func:`score`."""
    values = score(policy, groups, budget=budget, description="validation loss")
    tokens = sum(len(completion) for group in groups for completion in group.completions)
    return -sum(value.sum().item() for value in values) / max(1, tokens)
