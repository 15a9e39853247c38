"""Log-probabilities of completions, with every prompt read once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sprec.engine.backbone import Policy
from sprec.engine.groups import GroupBatch, PromptGroup, collate, token_budget_batches
from sprec.progress import bar


def token_log_probs(model: nn.Module, batch: GroupBatch) -> Tensor:
    """Log-probability of every completion token of a batch, shape (N,), float32, in the order of ``batch.token``.

    The LM head runs on the completion region only (``logits_to_keep``), which every causal LM of transformers
    supports, wrapped for several processes or not.
    """
    logits: Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.kept,
        use_cache=False,
    ).logits
    rows = logits.flatten(0, 1).index_select(0, batch.source).float()
    return -nn.functional.cross_entropy(rows, batch.token, reduction="none")


def completion_log_probs(model: nn.Module, batch: GroupBatch) -> Tensor:
    """Summed log-probability of every completion, shape (B, K), float32; 0 where a completion is missing."""
    per_token = token_log_probs(model, batch)
    sums = torch.zeros(batch.mask.numel(), dtype=per_token.dtype, device=per_token.device)
    return sums.index_add(0, batch.slot, per_token).view(batch.mask.shape)


@torch.no_grad()
def score(
    policy: Policy, groups: Sequence[PromptGroup], *, budget: int = 8192, description: str = "score"
) -> list[Tensor]:
    """Log-probabilities of all completions of all groups, without gradients and dropout.

    Args:
        groups: prompt groups; the number of completions may differ.
        budget: tokens per batch, padding included.

    Returns:
        One tensor of shape (K_i,) per group, on the CPU, in the order of ``groups``.
    """
    results: list[Tensor] = [torch.empty(0)] * len(groups)
    with policy.evaluating(), bar(description, len(groups)) as progress:
        for rows in token_budget_batches((group.tokens for group in groups), budget):
            batch = collate([groups[row] for row in rows], dtype=policy.precision).to(policy.device)
            with policy.autocast():
                values = completion_log_probs(policy.model, batch).cpu()
            for row, value in zip(rows, values, strict=True):
                results[row] = value[: len(groups[row].completions)]
            progress.advance(len(rows))
    return results
