"""Weights come from safetensors; pickles, and code of a model, are refused unless the recipe asks for them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_scoring import CPU, load

from sprec.config import HuggingFace, Lora
from sprec.engine.model.policy import adapt, load_huggingface, load_saved
from sprec.system.errors import UserError
from toy_models import add_code


def as_pickle(folder: Path, name: str, target: str) -> None:
    torch.save(load_file(folder / name), folder / target)
    (folder / name).unlink()


def test_whole_models(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    policy = load(checkpoint("llama"))
    policy.save(tmp_path)
    as_pickle(tmp_path, "model.safetensors", "pytorch_model.bin")
    settings = HuggingFace(path=str(tmp_path), lora=None)
    with pytest.raises(UserError, match="no causal language model could be loaded from"):
        load_huggingface(settings, CPU, torch.float32)
    asked = load_huggingface(settings.model_copy(update={"allow_pickle": True}), CPU, torch.float32)
    assert all(torch.equal(value, policy.state()[name]) for name, value in asked.state().items())


def test_code_of_a_model_runs_only_when_asked(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder, marker = tmp_path / "model", tmp_path / "ran"
    load(checkpoint("llama")).save(folder)
    add_code(folder, marker)
    settings = HuggingFace(path=str(folder), lora=None)
    with pytest.raises(UserError, match=r"brings code of its own; .* --set backbone.trust_remote_code=true"):
        load_huggingface(settings, CPU, torch.float32)
    assert not marker.exists()
    asked = load_huggingface(settings.model_copy(update={"trust_remote_code": True}), CPU, torch.float32)
    assert marker.exists()
    assert type(asked.model).__name__ == "Model"


def test_adapters(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    settings = HuggingFace(path=str(checkpoint("llama")), lora=Lora(r=4))
    policy = load(checkpoint("llama"))
    policy.model = adapt(policy.model, Lora(r=4))
    policy.save(tmp_path)
    found = load_saved(tmp_path, settings, CPU, torch.float32)
    assert all(torch.equal(value, policy.state()[name]) for name, value in found.state().items())
    as_pickle(tmp_path, "adapter_model.safetensors", "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model.safetensors"):
        load_saved(tmp_path, settings, CPU, torch.float32)
