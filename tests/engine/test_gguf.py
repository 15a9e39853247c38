"""GGUF files become the models that transformers reads from them, or one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprec.engine.model.backbones import import_gguf
from sprec.system import storage
from sprec.system.errors import UserError
from toy_gguf import write_gguf

Make = Callable[[str], Path]


def test_logits_are_those_of_the_dequantised_model(checkpoint: Make, tmp_path: Path) -> None:
    file = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf")
    folder = import_gguf(file, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer('"Crooked Kingdom (Six of Crows, #2)"\n', return_tensors="pt")["input_ids"]
    dequantised = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="toy.gguf", dtype=torch.float32)
    imported = AutoModelForCausalLM.from_pretrained(folder)
    original = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    torch.testing.assert_close(imported(ids).logits, dequantised(ids).logits, rtol=0, atol=0)
    away = (imported(ids).logits - original(ids).logits).abs().max().item()
    assert 0 < away < 0.02, "8 bits are close to the model that was quantised, and not the same"
    assert (
        ids.tolist()
        == AutoTokenizer.from_pretrained(checkpoint("llama"))(
            '"Crooked Kingdom (Six of Crows, #2)"\n', return_tensors="pt", add_special_tokens=False
        )["input_ids"].tolist()
    )


def test_the_folder_says_what_its_weights_were(checkpoint: Make, tmp_path: Path) -> None:
    file = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf")
    folder = import_gguf(file, tmp_path / "model")
    assert storage.verify(folder) == ""
    about = storage.read_manifest(folder)
    matrices, vectors = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64) + 2 * 320 * 32, 5 * 32
    assert about["weights"] == {"Q8_0": matrices, "F32": vectors}
    assert about["gguf sha256"] == storage.hash_of(file)
    assert (about["name"], about["license"], about["source"]) == ("toy", "mit", "toy.gguf")
    text = (folder / "README.md").read_text()
    assert "from toy.gguf (SHA-256" in text
    assert (
        f"Its {matrices + vectors:,} parameters were stored there as 99.59% Q8_0 (8 bits), 0.41% F32 (32 bits)." in text
    )


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"drop": ["blk.0.attn_norm.weight"]}, r"missing keys model.layers.0.input_layernorm.weight$"),
        ({"rename": {"blk.1.ffn_up.weight": "blk.1.up.weight"}}, r"missing keys model.layers.1.mlp.up_proj.weight$"),
        ({"drop": ["output_norm.weight"]}, r"missing keys model.norm.weight$"),
    ],
)
def test_a_tensor_that_is_missing_or_renamed_is_an_error(
    checkpoint: Make, tmp_path: Path, faults: dict[str, list[str]], told: str
) -> None:
    file = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf", **faults)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=told):
        import_gguf(file, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.gguf"]


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.7.attn_norm.weight"])
def test_a_tensor_that_the_model_has_no_place_for_is_an_error(checkpoint: Make, tmp_path: Path, name: str) -> None:
    """Transformers leaves it out without a word, and the model would be another one."""
    file = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf", add={name: np.ones(32, dtype=np.float32)})
    with pytest.raises(UserError, match=f"toy.gguf cannot be imported: left over: {name}$"):
        import_gguf(file, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.gguf"]


def test_what_is_no_gguf_file_is_one_line(checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"x.gguf is not a GGUF file$"):
        import_gguf(tmp_path / "x.gguf", tmp_path / "model")
    whole = write_gguf(checkpoint("llama"), tmp_path / "toy.gguf").read_bytes()
    for length in (100, len(whole) // 2):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut.gguf (is damaged|cannot be imported): "):
            import_gguf(tmp_path / "cut.gguf", tmp_path / "model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"model exists and holds something else; choose another -o$"):
        import_gguf(tmp_path / "toy.gguf", tmp_path / "model")
