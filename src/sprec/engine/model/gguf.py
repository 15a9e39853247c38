"""GGUF files (of llama.cpp) as models in Hugging Face format, with dequantised weights."""

import copy
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sprec.system.errors import UserError

_MAGIC = b"GGUF"


def is_gguf(path: str | Path) -> bool:
    """Whether ``path`` is a GGUF file, by its first bytes; False if it is not a file."""
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as handle:
        return handle.read(len(_MAGIC)) == _MAGIC


def convert(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model and the tokenizer of a GGUF file in Hugging Face format, float32 safetensors.

    Args:
        file: of an architecture that transformers reads from GGUF.
        folder: must exist.

    Returns:
        The file's metadata: ``name`` and ``license`` (empty if missing), and ``weights``, the number of parameters by
        their type in the file.

    Raises:
        UserError: the package gguf is missing, the file is not readable or of another architecture, or tensors are
            missing, left over, or of another shape.
    """
    about = _described(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file} cannot be imported: {(str(error).strip() or repr(error)).splitlines()[0]}") from error
    quantised, info = loaded
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        _require_none(file, key, info[key])
    _require_all_taken(file, quantised, sum(about["weights"].values()))
    for key in ("is_local", "local_files_only"):  # options of loading that must not be saved
        tokenizer.init_kwargs.pop(key, None)
    _plain(file, quantised).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return about


def require_reader() -> None:
    """Require the package that reads GGUF files.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("gguf") is None:
        raise UserError("GGUF files are read by the package gguf: pip install 'sprec[gguf]'")


def _described(file: Path) -> dict[str, Any]:
    require_reader()
    if not is_gguf(file):
        raise UserError(f"{file} is not a GGUF file")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {name: reader.get_field(f"general.{name}") for name in ("name", "license")}
        said = {name: str(field.contents()) if field else "" for name, field in fields.items()}
        types: Counter[str] = Counter()
        for tensor in reader.tensors:
            types[tensor.tensor_type.name] += int(tensor.n_elements)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{file} is damaged: {(str(error).strip() or repr(error)).splitlines()[0]}") from error
    return {**said, "weights": dict(types.most_common())}


def _require_none(file: Path, kind: str, names: Any) -> None:
    """Refuse tensors of which transformers only warns, to go on with random numbers."""
    found = sorted(str(name) for name in names)
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise UserError(f"{file} cannot be imported: {kind.replace('_', ' ')} {shown}")


def _require_all_taken(file: Path, model: PreTrainedModel, stored: int) -> None:
    """Transformers does not tell which tensors of a file its model has no place for, so their numbers are counted.

    Raises:
        UserError: the file has other numbers than the model; names the tensors that the model does not know.
    """
    taken = sum(value.numel() for value in model.parameters())
    if taken == stored:
        return
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    make: Any = TENSOR_PROCESSORS.get(model.config.model_type, TensorProcessor)
    processor = make(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    _require_none(file, "left over:", [tensor.name for tensor in GGUFReader(file).tensors if tensor.name not in known])
    raise UserError(f"{file} cannot be imported: it has {stored:,} parameters, and its architecture {taken:,}")


def _plain(file: Path, quantised: PreTrainedModel) -> PreTrainedModel:
    """The same model without the mark of quantisation, with which transformers would not save it."""
    config = copy.deepcopy(quantised.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(quantised)(config)
    try:
        model.load_state_dict(quantised.state_dict(), strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} cannot be imported: {' '.join(str(error).split())}") from error
    return model
