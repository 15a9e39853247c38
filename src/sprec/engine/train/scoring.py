"""Log-probabilities of completions, with every prompt read once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sprec.engine.batches import cached, in_batches
from sprec.engine.layout.attention import takes_prefix_row, unpads
from sprec.engine.layout.groups import GroupBatch, PromptGroup, collate, common_prefix, token_budget_batches
from sprec.engine.layout.last_layer import last_columns, logits_of_last
from sprec.engine.layout.one_row import laid_out
from sprec.engine.model.policy import Policy
from sprec.engine.model.sharding import sharded
from sprec.system.errors import UserError

_ROWS = 256  # rows of logits that are float32 at a time


def token_log_probs(model: nn.Module, batch: GroupBatch, head: nn.Module) -> Tensor:
    """Log-probability of every completion token of a batch, shape (N,), float32, in the order of ``batch.token``.

    Args:
        model: a causal LM, possibly wrapped for several processes.
        batch: the groups.
        head: the LM head inside the model. It only reads the hidden states that predict completion tokens, each once:
            one row in fourteen with prompts of 200 tokens and answers of 15.
    """
    with ExitStack() as stack:
        prefix = batch.prefix if takes_prefix_row(model) else 0
        if prefix:
            batch = batch.with_prefix_row()
        if unpads(model):
            batch, layout = batch.in_one_row(prefix)
            stack.enter_context(laid_out(layout))
        stack.enter_context(_rows_of_head(head, batch.source, batch.kept))
        width = batch.input_ids.shape[1]
        stack.enter_context(last_columns(model, batch.kept, width))
        logits: Tensor = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention(),
            position_ids=batch.position_ids,
            logits_to_keep=logits_of_last(model, batch.kept, width, batch.input_ids.device),
            use_cache=False,
        ).logits
    return cast("Tensor", _LogProbs.apply(logits[0], batch.predictor, batch.token))  # type: ignore[no-untyped-call]


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of tokens under rows of logits (N, V), in float32, some rows at a time.

    With plain autograd the logits (of 4,096 tokens and 49,152 words, say) would be in memory five times: as they are,
    in float32, as log-probabilities, as their gradient, and as the gradient of the logits. Here the gradient replaces
    the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, predictor: Tensor, token: Tensor) -> Tensor:
        normaliser = torch.cat([part.float().logsumexp(-1) for part in torch.split(logits, _ROWS)])
        ctx.save_for_backward(logits, normaliser, predictor, token)
        return logits[predictor, token].float() - normaliser[predictor]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        logits, normaliser, predictor, token = ctx.saved_tensors
        mass = torch.zeros_like(normaliser).index_add_(0, predictor, gradient)
        for first in range(0, len(logits), _ROWS):
            rows = slice(first, first + _ROWS)
            part = (logits[rows].float() - normaliser[rows, None]).exp_().mul_(-mass[rows, None])
            inside = (predictor >= first) & (predictor < first + len(part))
            place = (predictor - first).clamp(0, len(part) - 1)
            logits[rows] = part.index_put_((place, token), gradient * inside, accumulate=True)
        return logits, None, None


@contextmanager
def _rows_of_head(head: nn.Module, rows: Tensor, kept: int) -> Iterator[None]:
    """Inside the block the head only sees these rows of its flattened input: (B, kept, H) becomes (1, N, H)."""

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if inputs[0].shape[1] != kept:
            raise UserError(
                "the model does not take logits_to_keep, as those of transformers do; take another backbone"
            )
        return (inputs[0].flatten(0, 1).index_select(0, rows)[None], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def completion_log_probs(model: nn.Module, batch: GroupBatch, head: nn.Module) -> Tensor:
    """Summed log-probability of every completion, shape (B, K), float32; 0 for missing completions.

    ``model``, ``batch`` and ``head`` are as in :func:`token_log_probs`.
    """
    per_token = token_log_probs(model, batch, head)
    sums = torch.zeros(batch.mask.numel() + 1, dtype=per_token.dtype, device=per_token.device)
    return sums.index_add(0, batch.slot, per_token)[:-1].view(batch.mask.shape)


def own_columns(model: nn.Module, groups: Sequence[PromptGroup]) -> list[int]:
    """Tokens that a ``model``, possibly wrapped, reads for each of the ``groups``, without their common prefix."""
    shared = common_prefix(group.prompt for group in groups) if takes_prefix_row(model) else 0
    return [group.columns - shared for group in groups]


@torch.no_grad()
def score(
    policy: Policy,
    groups: Sequence[PromptGroup],
    *,
    budget: int = 8192,
    description: str = "score",
    journal: Path | None = None,
) -> list[Tensor]:
    """Log-probabilities of all completions of all groups, without gradients and dropout.

    Args:
        policy: the model.
        groups: prompt groups; the number of completions may differ.
        budget: tokens per batch, including padding, or what a CPU reads best (:func:`cached`); the common prefix of
            the prompts is read once and does not count.
        description: for the progress bar.
        journal: a folder that keeps finished batches.

    Returns:
        One tensor of shape (K_i,) per group, on the CPU, in the order of ``groups``.
    """

    def work(rows: list[int]) -> list[list[float]]:
        batch = collate([groups[row] for row in rows], dtype=policy.precision, packed=packed).to(policy.device)
        with policy.autocast():
            values = completion_log_probs(policy.model, batch, policy.head).tolist()
        return [value[: len(groups[row].completions)] for row, value in zip(rows, values, strict=True)]

    packed = policy.packed
    batches = token_budget_batches(own_columns(policy.model, groups), cached(budget, policy.device), packed=packed)
    with policy.evaluating():
        found = in_batches(batches, work, description, journal=journal, together=sharded(policy.model))
    return [torch.tensor(values) for values in found]
