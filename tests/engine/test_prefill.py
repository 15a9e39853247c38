"""Prompts read in pieces, and tokens after them, equal whole sequences; caches with room keep their content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scoring import load
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
)

from sprec.engine.decode import prefill as reading
from sprec.engine.decode.cache import RoomyCache
from sprec.engine.decode.prefill import own_tokens, prefill
from sprec.engine.layout.attention import PLAIN
from toy_models import STYLES


def ragged_prompts(shared: int) -> list[list[int]]:
    rng = np.random.default_rng(shared)
    head = rng.integers(3, 300, shared).tolist()
    lengths = [4, 31, 9, 17, 30, 2, 22]  # not sorted
    return [head + rng.integers(3, 300, length).tolist() for length in lengths]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shared", [0, 12])
def test_pieces_and_what_is_read_behind_them(
    style: str, shared: int, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, asked = load(checkpoint(style)), ragged_prompts(shared)
    behind = torch.tensor([[[5, 40], [6, 41], [7, 42]]]).repeat(len(asked), 1, 1)  # three rows of two tokens each

    def by_hand(tokens: list[int]) -> torch.Tensor:
        logits: torch.Tensor = policy.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        return logits

    for piece in (1, 70, 4096):  # a prompt alone, a few, all
        monkeypatch.setattr(reading, "CACHED", piece)
        with torch.no_grad():
            state = prefill(policy.model, asked, policy.device, 3)  # room for one step of the two
            kept = torch.tensor([6, 1, 1, 0])
            assert torch.allclose(state.logits, torch.stack([by_hand(prompt) for prompt in asked]), atol=1e-5)
            sees = torch.eye(3, dtype=torch.bool).expand(len(asked), -1, -1)
            first = state.read(behind[..., 0], torch.zeros_like(behind[..., 0]), sees)
            state.select(kept)
            second = state.read(
                behind[kept][..., 1], torch.ones_like(behind[kept][..., 1]), torch.cat([sees, sees], 2)[kept]
            )
            for row, prompt in enumerate(asked):
                for path in range(3):
                    expected = by_hand([*prompt, 5 + path])
                    assert torch.allclose(first[row, path], expected, atol=1e-5)
            for place, row in enumerate(kept.tolist()):
                for path in range(3):
                    expected = by_hand([*asked[row], 5 + path, 40 + path])
                    assert torch.allclose(second[place, path], expected, atol=1e-5)


def test_soft_caps_sliding_layers_and_shared_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capped scores are written out over the views of the cache, where the fused kernel cannot be taken.

    Gemma 4 cuts the states before layers that share keys, if it is told how many logits to keep.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 1, "sliding_window": 256,
    }  # fmt: skip
    monkeypatch.setattr(reading, "CACHED", 70)
    asked = ragged_prompts(12)
    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(Gemma2Config(**sizes, attn_logit_softcapping=0.05))
    shared = Gemma4ForCausalLM(
        Gemma4TextConfig(
            **sizes | {"num_hidden_layers": 4}, num_kv_shared_layers=2, vocab_size_per_layer_input=320,
            layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=4,
        )
    )  # fmt: skip
    for model in (capped, Gemma3ForCausalLM(Gemma3TextConfig(**sizes)), shared):
        model.set_attn_implementation(PLAIN)
        model.train(False)
        with torch.no_grad():
            state = prefill(model, asked, torch.device("cpu"), 0)  # no room: everything is copied
            alone = [model(input_ids=torch.tensor([prompt])).logits[0, -1] for prompt in asked]
            assert torch.allclose(state.logits, torch.stack(alone), atol=1e-5)
            once = torch.full((len(asked), 1), 7)
            behind = state.read(once, torch.zeros_like(once), torch.ones(len(asked), 1, 1, dtype=torch.bool))[:, 0]
            alone = [model(input_ids=torch.tensor([[*prompt, 7]])).logits[0, -1] for prompt in asked]
            assert torch.allclose(behind, torch.stack(alone), atol=1e-5)


def test_tokens_that_all_prompts_begin_with_are_nobodys_own() -> None:
    assert own_tokens(ragged_prompts(12)) == [4, 31, 9, 17, 30, 2, 22]
    assert own_tokens([[1, 2, 3]]) == [3]


def states(seed: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, columns, 4, generator=random)
    return keys, values


def test_a_cache_with_room_holds_what_it_got() -> None:
    roomy, peer = RoomyCache(5), DynamicCache()
    addresses = []
    for step, columns in enumerate((7, 2, 3, 1, 4)):
        for layer in range(2):
            found = roomy.update(*states(10 * step + layer, 3, columns), layer)
            wanted = peer.update(*states(10 * step + layer, 3, columns), layer)
            assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
        addresses.append(found[0].data_ptr())
        assert roomy.get_seq_length() == peer.get_seq_length()
    assert addresses[0] == addresses[1] == addresses[2], "five columns fit"
    assert addresses[2] != addresses[3] == addresses[4], "then all were copied once, with room for five more"
    rows = torch.tensor([2, 0])
    for cache in (roomy, peer):
        cache.batch_select_indices(rows)
    found, wanted = roomy.update(*states(1, 2, 1), 1), peer.update(*states(1, 2, 1), 1)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


def test_rows_continue_a_single_one_and_are_joined() -> None:
    template, parts = RoomyCache(0), []
    template.update(*states(0, 1, 6), 0)
    for seed, rows, columns in ((1, 2, 3), (2, 1, 5), (3, 3, 1)):
        parts.append(template.continued(0))
        keys, _ = parts[-1].update(*states(seed, rows, columns), 0)
        assert torch.equal(keys[:, :, :6], states(0, 1, 6)[0].expand(rows, -1, -1, -1))
        assert torch.equal(keys[:, :, 6:], states(seed, rows, columns)[0])
    assert template.get_seq_length() == 6
    whole = RoomyCache.joined(parts, 2)
    assert [part.get_seq_length() for part in parts] == [0, 0, 0]
    keys, values = whole.update(*states(4, 6, 2), 0)
    assert keys.shape == values.shape == (6, 2, 13, 4)
    for start, end, seed, columns in ((0, 2, 1, 3), (2, 3, 2, 5), (3, 6, 3, 1)):
        for found, own in zip((keys, values), states(seed, end - start, columns), strict=True):
            assert torch.equal(found[start:end, :, 6 : 6 + columns], own)
            assert (found[start:end, :, 6 + columns : 11] == 0).all()
    assert torch.equal(keys[:, :, 11:], states(4, 6, 2)[0])
