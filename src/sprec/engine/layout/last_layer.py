"""The last decoder layer, computed only where its states are used.

After the last layer only the states that predict completion tokens are used: one in fourteen with prompts of 200 tokens
and answers of 15. The other columns still need keys and values there, but no query, output projection or feed-forward
network, which have about five sixths of a layer's weights. The results are the same; a model of L layers saves up to
5/(6 L) of its products in scoring, in training and when it reads prompts.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_ROW_WISE = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj")
"""Parts of a decoder layer that treat every column separately, as named by Llama, Qwen, Gemma, Mistral, GPT-2 and
others. A layer without them is computed completely."""
_WORTHWHILE = 0.75  # with a larger share of the columns cutting costs more than it saves
_QUERIES = "sprec_queries"


@contextmanager
def last_columns(model: nn.Module, kept: int, width: int) -> Iterator[None]:
    """Inside the block the states after the last layer are valid only for the last ``kept`` of ``width`` columns.

    Args:
        model: a causal LM, possibly wrapped.
        kept: trailing columns whose states are used.
        width: columns of the forward pass in the block.
    """
    layer = next(reversed(layers_of(model)), None)
    if layer is None or kept > _WORTHWHILE * width:
        yield
        return

    def cut(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, -kept:].contiguous(), *inputs[1:])

    def fill(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # mixtures of experts return their routing, too
            return (_filled(output[0], width), *output[1:])
        return _filled(output, width)

    with ExitStack() as stack:
        for part in filter(None, (_part(layer, name) for name in _ROW_WISE)):
            stack.callback(part.register_forward_pre_hook(cut).remove)
            stack.callback(part.register_forward_hook(fill).remove)
        attention = _part(layer, "self_attn")
        if attention is not None:
            setattr(attention, _QUERIES, kept)
            stack.callback(delattr, attention, _QUERIES)
        yield


def logits_of_last(model: nn.Module, kept: int, width: int, device: torch.device) -> int | Tensor:
    """``logits_to_keep`` of a ``model`` for the last ``kept`` of ``width`` columns, 0 for all of them.

    If layers share keys (Gemma 4) it is the columns' indices, on the ``device``: given a count, the model would cut the
    states before those layers, which does not fit the masks and layouts here.
    """
    inner: Any = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    if kept and getattr(inner.config.get_text_config(), "num_kv_shared_layers", 0):
        return torch.arange(width - kept, width, device=device)
    return kept


def queries_needed(attention: nn.Module, width: int) -> int:
    """How many trailing queries of an ``attention`` layer are used: ``width`` outside :func:`last_columns`."""
    return min(width, getattr(attention, _QUERIES, width))


def _filled(states: Tensor, width: int) -> Tensor:
    """States of the last columns after zeros: the shape must fit the residual stream."""
    return nn.functional.pad(states, (0, 0, width - states.shape[1], 0))


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a causal LM; none if they cannot be told from other parts.

    Args:
        model: the causal LM, possibly wrapped.
    """
    inner: Any = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    decoder = inner.get_decoder()
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)] if decoder is not None else []
    return list(stacks[0]) if len(stacks) == 1 else []


def _part(layer: nn.Module, name: str) -> nn.Module | None:
    part: Any = layer
    for step in name.split("."):
        part = getattr(part, step, None)
    return part if isinstance(part, nn.Module) else None
