"""Models from elsewhere: what they lack, what they bring, and what they claim to be."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_scoring import CPU, load
from torch import Tensor

from sprec.config import HuggingFace, Lora, Scratch
from sprec.engine.model.foreign import refuse_kernels
from sprec.engine.model.policy import Policy, adapt, load_huggingface, load_saved, scratch
from sprec.recommend.encoders import sentence_transformers
from sprec.system.errors import UserError
from toy_models import STYLES, save_checkpoint

Weights = dict[str, Tensor]
WHOLE = HuggingFace(path="", lora=None)


def copy_of(folder: Path, target: Path, change: Callable[[Weights], Weights]) -> HuggingFace:
    shutil.copytree(folder, target)
    weights = change(load_file(target / "model.safetensors"))
    (target / "model.safetensors").unlink()
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return WHOLE.model_copy(update={"path": str(target)})


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("style", "part", "first", "more"),
    [
        ("llama", "q_proj", "model.layers.0.self_attn.q_proj.weight, model.layers.1.self_attn.q_proj.weight", ""),
        ("qwen", "down_proj", "model.layers.0.mlp.down_proj.weight, model.layers.1.mlp.down_proj.weight", ""),
        ("gpt2", "mlp.c_fc", "transformer.h.0.mlp.c_fc.bias, transformer.h.0.mlp.c_fc.weight", "1 more"),
        ("llama", "", "lm_head.weight, model.embed_tokens.weight", "18 more"),
    ],
)
def test_missing_weights_are_named(
    style: str, part: str, first: str, more: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = copy_of(checkpoint(style), tmp_path / "model", without(part))
    with pytest.raises(UserError) as told:
        load_huggingface(settings, CPU, torch.float32)
    assert f"{tmp_path / 'model'} lacks {first}" in str(told.value)
    assert more in str(told.value)


def test_adapters_do_not_hide_what_their_base_lacks(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    settings = copy_of(checkpoint("llama"), tmp_path / "model", without("q_proj"))
    with pytest.raises(UserError, match="lacks model"):
        load_huggingface(settings.model_copy(update={"lora": Lora(r=4)}), CPU, torch.float32)


def renamed(weights: Weights) -> Weights:
    return {name.replace("q_proj", "query"): value for name, value in weights.items()}


def narrow(weights: Weights) -> Weights:
    return {name: value[:3].clone() if "q_proj" in name else value for name, value in weights.items()}


def extra(weights: Weights) -> Weights:
    return weights | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"lacks model.*q_proj.*; it has weights that its architecture does not: .*query"),
        (narrow, r"has weights of another shape: model.layers.0.self_attn.q_proj.weight, "),
        (extra, r"has weights that its architecture does not: model.layers.0.self_attn.q_proj.bias; "),
    ],
)
def test_weights_of_another_model_are_named(
    change: Callable[[Weights], Weights], message: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load_huggingface(copy_of(checkpoint("llama"), tmp_path / "model", change), CPU, torch.float32)


@pytest.mark.parametrize("style", STYLES)
def test_whole_checkpoints_load(style: str, checkpoint: Callable[[str], Path]) -> None:
    """GPT-2 ties its head to its embeddings: only one of the two is stored, as it should be."""
    assert load_huggingface(WHOLE.model_copy(update={"path": str(checkpoint(style))}), CPU, torch.float32)


def test_tied_weights_that_are_stored_twice_load(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    def doubled(weights: Weights) -> Weights:
        return weights | {"lm_head.weight": weights["transformer.wte.weight"].clone()}

    assert load_huggingface(copy_of(checkpoint("gpt2"), tmp_path / "model", doubled), CPU, torch.float32)


@pytest.mark.parametrize("change", [without("q_proj"), renamed, narrow, lambda _: {}])
def test_adapters_of_another_model_are_refused(
    change: Callable[[Weights], Weights], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = HuggingFace(path=str(checkpoint("llama")), lora=Lora(r=4))
    policy = load(checkpoint("llama"))
    policy.model = adapt(policy.model, Lora(r=4))
    policy.save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = change(load_file(file))
    file.unlink()
    save_file(weights, file)
    with pytest.raises(UserError, match=r"lacks base_model|no adapters could be loaded"):
        load_saved(tmp_path, settings, CPU, torch.float32)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records the requests to the package of kernels."""
    asked: list[object] = []

    def get_kernel(*arguments: object, **_: object) -> ModuleType:
        asked.append(arguments)
        return ModuleType("theirs")

    fake = ModuleType("kernels")
    fake.get_kernel = get_kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", fake)
    return asked


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
@pytest.mark.parametrize("below", [None, "text_config"])
def test_a_configuration_names_no_code_of_the_hub(
    key: str, below: str | None, checkpoint: Callable[[str], Path], tmp_path: Path, kernels: list[object]
) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    own = {key: "somebody/attention"}
    file.write_text(json.dumps(json.loads(file.read_text()) | (own if below is None else {below: own})))
    with pytest.raises(UserError, match=r"config.json asks for code of the hub \(.*: somebody/attention\)"):
        load_huggingface(WHOLE.model_copy(update={"path": str(tmp_path / "model")}), CPU, torch.float32)
    assert kernels == []


def test_encoders_of_titles_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "0_Transformer" / "config.json").write_text('{"_attn_implementation": "somebody/attention"}')
    with pytest.raises(UserError, match="asks for code of the hub"):
        sentence_transformers(str(tmp_path))


def test_plain_names_of_attention_pass(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_attn_implementation": "sdpa", "note": "a/b"}))
    refuse_kernels(str(tmp_path / "model"))


ABSURD: list[dict[str, Any]] = [
    {"hidden_size": -1},
    {"hidden_size": "wide"},
    {"hidden_size": 10**9},
    {"num_hidden_layers": 10**6},
    {"vocab_size": 10**10},
    {"num_attention_heads": 0},
    {"model_type": "unheard of"},
    {"hidden_act": "eval"},
    {"rope_scaling": {"type": "none such"}},
]


@pytest.mark.parametrize("change", ABSURD, ids=str)
def test_an_absurd_configuration_is_one_line_at_once(
    change: dict[str, Any], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=str(tmp_path / "model")):
        load_huggingface(WHOLE.model_copy(update={"path": str(tmp_path / "model")}), CPU, torch.float32)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ['{"a":' * 100_000 + "1" + "}" * 100_000, "", "[]", "\0", '{"model": 3}'])
def test_damaged_files_of_a_model_are_one_line(
    name: str, content: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("llama"), tmp_path / "model")
    (tmp_path / "model" / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", '{"model": 3}'):
        return  # says nothing of the tokenizer: its file does
    with pytest.raises(UserError, match=str(tmp_path / "model")):
        load_huggingface(WHOLE.model_copy(update={"path": str(tmp_path / "model")}), CPU, torch.float32)


SPECIAL = ["Mug </s> x", "<s>Begin", "<pad>", "End</s>"]


def policies(tmp_path: Path) -> list[Policy]:
    made = scratch(Scratch(hidden=16, layers=1, heads=1, vocabulary=400), SPECIAL, 0, CPU, torch.float32)
    return [made, load(save_checkpoint(tmp_path / "model", "llama"))]


def test_titles_with_special_tokens_are_text(tmp_path: Path) -> None:
    """An end token inside of a title ended the answer that names it."""
    for policy in policies(tmp_path):
        special = set(policy.tokenizer.all_special_ids)
        for title in SPECIAL:
            (answer,) = policy.encode_completions([f'"{title}"\n'])
            assert answer[-1] == policy.end
            assert not special & set(answer[:-1])
            assert policy.decode([answer]) == [f'"{title}"\n']
            (prompt,) = policy.encode_prompts([title])
            assert not special & set(prompt[1:])
