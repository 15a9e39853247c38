"""Recomputing changes memory and time, not a bit of the result."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sprec.config import HuggingFace, Lora, Training
from sprec.engine.layout.groups import PromptGroup, collate
from sprec.engine.layout.last_layer import layers_of
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.engine.train.recompute import recomputing
from sprec.engine.train.scoring import completion_log_probs
from sprec.engine.train.stage import Objective, train
from sprec.methods import objectives

PREFIX = list(range(10, 30))
GROUPS = [PromptGroup([*PREFIX, *range(40, 40 + n)], ([7, 8, 9], [7, 9])) for n in range(1, 9)]
SFT = Objective(lambda log_probs, _: objectives.sft(log_probs), per_token=True)
PRECISIONS = [torch.float32, torch.bfloat16]


def load(folder: Path, precision: torch.dtype, lora: Lora | None = None) -> Policy:
    torch.manual_seed(0)
    return load_huggingface(HuggingFace(path=str(folder), lora=lora), torch.device("cpu"), precision)


@pytest.mark.parametrize("style", ["llama", "qwen"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_the_same_to_the_bit(
    style: str, precision: torch.dtype, checkpoint: Callable[[str], Path]
) -> None:
    policy = load(checkpoint(style), precision)
    policy.model.train()
    found, calls = [], []
    for again in (False, True):
        counted = _counting(policy)
        batch = collate(GROUPS, dtype=precision)
        if again:
            with recomputing(policy.model), policy.autocast():
                loss = -completion_log_probs(policy.model, batch, policy.head).sum()
            torch.autograd.backward(loss)
        else:
            with policy.autocast():
                loss = -completion_log_probs(policy.model, batch, policy.head).sum()
            torch.autograd.backward(loss)
        found.append({name: value.grad for name, value in policy.trainable()})
        calls.append(counted)
        policy.model.zero_grad()
    assert calls == [[1, 1], [2, 1]], "all layers but the last one are read again"
    for name, gradient in found[0].items():
        assert gradient is not None
        other = found[1][name]
        assert other is not None
        assert torch.equal(gradient, other), name


def _counting(policy: Policy) -> list[int]:
    """How often the activation of each layer was computed, from now on."""
    counts = [0] * len(layers_of(policy.model))
    for number, layer in enumerate(layers_of(policy.model)):
        activation = layer.get_submodule("mlp.act_fn")
        activation._forward_hooks.clear()

        def count(*_: object, number: int = number) -> None:
            counts[number] += 1

        activation.register_forward_hook(count)
    return counts


@pytest.mark.parametrize("lora", [None, Lora(r=4, dropout=0.2)])
def test_a_stage_ends_with_the_same_weights(lora: Lora | None, checkpoint: Callable[[str], Path]) -> None:
    ends = []
    for recompute in (False, True):
        policy = load(checkpoint("llama"), torch.float32, lora)
        train(policy, GROUPS, SFT, Training(lr=1e-3, batch=4), seed=3, budget=256, recompute=recompute)
        ends.append(policy.state())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
