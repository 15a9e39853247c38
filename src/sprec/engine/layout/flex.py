"""FlexAttention over packed rows: all groups in one row, and a mask in blocks of 128 x 128.

A token is seen from its own column up to some last column: a prompt's by its whole group, a completion's by the rest of
that completion, the common prefix's by all. So one number per token defines the mask, and whether a block is empty,
full or mixed follows from the largest and smallest of 128 numbers; no (T, T) mask is ever made.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sprec.system.progress import say

BLOCK = 128
_KERNELS = 64
_TOLERANCE = 0.02  # relative to the norm: three times the rounding of bf16


def row_width(tokens: int) -> int:
    """Columns of a packed row of ``tokens`` tokens: whole blocks, and few different sizes.

    There are eight sizes per power of two (at most an eighth is padding), because kernels may be compiled for each
    size, and at least two blocks, because a dimension of size 1 is always compiled separately.
    """
    step = max(BLOCK, 1 << max(0, tokens.bit_length() - 4))
    return max(2 * BLOCK, -(-tokens // step) * step)


def block_mask(last: Tensor) -> BlockMask:
    """The mask of one packed row: a query sees the keys k <= query with last[k] >= query.

    Args:
        last: (T,) int, T a multiple of 128: the last column that sees each column, at least itself.
    """

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query <= last[key])

    blocks = last.view(-1, BLOCK)
    first = torch.arange(len(blocks), device=last.device) * BLOCK  # column of each block
    query, key = first[:, None], first[None]
    full = (key < query) & (blocks.amin(1)[None] >= query + BLOCK - 1)
    some = (key < query) & (blocks.amax(1)[None] >= query) | (key == query)
    return BlockMask.from_kv_blocks(*_listed(some & ~full), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=sees)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the marked blocks in each row of blocks, and the row's blocks with the marked ones first."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None = None) -> Tensor:
    """Attention over a packed row: ``query`` (1, H, T, D), ``key`` and ``value`` (1, H_kv, T, D) to (1, H, T, D).

    It is compiled on GPUs. On CPUs, for tests, it is PyTorch's plain form, which makes all T x T scores. ``scaling`` is
    the factor of the scores, 1/sqrt(D) by default; the ``mask`` is of :func:`block_mask`.
    """
    kind = query.device.type
    # rotary embeddings leave queries and keys in fp32 under autocast, and the kernel takes one type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = _compiled() if kind == "cuda" else cast("Callable[..., Tensor]", flex_attention)
    scale, grouped = scaling or query.shape[-1] ** -0.5, query.shape[1] != key.shape[1]
    with torch.autocast(kind, torch.bfloat16, enabled=False):  # autocast's state is compiled in
        return kernel(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)


@cache
def _compiled() -> Callable[..., Tensor]:
    # beyond its limit of 8 kernels, dynamo would silently use the form that makes all T x T scores
    config: Any = torch._dynamo.config
    config.recompile_limit = max(_KERNELS, config.recompile_limit)
    return cast("Callable[..., Tensor]", torch.compile(flex_attention))


@cache
def works(device: torch.device, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> bool:
    """Whether FlexAttention compiles and agrees with the fused kernels, gradients included.

    For some GPUs, head sizes and releases it does not; then groups are padded, and a line says so. Training needs the
    same kernels anyway: after two widths they are compiled for all.

    Args:
        device: of the model.
        heads: of queries.
        kv_heads: of keys and values.
        size: of a head.
        dtype: of the products.
    """
    try:
        off = torch.stack([_differences(device, heads, kv_heads, size, dtype, BLOCK * blocks) for blocks in (2, 4)])
        reason = "" if (off <= _TOLERANCE).all() else f"its results are off by {off.max().item():.1%}"
    except Exception as error:  # compilers raise all kinds of exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if reason:
        say(f"! FlexAttention does not work here ({reason}): prompt groups are padded instead of packed")
    return not reason


def _differences(device: torch.device, heads: int, kv_heads: int, size: int, dtype: torch.dtype, width: int) -> Tensor:
    """Relative differences of output and gradients from those of the fused kernels in fp32, (4,)."""
    random = torch.Generator().manual_seed(0)  # a separate one: the draws of a run must not change
    column = torch.arange(width)
    # a prefix of more than a block, then groups; the remaining columns see the prefix and themselves
    last = torch.where(column < 150, width - 1, column // 150 * 150 + 149).clamp(max=width - 1).int().to(device)
    sees = (column <= column[:, None]).to(device) & (column.to(device)[:, None] <= last)
    parts = [torch.randn(1, width, count, size, generator=random) for count in (heads, kv_heads, kv_heads, heads)]
    # strides as in a model: kernels are compiled for them, too
    query, key, value, weight = (part.to(device, dtype).transpose(1, 2) for part in parts)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        inputs = [part.detach().requires_grad_() for part in (query, key, value)]
        exact = [part.float().detach().requires_grad_() for part in (query, key, value)]
        found = attend(inputs[0], inputs[1], inputs[2], block_mask(last))
        wanted = scaled_dot_product_attention(
            exact[0], exact[1], exact[2], attn_mask=sees, enable_gqa=heads != kv_heads
        )
        founds = [found, *torch.autograd.grad(found, inputs, weight)]
        wanteds = [wanted, *torch.autograd.grad(wanted, exact, weight.float())]
    return torch.stack([(one - two).norm() / two.norm() for one, two in zip(founds, wanteds, strict=True)])
