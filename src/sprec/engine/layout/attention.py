"""Attention that knows the common prefix of a batch; on CPUs it trains with two batched products and a softmax.

At usual lengths (100 to 300 tokens) the backward pass of PyTorch's fused CPU kernel is 4 to 8 times slower than the
plain form, its forward pass two to four times as fast, so generation uses it (``benchmarks/``). GPUs use the fused
kernels, and FlexAttention for packed rows. All are registered with transformers' attention interface, for every model
that uses it.

If the mask has more keys than are given, the missing ones are the prefix: the first columns of row 0, which come before
the keys of every row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sprec.engine.layout.flex import attend, works
from sprec.engine.layout.last_layer import queries_needed
from sprec.engine.layout.one_row import layout_of
from sprec.system.errors import UserError

PLAIN, FUSED, FLEX = "sprec_plain", "sprec_fused", "sprec_flex"
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that see some of the columns, and the setting with their number."""


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
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
        softcap: bounds the scores to (-softcap, softcap) by a tanh (Gemma 2).
        s_aux: sinks of the softmax (gpt-oss); not implemented.

    Returns:
        (B, T, H, D), and None for the weights.

    Raises:
        UserError: the model has sinks; ignoring them would give wrong numbers.
    """
    if s_aux is not None:
        raise UserError("models with attention sinks are not supported; take another backbone")
    whole, width = query.shape[2], queries_needed(module, query.shape[2])
    layout = layout_of(query)
    if layout is not None:
        width = layout.kept if width < whole else layout.place.shape[1]
        query, key, value = layout.attended(query, key, value, width)
    else:
        key, value = _with_prefix(key, value, attention_mask)
        query = query[:, :, whole - width :]
    mask = _mask_or_causal(attention_mask, whole, key.shape[2], query)
    mask = additive(mask[..., mask.shape[-2] - width :, :], query.dtype)
    scaling = scaling or query.shape[3] ** -0.5
    # the reference's scores must be computed as in training: with other rounding DPO's first loss would not be ln 2
    if layout is None and softcap is None and not torch.is_grad_enabled():
        output = _fused(query, key, value, mask, scaling)
    else:
        scores = _scores(query * scaling, key)
        if softcap is not None:
            scores = (scores / softcap).tanh() * softcap
        weights = nn.functional.dropout((scores + mask).softmax(-1), dropout, module.training)
        output = _weighted(weights, value)
    if layout is not None:
        return layout.collect(output), None
    output = nn.functional.pad(output.transpose(1, 2), (0, 0, 0, 0, whole - width, 0))
    return output.contiguous(), None


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Products of queries (B, H, T, D) and keys (B, H_kv, S, D): (B, H, T, S)."""
    return (_grouped(query, key) @ key.transpose(2, 3)).view(*query.shape[:3], -1)


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    """Sums of values (B, H_kv, S, D) with weights (B, H, T, S): (B, H, T, D)."""
    return (_grouped(weights, value) @ value).view(*weights.shape[:3], -1)


def _grouped(rows: Tensor, shared: Tensor) -> Tensor:
    """The rows of the heads that share keys or values, concatenated, (B, H_kv, H/H_kv * T, X)."""
    return rows.reshape(len(rows), shared.shape[1], -1, rows.shape[3])


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """PyTorch's kernel; its forward pass is two to four times as fast as the plain form (CPU)."""
    grouped = query.shape[1] != key.shape[1]
    return nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool ``mask`` in the form to add to scores: 0 where a query sees a key, else the lowest number of ``dtype``."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _mask_or_causal(mask: Tensor | None, width: int, keys: int, like: Tensor) -> Tensor:
    if mask is not None:
        return mask
    return torch.ones(width, keys, dtype=torch.bool, device=like.device).tril(keys - width)


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """PyTorch's fused attention, without soft caps.

    ``module``, ``query``, ``key``, ``value``, ``attention_mask`` and the result are as in :func:`plain_attention`.

    Raises:
        UserError: the model has sinks or soft caps.
    """
    if kwargs.get("s_aux") is not None or kwargs.get("softcap") is not None:
        raise UserError("models with attention sinks or soft caps are not supported here; take another backbone")
    key, value = _with_prefix(key, value, attention_mask)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


def _with_prefix(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    prefix = 0 if mask is None else mask.shape[-1] - key.shape[2]
    if prefix <= 0:
        return key, value
    first, second = (part[:1, :, :prefix].expand(len(part), -1, -1, -1) for part in (key, value))
    return torch.cat([first, key], 2), torch.cat([second, value], 2)


def flexible_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """FlexAttention for packed rows, whose ``attention_mask`` is a block mask; :func:`fused_attention` for others.

    ``module``, ``query``, ``key``, ``value``, ``scaling``, ``dropout`` and result are as in :func:`plain_attention`.

    Raises:
        ValueError: packed rows with dropout or soft caps.
        UserError: see :func:`fused_attention`.
    """
    if not isinstance(attention_mask, BlockMask):
        return fused_attention(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    if dropout or kwargs.get("softcap") is not None:
        raise ValueError("packed rows have neither dropout nor soft caps on attention weights")
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


for _name, _function in ((PLAIN, plain_attention), (FUSED, fused_attention), (FLEX, flexible_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)


def implementation(device: torch.device) -> str:
    """The name of the fastest attention for a model on this ``device``."""
    if device.type == "cuda":  # not cuDNN, which plans for every new shape, and each step of decoding has one
        torch.backends.cuda.enable_cudnn_sdp(False)
    return {"cpu": PLAIN, "cuda": FLEX}.get(device.type, FUSED)


def takes_prefix_row(model: nn.Module) -> bool:
    """Whether a ``model``, possibly wrapped, computes attention by one of the functions above."""
    return _inner(model).config._attn_implementation in (PLAIN, FUSED, FLEX)


def unpads(model: nn.Module) -> bool:
    """Whether a ``model``, possibly wrapped, reads a batch in one row (:mod:`sprec.engine.layout.one_row`).

    Not if a layer other than attention looks at neighbours in a row (:func:`attends`).
    """
    inner = _inner(model)
    return bool(inner.config._attn_implementation == PLAIN and inner._supports_sdpa and attends(inner))


def attends(model: nn.Module) -> bool:
    """Whether all layers of a ``model`` mix columns only by attention, in a function that can be replaced.

    Convolutional and recurrent layers would read padding, other completions and other groups, and a model's own
    attention does not know where the common prefix is.
    """
    inner = _inner(model)
    kinds = set(getattr(inner.config.get_text_config(), "layer_types", None) or ())
    return bool(inner._supports_attention_backend and not inner._is_stateful and kinds <= {"full_attention", *_WINDOWS})


def window(config: Any) -> int | None:
    """The number of tokens that every layer sees; None if unlimited.

    Args:
        config: of the decoder (``get_text_config()``).
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # older architectures have sliding windows in all layers or in none
        kinds = ["sliding_attention"] if getattr(config, "use_sliding_window", True) else []
    found = (getattr(config, _WINDOWS[kind], None) for kind in set(kinds) & set(_WINDOWS))
    return min(filter(None, found), default=None)


def packs(model: nn.Module, precision: torch.dtype) -> bool:
    """Whether a ``model``, possibly wrapped, reads packed rows in this ``precision``, with FlexAttention.

    Not if the architecture takes no block masks, if its attention has soft caps or sinks (which the fused kernels lack,
    too), or if it has dropout on attention weights.
    """
    inner = _inner(model)
    config: Any = inner.config.get_text_config()
    if inner.config._attn_implementation != FLEX or not (inner._supports_flex_attn and inner._supports_sdpa):
        return False
    if getattr(config, "attention_dropout", 0.0):
        return False
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return works(next(inner.parameters()).device, heads, kv_heads, size, precision)


def _inner(model: nn.Module) -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))
