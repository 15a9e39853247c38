"""Attention that knows the common prefix of a batch; on CPUs two batched matrix products and a softmax.

At the lengths of this field (100 to 300 tokens) PyTorch's fused CPU kernel is 2 to 3.5 times slower than the plain
form, forward and backward (``benchmarks/``); on GPUs the fused kernels stay. Both are registered with transformers'
attention interface, so that every model that uses the interface has them.

Where the mask has more keys than there are, the missing ones are the prefix: the first columns of row 0, in front of
the own keys of every row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sprec.engine.narrow import queries_needed

PLAIN, FUSED = "sprec_plain", "sprec_fused"


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Softmax attention with grouped queries.

    Args:
        module: the attention layer; its ``training`` flag switches the dropout.
        query: (B, H, T, D).
        key: (B, H_kv, S, D).
        value: (B, H_kv, S, D).
        attention_mask: (B, 1, T, prefix + S), additive or bool (True: sees); None for causal over S keys.
        scaling: factor of the scores, 1/sqrt(D) by default.
        dropout: on the attention weights while training.

    Returns:
        (B, T, H, D), and None for the weights.
    """
    key, value = _with_prefix(key, value, attention_mask)
    whole, width = query.shape[2], queries_needed(module, query.shape[2])
    if width < whole:
        mask = _mask_or_causal(attention_mask, whole, key.shape[2], query)
        query, attention_mask = query[:, :, -width:], mask[..., -width:, :]
    batch, heads, _, size = query.shape
    kv_heads, keys = key.shape[1:3]
    share = heads // kv_heads
    grouped = (query * (scaling or size**-0.5)).reshape(batch, kv_heads, share * width, size)
    scores = (grouped @ key.transpose(2, 3)).view(batch, heads, width, keys)
    scores = scores + additive(_mask_or_causal(attention_mask, width, keys, query), query.dtype)
    weights = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    output = weights.view(batch, kv_heads, share * width, keys) @ value
    output = output.view(batch, heads, width, size).transpose(1, 2)
    return nn.functional.pad(output, (0, 0, 0, 0, whole - width, 0)).contiguous(), None


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: 0 where a query sees a key, the lowest number elsewhere."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _mask_or_causal(mask: Tensor | None, width: int, keys: int, like: Tensor) -> Tensor:
    if mask is not None:
        return mask
    return torch.ones(width, keys, dtype=torch.bool, device=like.device).tril(keys - width)


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """PyTorch's fused attention; arguments and result as in :func:`plain_attention`."""
    key, value = _with_prefix(key, value, attention_mask)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


def _with_prefix(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    prefix = 0 if mask is None else mask.shape[-1] - key.shape[2]
    if prefix <= 0:
        return key, value
    first, second = (part[:1, :, :prefix].expand(len(part), -1, -1, -1) for part in (key, value))
    return torch.cat([first, key], 2), torch.cat([second, value], 2)


AttentionInterface.register(PLAIN, plain_attention)
AttentionMaskInterface.register(PLAIN, sdpa_mask)
AttentionInterface.register(FUSED, fused_attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)


def implementation(device: torch.device) -> str:
    """The name of the attention that is fastest on this device."""
    return PLAIN if device.type == "cpu" else FUSED


def takes_prefix_row(model: nn.Module) -> bool:
    """Whether a model, possibly wrapped, computes attention by one of the functions above."""
    inner = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    return inner.config._attn_implementation in (PLAIN, FUSED)
