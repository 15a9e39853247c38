"""Small random checkpoints in the styles of well-known models, tokenizer included, made on the spot."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

STYLES = ("llama", "qwen", "gpt2")

TITLES = [
    "The Nightingale",
    "Heartless",
    "Empire of Storms (Throne of Glass, #5)",
    "Heir of Fire (Throne of Glass, #3)",
    "The Hating Game",
    "A Little Princess",
    "Crooked Kingdom (Six of Crows, #2)",
    "Six of Crows (Six of Crows, #1)",
    'The "Quoted" Title',
    "Red Queen",
    "Red Rising",
    "Dune",
]


def make_config(style: str, vocabulary: int) -> PreTrainedConfig:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ends: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if style == "llama":
        return LlamaConfig(vocab_size=vocabulary, num_key_value_heads=2, **sizes, **ends)
    if style == "qwen":
        return Qwen3Config(vocab_size=vocabulary, num_key_value_heads=2, head_dim=8, **sizes, **ends)
    return GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=512, **ends)


def save_checkpoint(folder: Path, style: str, titles: list[str] = TITLES) -> Path:
    """A random model of a style with a byte-level tokenizer, in Hugging Face format."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f'"{title}"\n' for title in titles], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")  # type: ignore[no-untyped-call]
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(make_config(style, len(tokenizer)))  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(MARKER).touch()
class Config(LlamaConfig):
    model_type = "theirs"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def add_code(folder: Path, marker: Path) -> None:
    """Let a Llama bring code of its own, which makes the file ``marker`` when it runs."""
    (folder / "theirs.py").write_text(CODE.replace("MARKER", repr(str(marker))))
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "theirs"}
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (folder / "config.json").unlink()  # it may be linked elsewhere
    (folder / "config.json").write_text(json.dumps(config))
