"""Text encoders of the grounding: texts in, one float32 row per text out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprec.engine.model.foreign import refuse_kernels
from sprec.engine.model.identity import commit, origin
from sprec.system.errors import UserError

_GRAMS = (2, 3, 4)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplying by it spreads nearby code points


@dataclass(frozen=True)
class Encoder:
    """A text encoder.

    Attributes:
        name: identifies the encoder in cache keys, including its weights.
        encode: texts to embeddings, float32, shape (n, d).
        alone: whether the embedding of a text depends on no other text.
    """

    name: str
    encode: Callable[[Sequence[str]], Tensor]
    alone: bool = True


def tfidf(titles: Sequence[str], width: int = 512) -> Encoder:
    """TF-IDF of character 2- to 4-grams, hashed to ``width`` columns, rows of length 1: needs no model.

    Args:
        titles: the texts whose document frequencies weight the n-grams, log((1 + n) / (1 + df)) + 1.
        width: columns; with more, fewer n-grams collide.
    """
    frequency = sum(
        ((_counts(titles[start : start + 4096], width) > 0).sum(0) for start in range(0, len(titles), 4096)),
        start=torch.zeros(width),
    )
    idf = ((1 + len(titles)) / (1 + frequency)).log() + 1

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(_counts(texts, width) * idf)

    return Encoder(f"tfidf-{width}", encode, alone=False)


def sentence_transformers(name_or_path: str, device: str | None = None) -> Encoder:
    """A sentence-transformers model, without normalisation of the embeddings (as in the research code of SPRec).

    Args:
        name_or_path: of the hub, or an absolute path.
        device: by default a GPU if there is one.

    Raises:
        UserError: the extra is not installed, the model cannot be loaded, or it asks for code from the hub.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError("this grounding encoder needs sentence-transformers: pip install 'sprec[ground]'") from error
    if Path(name_or_path).is_absolute() and not Path(name_or_path).is_dir():
        raise UserError(f"the grounding encoder {name_or_path} is not a folder")
    refuse_kernels(name_or_path)
    try:
        pinned = commit(name_or_path)
        weights = {"use_safetensors": True}
        model = SentenceTransformer(name_or_path, device=device, revision=pinned, model_kwargs=weights)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the grounding encoder {name_or_path}: {reason}") from error

    def encode(texts: Sequence[str]) -> Tensor:
        embeddings: Tensor = model.encode(list(texts), batch_size=256, convert_to_tensor=True, show_progress_bar=False)
        return embeddings.float()

    return Encoder(f"sentence-transformers:{name_or_path} {origin(name_or_path)}", encode)


def _counts(texts: Sequence[str], width: int) -> Tensor:
    """Hashed n-gram counts, shape (n, width); markers bound a text, so that its start and end are distinguished."""
    marked = [f"\x02{text.casefold()}\x03" for text in texts]
    row = np.repeat(np.arange(len(texts)), [len(text) for text in marked])
    code = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    cells = []
    for size in _GRAMS:
        inside = np.flatnonzero(row[size - 1 :] == row[: len(row) - size + 1])
        gram = np.full(len(inside), size, dtype=np.uint64)
        for offset in range(size):
            gram = (gram ^ code[inside + offset]) * _ODD
        cells.append(row[inside] * width + ((gram >> np.uint64(40)) % np.uint64(width)).astype(np.int64))
    counts = np.bincount(np.concatenate(cells), minlength=len(texts) * width) if texts else np.zeros(0)
    return torch.from_numpy(counts.reshape(len(texts), width)).float()
