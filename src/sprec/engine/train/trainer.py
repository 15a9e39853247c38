"""The loop of a training stage: ``transformers.Trainer`` with prompt groups, our loss, and our micro-batches.

The Trainer provides gradient clipping, experiment trackers and the distributed back ends; here batches are cut into
micro-batches by token budget and shared between the processes. Where a method overrides the Trainer's, ``model``,
``optimizer``, ``logs``, ``args``, ``inputs``, ``num_training_steps`` and ``num_items_in_batch`` are as there.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sprec.config import Training
from sprec.engine.layout.groups import GroupBatch, PromptGroup, collate, token_budget_batches
from sprec.engine.model.policy import Policy
from sprec.engine.train.scoring import completion_log_probs, own_columns
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.memory import free, out_of_memory
from sprec.system.progress import Bar, say

CLIP = 1.0
LOG = "log.jsonl"
_SMALLEST = 256  # tokens per forward pass; halving further does not help


@dataclass(frozen=True)
class Objective:
    """What a stage minimises.

    Attributes:
        loss: from policy log-probabilities (B, K) and their batch to one loss per group, (B,). Other inputs (reference
            log-probabilities, weights) are in ``batch.extra``.
        per_token: divide the sum over a batch by its completion tokens (SFT) instead of its groups.
        prepare: from the extra tensors of all groups of an optimiser step to those that the loss gets; for values that
            must not depend on how the token budget cuts the step.
    """

    loss: Callable[[Tensor, GroupBatch], Tensor]
    per_token: bool = False
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


@dataclass
class Outcome:
    """What a stage reports.

    Attributes:
        steps: an entry of the log per optimiser step.
        valid_loss: after each epoch, in nats per token.
        best_epoch: that with the lowest, from 0.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None


@dataclass(frozen=True)
class Task:
    """What a stage does.

    Attributes:
        groups: the training examples.
        objective: the loss.
        extra: tensors of shape (len(groups), ...) for the objective.
        settings: rate, warm-up and weight decay.
        steps: the rows of each optimiser step.
        seed: of the dropout.
        done: steps finished before it was interrupted.
    """

    groups: Sequence[PromptGroup]
    objective: Objective
    extra: Mapping[str, Tensor]
    settings: Training
    steps: Sequence[np.ndarray]
    seed: int
    done: int


class _Steps(Dataset[np.ndarray]):
    """The remaining batches; the Trainer counts and fetches them."""

    def __init__(self, task: Task) -> None:
        self.steps, self.done = task.steps[task.done :], task.done

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:  # type: ignore[override]
        return self.done + index, self.steps[index]


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at a ``step``: ``warmup`` steps of linear warm-up, then linear decay to 0.

    Like the linear schedule of transformers, whose warm-up begins at 0 and so wastes the first step. A stage of
    ``steps`` steps that is no longer than its warm-up warms up in half of them, as it would never reach its rate.
    """
    warmup = warmup if warmup < steps else steps // 2
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / max(1, steps - warmup)


class GroupTrainer(Trainer):
    """Does the remaining steps of a ``task``.

    Args:
        policy: the model.
        task: what to do.
        budget: tokens per forward pass.
        outcome: gets an entry per step.
        progress: advances by one per step.
        folder: for the log and the batch of a failed step.
        track: experiment trackers.
    """

    def __init__(
        self,
        policy: Policy,
        task: Task,
        budget: int,
        outcome: Outcome,
        progress: Bar,
        folder: Path,
        track: Sequence[str],
    ) -> None:
        self.policy, self.task, self.budget = policy, task, budget
        self.outcome, self.progress, self.folder = outcome, progress, folder
        self.last: tuple[int, np.ndarray] = (task.done, np.zeros(0, dtype=np.int64))  # the current step
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=len(task.steps),
            max_grad_norm=CLIP,
            save_strategy="no",
            logging_steps=1,
            report_to=list(track) or "none",
            disable_tqdm=True,
            use_cpu=policy.device.type == "cpu",
            seed=task.seed,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # a process uses one GPU, however many are visible
        super().__init__(
            model=policy.model,
            args=arguments,
            train_dataset=_Steps(task),
        )
        self.remove_callback(PrinterCallback)
        if processes.first():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOG).write_text("".join(json.dumps(step) + "\n" for step in outcome.steps))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW for the trainable parameters."""
        settings, parameters = self.task.settings, [value for _, value in self.policy.trainable()]
        made = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.optimizer = made
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """:func:`rate_factor`, a function of the step, so that a resumed stage continues exactly."""
        steps, done, warmup = len(self.task.steps), self.task.done, self.task.settings.warmup_steps

        def factor(further: int) -> float:
            return rate_factor(done + further, steps, warmup)

        made = torch.optim.lr_scheduler.LambdaLR(cast("torch.optim.Optimizer", self.optimizer), factor)
        self.lr_scheduler = made
        return made

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All remaining batches: every process gets them all and takes its share of each step."""
        return DataLoader(_Steps(self.task), batch_size=None, shuffle=False)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the objective's own numbers for the trackers.

        Raises:
            UserError: the gradient of the step, and so the weights, are not finite.
        """
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise self._no_number("gradient", logs["grad_norm"])
        if "loss" in logs:
            logs = logs | {key: value for key, value in self.outcome.steps[-1].items() if key not in ("step", "loss")}
        super().log(logs, *args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradient of a batch, in smaller and smaller pieces until they fit in memory."""
        step, rows = self.last = inputs
        model.train()
        loss = None
        while loss is None:
            loss = self._attempt(model, np.asarray(rows), step)
        return loss

    def _attempt(self, model: nn.Module, rows: np.ndarray, step: int) -> Tensor | None:
        """The loss of a step, with its gradient accumulated; None if memory ran out and another attempt may fit."""
        rank = processes.rank()
        seed = [self.task.seed, step, rank] if rank else [self.task.seed, step]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        try:
            return self._backward(model, rows, step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        self._halve_budget(step)  # outside the except clause, which holds the tensors of the failed attempt
        return None

    def _halve_budget(self, step: int) -> None:
        """After running out of memory, prepare to repeat the step in smaller pieces; only dropout's masks change.

        Raises:
            UserError: the pieces cannot get smaller, or other processes are in the middle of the same step.
        """
        if self.budget <= _SMALLEST:
            raise UserError(
                f"out of memory at step {step} with only {self.budget} tokens at once; take a smaller model"
            )
        if processes.world() > 1:
            raise UserError(
                f"out of memory at step {step} with tokens_per_batch={self.budget}; lower it, the same command resumes"
            )
        self.budget //= 2
        say(f"! out of memory at step {step}: going on with {self.budget} tokens per forward pass")
        self.policy.model.zero_grad()
        free()

    def _backward(self, model: nn.Module, rows: np.ndarray, step: int) -> Tensor:
        groups, extra = [self.task.groups[row] for row in rows], self._extra(rows)
        tokens = sum(len(completion) for group in groups for completion in group.completions)
        normaliser = tokens if self.task.objective.per_token else len(groups)
        total = torch.zeros((), device=self.policy.device)
        chosen = rejected = 0.0
        parts = _parts(own_columns(model, groups), self.budget, self.policy.packed)
        for number, (picked, weight) in enumerate(parts, start=1):
            batch = self._batch([groups[i] for i in picked], {name: value[picked] for name, value in extra.items()})
            with self._synchronised(model, last=number == len(parts)):
                with self.policy.autocast():
                    log_probs = completion_log_probs(model, batch, self.policy.head)
                loss = weight * self.task.objective.loss(log_probs, batch).sum() / normaliser
                # data-parallel wrappers average the gradients of the processes; we need the sum
                self.accelerator.backward(loss * processes.world())
            total += loss.detach()
            first, others = _drift(log_probs.detach(), batch)
            chosen += weight * first / len(groups)
            rejected += weight * others / len(groups)
        return self._note(total, chosen, rejected, step)

    @contextmanager
    def _synchronised(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Gradients of several micro-batches are summed locally before those of all processes are."""
        if processes.world() == 1:
            yield
            return
        self.accelerator.gradient_state._set_sync_gradients(last)  # DeepSpeed makes its step when this is True
        with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
            yield

    def _extra(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The extra tensors of a step."""
        index, prepare = torch.from_numpy(np.asarray(rows)), self.task.objective.prepare
        extra = {name: value[index] for name, value in self.task.extra.items()}
        return prepare(extra) if prepare else extra

    def _batch(self, groups: Sequence[PromptGroup], extra: dict[str, Tensor]) -> GroupBatch:
        batch = collate(groups, extra, self.policy.precision, packed=self.policy.packed)
        if "reference" in batch.extra:  # as wide as the widest group of the stage
            batch.extra["reference"] = batch.extra["reference"][:, : batch.mask.shape[1]]
        return batch.to(self.policy.device)

    def _note(self, loss: Tensor, chosen: float, rejected: float, step: int) -> Tensor:
        """Log a step; returns the loss of all processes, on each of them.

        Raises:
            UserError: the loss is not finite.
        """
        value, chosen, rejected = processes.total([loss.item(), chosen, rejected], self.policy.device)
        if not math.isfinite(value):
            raise self._no_number("loss", value)
        entry = {"step": step, "loss": value, "chosen": chosen, "rejected": rejected}
        self.outcome.steps.append(entry)
        self.progress.advance(1, f"loss {value:.4f}")
        if processes.first():
            with (self.folder / LOG).open("a") as log:
                log.write(json.dumps(entry) + "\n")
        return loss if processes.world() == 1 else loss.new_tensor(value)

    def _no_number(self, what: str, value: float) -> UserError:
        step, rows = self.last
        where = self.folder / f"failed-step-{step}.json"
        if processes.first():
            self._dump(rows, step, where)
        return UserError(f"the {what} is {value} at step {step}; lower the learning rate; the batch is in {where}")

    def _dump(self, rows: np.ndarray, step: int, file: Path) -> None:
        groups = [self.task.groups[row] for row in rows]
        batch = [{"prompt": list(g.prompt), "completions": [list(c) for c in g.completions]} for g in groups]
        storage.write_json(file, {"step": step, "rows": rows.tolist(), "groups": batch})


def _parts(sizes: Sequence[int], budget: int, packed: bool) -> list[tuple[list[int], float]]:
    """The micro-batches of this process: rows of the batch, and the weight of their loss.

    All processes do the same number of them, because they communicate in each: one with fewer repeats a row with
    weight 0.
    """
    world = processes.world()
    shares = [range(rank, len(sizes), world) for rank in range(world)]
    cut = [
        [[share[i] for i in rows] for rows in token_budget_batches((sizes[i] for i in share), budget, packed=packed)]
        for share in shares
    ]
    own = cut[processes.rank()]
    missing = max(map(len, cut)) - len(own)
    return [(rows, 1.0) for rows in own] + [([0], 0.0)] * missing


def _drift(log_probs: Tensor, batch: GroupBatch) -> tuple[float, float]:
    """Log-probability of the chosen and (mean) of the rejected completions, relative to the reference if there is one.

    Both fall under likelihood displacement (Razin et al. 2024): the margin grows, but the chosen answer suffers.
    """
    change = log_probs - batch.extra["reference"] if "reference" in batch.extra else log_probs
    others = change[:, 1:].sum(1) / batch.mask[:, 1:].sum(1).clamp(min=1)
    return change[:, 0].sum().item(), others.sum().item()
