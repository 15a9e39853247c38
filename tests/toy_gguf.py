"""A small Llama with its tokenizer as a GGUF file, as llama.cpp's converter writes it."""

from collections.abc import Collection, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

_LAYERS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    checkpoint: Path,
    file: Path,
    *,
    drop: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    add: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a Llama checkpoint as GGUF, matrices quantised to Q8_0.

    Args:
        checkpoint: in Hugging Face format.
        file: to write.
        drop: GGUF names of tensors to leave out.
        rename: GGUF names to other ones.
        add: further tensors by their GGUF names.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    config = model.config
    writer = GGUFWriter(str(file), "llama")
    writer.add_name("toy")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, checkpoint)
    for name, value in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        renamed = _name(name)
        if renamed not in drop:
            _add_tensor(writer, (rename or {}).get(renamed, renamed), value.numpy(), heads)
    for name, value in (add or {}).items():
        _add_tensor(writer, name, value, None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _name(name: str) -> str:
    whole, _, kind = name.rpartition(".")
    if whole in _OTHERS:
        return f"{_OTHERS[whole]}.{kind}"
    layer, _, part = whole.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYERS[part]}.{kind}"


def _add_tensor(writer: GGUFWriter, name: str, value: np.ndarray, heads: int | None) -> None:
    if heads:  # llama.cpp rotates neighbouring numbers, transformers those half a head apart
        value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    if value.ndim == 1:
        writer.add_tensor(name, value.astype(np.float32))
        return
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(value.astype(np.float32), kind), raw_dtype=kind)


def _add_tokenizer(writer: GGUFWriter, checkpoint: Path) -> None:
    import json

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
