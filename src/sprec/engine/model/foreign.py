"""Checks of a model from elsewhere before it is used: it must bring no code, and exactly its own weights."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open

from sprec.engine.model.identity import commit
from sprec.system import storage
from sprec.system.errors import UserError

_KERNELS = ("attn_implementation", "experts_implementation")
"""Configuration keys that make transformers load code from the hub even without trust_remote_code."""


def refuse_kernels(path: str, revision: str | None = None) -> None:
    """Refuse a model whose configuration names a kernel of the hub: loading it would download and run code.

    Args:
        path: hub name or folder.
        revision: branch, tag or commit.

    Raises:
        UserError: there is one, and the message names file and key; or the configuration is not JSON.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            found = snapshot_download(path, revision=commit(path, revision), allow_patterns=["*config*.json"])
        except (OSError, ValueError):  # no such name or no network: loading it fails later and says why
            return
        folder = Path(found)
    for file in sorted(folder.rglob("*config*.json")):
        try:
            content = storage.read_json(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        for key, value in _settings(content):
            if key.removeprefix("_").removesuffix("_internal") in _KERNELS and "/" in str(value):
                raise UserError(f"{file} asks for code of the hub ({key}: {value}); remove that key")


def _settings(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys of nested JSON with their values."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.items()
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


_SIZES = ("hidden_size", "n_embd", "vocab_size")
_LAYERS = ("num_hidden_layers", "n_layer")


def require_sizes(folder: Path) -> None:
    """Refuse a model whose configuration is larger than its weights: it would fill the memory before it fails.

    Args:
        folder: of the model.

    Raises:
        UserError: it has more layers than there are weights for, or a size that no weight has.
    """
    shapes = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            shapes += [tuple(content.get_slice(name).get_shape()) for name in content.keys()]  # noqa: SIM118
    config = folder / "config.json"
    if not shapes or not config.is_file():
        return
    longest = max((size for shape in shapes for size in shape), default=0)
    for key, value in _settings(storage.read_json(config)):
        if isinstance(value, int) and value > (longest if key in _SIZES else len(shapes) if key in _LAYERS else value):
            raise UserError(f"{config}: {key}={value} is more than the weights beside it have")


def require_weights(path: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not exactly those of the architecture: missing ones would be random, others ignored.

    Args:
        path: their location.
        report: the loading info of transformers, in which tied weights stored once do not count as missing.

    Raises:
        UserError: names the first weights that are missing, of another shape or unknown.
    """
    problems = {
        "lacks": report["missing_keys"],
        "has weights of another shape:": [name for name, *_ in report["mismatched_keys"]],
        "has weights that its architecture does not:": report["unexpected_keys"],
    }
    found = [f"{what} {_named(names)}" for what, names in problems.items() if names]
    if found:
        raise UserError(f"the checkpoint {path} {'; it '.join(found)}; config.json and weights are of different models")


def require_adapters(file: Path, expected: Collection[str]) -> None:
    """Refuse a file of adapters that does not hold exactly the expected ones.

    Args:
        file: the ``adapter_model.safetensors``.
        expected: names of the adapters' weights.

    Raises:
        UserError: names the first weights that are missing or unknown.
    """
    with safe_open(file, framework="pt") as content:
        names = set(content.keys())
    wanted = set(expected)
    require_weights(
        str(file.parent), {"missing_keys": wanted - names, "mismatched_keys": [], "unexpected_keys": names - wanted}
    )


def _named(names: Collection[str], most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
