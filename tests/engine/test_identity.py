"""What a model's name stands for: content of folders, commits of the hub."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from sprec.config import HuggingFace, Recipe
from sprec.engine.model.identity import commit, origin
from sprec.runs.stages import given


def test_other_weights_in_the_same_folder_are_another_model(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(checkpoint("llama"), folder)
    shutil.copytree(folder, moved)
    before, key = origin(str(folder)), given(Recipe(backbone=HuggingFace(path=str(folder)))).key
    assert before == origin(str(moved)), "the content counts, not the place"
    assert given(Recipe(backbone=HuggingFace(path=str(moved)))).key == key
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert origin(str(folder)) != before
    assert given(Recipe(backbone=HuggingFace(path=str(folder)))).key != key


def test_a_name_of_the_hub_is_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hashes = {"main": "a" * 40, "v2": "b" * 40}
    for branch, found in hashes.items():
        refs, snapshot = tmp_path / "models--org--name/refs", tmp_path / "models--org--name/snapshots" / found
        refs.mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True)
        (refs / branch).write_text(found)
        (snapshot / "config.json").write_text("{}")
    assert commit("org/name") == hashes["main"]
    assert commit("org/name", "v2") == origin("org/name", "v2") == hashes["v2"]
    assert commit(str(tmp_path), "v2") == "v2", "a folder has no commits"
