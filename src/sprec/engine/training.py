"""One training stage: prompt groups, an objective over their completion log-probabilities, ``transformers.Trainer``.

The Trainer brings the loop, gradient clipping, experiment trackers and the distributed back ends; here are the order
of the samples (a pure function of seed, epoch and index), the micro-batches by token budget, and the loss.
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sprec.config import Training
from sprec.engine.backbone import Policy
from sprec.engine.groups import GroupBatch, PromptGroup, collate, token_budget_batches
from sprec.engine.scoring import completion_log_probs, score
from sprec.errors import UserError
from sprec.progress import Bar, bar

CLIP = 1.0


@dataclass(frozen=True)
class Objective:
    """What a stage minimises.

    Attributes:
        loss: policy log-probabilities (B, K) and their batch to one loss per group, (B,). What else it needs
            (reference log-probabilities, weights) travels in ``batch.extra``.
        per_token: divide the sum of a batch by its completion tokens (SFT) instead of its groups.
    """

    loss: Callable[[Tensor, GroupBatch], Tensor]
    per_token: bool = False


@dataclass
class Outcome:
    """What a stage reports: one entry per optimiser step, and the validation loss after each epoch."""

    steps: list[dict[str, float]] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None


_BUCKET = 32  # batches that are sorted by length together; more would make neighbours in time alike


def plan(lengths: Sequence[int], batch: int, epochs: int, seed: int) -> list[np.ndarray]:
    """The batches of a stage: row indices, one array per optimiser step; a function of (lengths, seed, epoch).

    Each epoch is shuffled, then every 32 batches' worth of rows is sorted by length, cut into batches, and the
    batches are shuffled again: rows of a batch have similar lengths and little is padded.
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
) -> Outcome:
    """Train a policy in place.

    Args:
        groups: the training examples.
        extra: tensors of shape (len(groups), ...) that the objective finds in ``batch.extra``.
        valid: examples for the loss after each epoch; with them the best epoch's parameters are kept.
        budget: tokens per forward pass; a batch is split into micro-batches, the result does not depend on it.
        log_folder: where experiment trackers and the batch of a failed step are written.

    Raises:
        UserError: the loss is not finite; the batch is saved and named.
    """
    outcome = Outcome()
    steps = plan([group.tokens for group in groups], settings.batch, settings.epochs, seed)
    if not steps:
        return outcome
    per_epoch = math.ceil(len(groups) / settings.batch)
    with bar(description, len(steps)) as progress, tempfile.TemporaryDirectory() as scratch:
        trainer = _GroupTrainer(
            policy=policy,
            groups=groups,
            objective=objective,
            extra=dict(extra or {}),
            budget=budget,
            seed=seed,
            settings=settings,
            steps=steps,
            outcome=outcome,
            progress=progress,
            folder=log_folder or Path(scratch),
            track=track,
        )
        if valid:
            trainer.add_callback(_KeepBest(policy, valid, per_epoch, budget, outcome))
        trainer.train()
    policy.model.eval()
    return outcome


def _optimizer(policy: Policy, settings: Training, steps: int) -> tuple[Any, Any]:
    parameters = [value for _, value in policy.trainable()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    warmup = min(settings.warmup_steps, steps // 2)

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / max(1, steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Steps(Dataset[np.ndarray]):
    """The planned batches; the Trainer counts and fetches them."""

    def __init__(self, steps: Sequence[np.ndarray]) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:  # type: ignore[override]
        return index, self.steps[index]


class _GroupTrainer(Trainer):
    objective: Objective
    policy: Policy
    groups: Sequence[PromptGroup]
    steps: "_Steps"

    def __init__(
        self,
        *,
        policy: Policy,
        groups: Sequence[PromptGroup],
        objective: Objective,
        extra: dict[str, Tensor],
        budget: int,
        seed: int,
        settings: Training,
        steps: list[np.ndarray],
        outcome: Outcome,
        progress: Bar,
        folder: Path,
        track: Sequence[str],
    ) -> None:
        self.policy, self.groups, self.objective, self.extra = policy, groups, objective, extra
        self.budget, self.seed, self.outcome, self.progress, self.folder = (
            budget,
            seed,
            outcome,
            progress,
            folder,
        )
        self.steps = _Steps(steps)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=len(steps),
            max_grad_norm=CLIP,
            save_strategy="no",
            logging_steps=1,
            report_to=list(track) or "none",
            disable_tqdm=True,
            use_cpu=policy.device.type == "cpu",
            seed=seed,
            remove_unused_columns=False,
        )
        super().__init__(
            model=policy.model,
            args=arguments,
            train_dataset=self.steps,
            optimizers=_optimizer(policy, settings, len(steps)),
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        # every process sees every batch and takes its share of the groups in training_step
        return DataLoader(self.steps, batch_size=None, shuffle=False)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        step, rows = inputs
        model.train()
        while True:
            torch.manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
            try:
                return self._backward(model, np.asarray(rows), step)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._halve_budget(error)

    def _halve_budget(self, error: RuntimeError) -> None:
        """Out of memory: try the step again in smaller pieces; the gradient is the same."""
        out_of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not out_of_memory or self.budget <= 256:
            raise error
        self.budget //= 2
        self.policy.model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _backward(self, model: nn.Module, rows: np.ndarray, step: int) -> Tensor:
        groups = [self.groups[row] for row in rows]
        tokens = sum(len(completion) for group in groups for completion in group.completions)
        normaliser = tokens if self.objective.per_token else len(groups)
        world, rank = self.args.world_size, self.args.process_index
        mine = range(rank, len(groups), world)
        total = torch.zeros((), device=self.policy.device)
        chosen = rejected = 0.0
        micro_batches = token_budget_batches((groups[i].tokens for i in mine), self.budget)
        for micro in micro_batches:
            picked = [mine[i] for i in micro]
            batch = self._batch([groups[i] for i in picked], rows[picked])
            with self.policy.autocast():
                log_probs = completion_log_probs(model, batch, self.policy.head)
            loss = self.objective.loss(log_probs, batch).sum() / normaliser
            # data-parallel wrappers average the gradients of the processes; the sum is meant
            self.accelerator.backward(loss * world)
            total += loss.detach()
            change = (
                (log_probs.detach() - batch.extra["reference"]) if "reference" in batch.extra else log_probs.detach()
            )
            chosen += change[:, 0].sum().item() / len(groups)
            others = change[:, 1:].sum(1) / batch.mask[:, 1:].sum(1).clamp(min=1)
            rejected += others.sum().item() / len(groups)
        self._note(total.item(), chosen, rejected, rows, step)
        return total

    def _batch(self, groups: Sequence[PromptGroup], rows: np.ndarray) -> GroupBatch:
        index = torch.from_numpy(np.asarray(rows))
        extra = {name: value[index] for name, value in self.extra.items()}
        batch = collate(groups, extra, self.policy.precision)
        if "reference" in batch.extra:  # rows with fewer completions than the widest of the whole stage
            batch.extra["reference"] = batch.extra["reference"][:, : batch.mask.shape[1]]
        return batch.to(self.policy.device)

    def _note(self, loss: float, chosen: float, rejected: float, rows: np.ndarray, step: int) -> None:
        if not math.isfinite(loss):
            file = self.folder / f"failed-step-{step}.json"
            batch = [
                {"prompt": list(g.prompt), "completions": [list(c) for c in g.completions]}
                for g in (self.groups[row] for row in rows)
            ]
            file.write_text(json.dumps({"step": step, "rows": rows.tolist(), "groups": batch}))
            raise UserError(f"the loss is {loss} at step {step}; lower the learning rate; the batch is in {file}")
        self.outcome.steps.append({"step": step, "loss": loss, "chosen": chosen, "rejected": rejected})
        self.progress.advance(1, f"loss {loss:.4f}")


class _KeepBest(TrainerCallback):
    """After each epoch: validation loss; at the end: the parameters of the best epoch."""

    def __init__(
        self, policy: Policy, valid: Sequence[PromptGroup], per_epoch: int, budget: int, outcome: Outcome
    ) -> None:
        self.policy, self.valid, self.per_epoch, self.budget = policy, valid, per_epoch, budget
        self.outcome = outcome
        self.best: dict[str, Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.per_epoch:
            return
        loss = token_loss(self.policy, self.valid, self.budget)
        if loss < min(self.outcome.valid_loss, default=math.inf):
            self.best = self.policy.state()
            self.outcome.best_epoch = len(self.outcome.valid_loss)
        self.outcome.valid_loss.append(loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.best:
            self.policy.restore(self.best)


def token_loss(policy: Policy, groups: Sequence[PromptGroup], budget: int = 8192) -> float:
    """Mean negative log-likelihood per completion token."""
    values = score(policy, groups, budget=budget, description="validation loss")
    tokens = sum(len(completion) for group in groups for completion in group.completions)
    return -sum(value.sum().item() for value in values) / max(1, tokens)
