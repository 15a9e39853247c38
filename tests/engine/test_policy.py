"""Which models a policy accepts, what it generates with, and how it embeds titles."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scoring import load, ragged_groups
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from sprec.config import Scratch
from sprec.engine.layout.groups import collate
from sprec.engine.model.policy import Policy, scratch
from sprec.engine.train.scoring import token_log_probs
from sprec.system.errors import UserError
from toy_models import TITLES, make_config, save_checkpoint

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def policy_of(config: PreTrainedConfig) -> Policy:
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return Policy(model, PreTrainedTokenizerFast.__new__(PreTrainedTokenizerFast), torch.float32)


def test_the_copy_to_generate_with_has_rounded_weights_and_exact_positions() -> None:
    """A rotary frequency of .44 in bf16 is off by .001, which is a fifth of a radian after 200 tokens."""
    policy = scratch(Scratch(hidden=64, layers=1, heads=1, vocabulary=320), TITLES, 0, CPU, torch.bfloat16)
    own: Any = policy.model
    with policy.inference() as model:
        copied: Any = model
        assert {value.dtype for value in copied.parameters()} == {torch.bfloat16}
        assert copied.lm_head.weight is copied.model.embed_tokens.weight
        assert torch.equal(copied.model.rotary_emb.inv_freq, own.model.rotary_emb.inv_freq)
        assert not torch.equal(own.model.rotary_emb.inv_freq, own.model.rotary_emb.inv_freq.bfloat16().float())
    assert {value.dtype for value in own.parameters()} == {torch.float32}


def test_without_room_for_a_copy_the_model_itself_generates(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    policy = load(checkpoint("llama"), torch.bfloat16)
    monkeypatch.setattr(copy, "deepcopy", full)
    with policy.inference() as model:
        assert model is policy.model
    assert "no room for a copy of the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (MistralConfig(**SIZES, sliding_window=64, max_position_embeddings=256), 64),
        (MistralConfig(**SIZES, sliding_window=None, max_position_embeddings=256), 256),
        (Qwen2Config(**SIZES, sliding_window=64, use_sliding_window=False, max_position_embeddings=256), 256),
        (Gemma3TextConfig(**SIZES, sliding_window=48, layer_types=["sliding_attention", "full_attention"]), 48),
        (make_config("gpt2", 320), 512),
    ],
)
def test_the_context_ends_with_the_window(config: PreTrainedConfig, context: int) -> None:
    assert policy_of(config).context == context


@pytest.mark.parametrize(
    "config",
    [
        Lfm2Config(**SIZES, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
        BloomConfig(vocab_size=320, hidden_size=32, n_layer=1, n_head=2),
        FalconConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2),
        MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, state_size=4),
    ],
    ids=["convolutions", "alibi", "own attention", "recurrent"],
)
def test_layers_that_would_read_padding_are_refused(config: PreTrainedConfig, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "llama")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=r"not all layers of .* take another backbone") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_cut_its_states_is_refused() -> None:
    class Whole(LlamaForCausalLM):  # type: ignore[no-untyped-call]
        def forward(self, logits_to_keep: int | Tensor = 0, **kwargs: Any) -> Any:
            return super().forward(**kwargs)

    config: Any = make_config("llama", 320)
    config._attn_implementation = "sprec_plain"
    model = Whole(config)
    batch = collate(ragged_groups(0, 3, 2))
    with torch.no_grad(), pytest.raises(UserError, match="does not take logits_to_keep"):
        token_log_probs(model, batch, model.lm_head)


def test_titles_are_read_in_smaller_batches_once_one_did_not_fit(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    expected = policy.embed(TITLES)
    sizes: list[int] = []

    def limit(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    base: Any = policy.model
    with base.base_model.register_forward_pre_hook(limit, with_kwargs=True):
        found = policy.embed(TITLES)
    assert sizes == [12, 6, 3, 3, 3, 3]
    torch.testing.assert_close(found, expected)
    assert torch.equal(policy.embed(TITLES[:1], budget=1), policy.embed(TITLES[:1]))


def test_titles_are_read_by_the_language_model_inside_a_larger_one(checkpoint: Callable[[str], Path]) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 40},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
    )
    policy = policy_of(config)
    policy.tokenizer = load(checkpoint("llama")).tokenizer
    assert policy.context == 40
    assert policy.embed(TITLES[:3]).shape == (3, 32)
