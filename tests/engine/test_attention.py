"""Reading the common prefix of a batch once changes nothing: log-probabilities, gradients, fifty steps of training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scoring import alone, assert_same_gradients, load, ragged_groups
from transformers import Gemma2Config, Gemma2ForCausalLM

from sprec.config import Training
from sprec.engine.layout.attention import FUSED, PLAIN, fused_attention, plain_attention, takes_prefix_row
from sprec.engine.layout.groups import PromptGroup, collate
from sprec.engine.model.policy import Policy
from sprec.engine.train.scoring import completion_log_probs, score
from sprec.engine.train.stage import Objective, train
from sprec.methods import objectives
from sprec.system.errors import UserError
from toy_models import STYLES


def with_template(seed: int, count: int, completions: int, template: int = 24) -> list[PromptGroup]:
    head = np.random.default_rng(99).integers(3, 300, template).tolist()
    groups = ragged_groups(seed, count, completions)
    return [PromptGroup([*head, *group.prompt], group.completions) for group in groups]


def use(policy: Policy, attention: str) -> Policy:
    policy.model.set_attn_implementation(attention)
    return policy


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("attention", [PLAIN, FUSED])
def test_a_prefix_row_equals_whole_prompts(style: str, attention: str, checkpoint: Callable[[str], Path]) -> None:
    policy = use(load(checkpoint(style)), attention)
    groups = with_template(0, 9, 3)
    batch = collate(groups)
    assert batch.prefix == 24
    assert takes_prefix_row(policy.model)
    assert batch.with_prefix_row().input_ids.shape == (10, batch.input_ids.shape[1] - 24)
    with torch.no_grad():
        expected = [[alone(policy, group, k).item() for k in range(len(group.completions))] for group in groups]
    for found, wanted in zip(score(policy, groups), expected, strict=True):
        assert found.tolist() == pytest.approx(wanted, abs=1e-5, rel=4e-7)  # 4 units in the last place of a sum


@pytest.mark.parametrize("style", STYLES)
def test_a_prefix_row_has_the_same_gradients(style: str, checkpoint: Callable[[str], Path]) -> None:
    shared, whole = load(checkpoint(style)), use(load(checkpoint(style)), "sdpa")
    assert not takes_prefix_row(whole.model)
    batch = collate(with_template(1, 6, 4))
    weights = torch.linspace(-1, 1, batch.mask.numel()).view(batch.mask.shape)
    for policy in (shared, whole):
        (completion_log_probs(policy.model, batch, policy.head) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(shared, whole)


def losses_of_fifty_steps(policy: Policy) -> list[float]:
    groups = [group for group in with_template(2, 150, 2) if len(group.completions) == 2][:50]
    reference = torch.stack(score(policy, groups))
    objective = Objective(lambda p, b: objectives.dpo(p, b.extra["reference"], b.mask, beta=0.1))
    settings = Training(lr=1e-3, batch=4, epochs=4, warmup_steps=0)
    outcome = train(policy, groups, objective, settings, seed=0, extra={"reference": reference})
    losses = [step["loss"] for step in outcome.steps][:50]
    assert len(losses) == 50
    assert losses[-1] < losses[0] - 0.05  # it trains
    return losses


def test_fifty_steps_have_the_same_losses(checkpoint: Callable[[str], Path]) -> None:
    ours, sdpa = (losses_of_fifty_steps(use(load(checkpoint("llama")), name)) for name in (PLAIN, "sdpa"))
    assert ours == pytest.approx(sdpa, abs=1e-4)


def test_short_or_rare_prefixes_are_left_alone() -> None:
    assert collate(with_template(0, 9, 2, template=7)).prefix == 0
    assert collate(with_template(0, 1, 2)).prefix == 0  # for one prompt a separate row costs more than it saves


def test_a_prefix_longer_than_the_rest_is_cut_to_it() -> None:
    batch = collate([PromptGroup([*range(3, 80), i], ([5, 6],)) for i in range(5)])
    assert 0 < batch.prefix <= batch.input_ids.shape[1] - batch.prefix


def test_plain_attention_by_hand() -> None:
    query = torch.zeros(1, 1, 2, 1)
    value = torch.tensor([2.0, 4.0]).view(1, 1, 2, 1)
    output, _ = plain_attention(torch.nn.Identity(), query, query, value, None)
    assert output.flatten().tolist() == [2.0, 3.0]  # causal: the first sees itself, the second the mean of both


def test_without_gradients_it_is_the_same_attention() -> None:
    torch.manual_seed(0)
    query = torch.randn(6, 4, 3, 8)
    room = torch.randn(2, 6, 2, 20, 8)
    keys, values = room[:, :, :, :15]  # views of larger tensors, as in generation
    mask = torch.rand(6, 1, 3, 15) < 0.7
    mask[..., 0] = True
    layer = torch.nn.Identity().eval()
    written_out, _ = plain_attention(layer, query, keys, values, mask)
    with torch.no_grad():
        fused, _ = plain_attention(layer, query, keys, values, mask)
    scores = torch.einsum("bhtd,bhsd->bhts", query, keys.repeat_interleave(2, 1)) / 8**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = torch.einsum("bhts,bhsd->bthd", weights, values.repeat_interleave(2, 1))
    assert torch.allclose(written_out, expected, atol=1e-6)
    assert torch.allclose(fused, expected, atol=1e-6)


def test_soft_caps_are_those_of_the_model() -> None:
    config = Gemma2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, attn_logit_softcapping=0.05, query_pre_attn_scalar=1,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Gemma2ForCausalLM(config)
    model.train(False)
    ids = torch.arange(3, 23)[None]
    logits = {}
    for attention in ("eager", PLAIN):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            logits[attention] = model(input_ids=ids).logits
    model.config.attn_logit_softcapping = None
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    with torch.no_grad():
        without = model(input_ids=ids).logits
    assert torch.allclose(logits["eager"], logits[PLAIN], atol=1e-5)
    assert not torch.allclose(without, logits[PLAIN], atol=1e-4), "else the caps do nothing here"


def test_sinks_are_refused() -> None:
    states = torch.zeros(1, 1, 2, 4)
    for attention in (plain_attention, fused_attention):
        with pytest.raises(UserError, match="attention sinks"):
            attention(torch.nn.Identity(), states, states, states, None, s_aux=torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_prefix_row_on_a_gpu(checkpoint: Callable[[str], Path]) -> None:
    on_cpu, on_gpu = load(checkpoint("llama")), use(load(checkpoint("llama")), FUSED)
    on_gpu.model.to("cuda")  # type: ignore[arg-type]
    groups = with_template(3, 8, 3)
    for one, two in zip(score(on_cpu, groups), score(on_gpu, groups), strict=True):
        assert two.tolist() == pytest.approx(one.tolist(), abs=1e-3)
