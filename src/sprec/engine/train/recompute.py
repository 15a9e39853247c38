"""Trading time for memory: the backward pass recomputes what is cheap instead of keeping it from the forward pass.

A decoder layer keeps three times as much for its norms, activations and attention weights as for its matrix products,
which take nearly all of its time. So the products are kept and everything else is recomputed from them (Chen et al.
2016, with the selection of Korthikanti et al. 2022). The results are the same, bit for bit.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from sprec.engine.layout.last_layer import layers_of
from sprec.engine.layout.one_row import current, laid_out

_PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""What is kept. Not the batched products of attention: attention weights are as large as everything else."""


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Inside the block all decoder layers but the last only keep products in training.

    The last layer computes few columns (:mod:`sprec.engine.layout.last_layer`) and keeps little anyway.

    Args:
        model: a causal LM, possibly wrapped. Layers that transformers cannot recompute keep everything.
    """
    chosen = [layer for layer in layers_of(model)[:-1] if isinstance(layer, GradientCheckpointingLayer)]
    again: Any = partial(checkpoint, use_reentrant=False, context_fn=_contexts)
    for layer in chosen:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, again
    try:
        yield
    finally:
        for layer in chosen:
            layer.gradient_checkpointing = False


def _contexts() -> tuple[Any, Any]:
    """The contexts of the forward pass and of the recomputation, which needs the layout of the forward pass."""
    first, again = create_selective_checkpoint_contexts(_PRODUCTS)  # type: ignore[no-untyped-call]
    return first, _as_before(again, current())


@contextmanager
def _as_before(again: Any, layout: Any) -> Iterator[None]:
    with ExitStack() as stack:
        if layout is not None:
            stack.enter_context(laid_out(layout))
        stack.enter_context(again)
        yield
