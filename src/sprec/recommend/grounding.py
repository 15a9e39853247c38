"""Grounding: generated text to the items whose titles are closest in an embedding space (BIGRec, step 2)."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sprec.data import Catalog
from sprec.methods.exclusion import nothing_excluded, require_room
from sprec.methods.ranking import first_allowed
from sprec.prompts import EMPTY_TITLE
from sprec.recommend.encoders import Encoder
from sprec.recommend.nearest import FlatIndex
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.progress import bar, say

_BATCH = 4096


class Grounder:
    """Generated texts to the top-k items of a catalog by L2 distance of embeddings.

    Args:
        encoder: the text encoder, the same for titles and generated texts.
        catalog: the items.
        cache: folder that keeps the embeddings of the titles between runs; None keeps them in memory only.

    Raises:
        UserError: the cache cannot be written.
    """

    def __init__(self, encoder: Encoder, catalog: Catalog, cache: Path | None = None) -> None:
        self.encoder, self.catalog = encoder, catalog
        titles, self._title_of_item = _distinct(catalog.titles)
        self._items_by_title = np.argsort(self._title_of_item, kind="stable")
        self._carriers = np.bincount(self._title_of_item, minlength=len(titles))
        self._titles = FlatIndex(_title_embeddings(encoder, titles, cache))

    @property
    def item_embeddings(self) -> np.ndarray:
        """Embedding of each item's title, float32, shape (items, d)."""
        embeddings: np.ndarray = self._titles.rows.cpu().numpy()[self._title_of_item]
        return embeddings

    def title_of(self, item: int) -> str:
        """The title of an item of this catalog."""
        return self.catalog.titles[item]

    def top_k(self, texts: Sequence[str], k: int, excluded: np.ndarray | None = None) -> np.ndarray:
        """The ``k`` items nearest to each text, nearest first, ties by item id, shape (n, k).

        Args:
            texts: generated titles; an empty one stands for the word NAN. Equal texts are encoded once.
            k: items per text.
            excluded: of :func:`~sprec.methods.exclusion.excluded_items`: items to leave out, shape (n, width).

        Raises:
            UserError: the catalog has fewer than ``k`` items that are not excluded.
        """
        items = len(self._title_of_item)
        without = nothing_excluded(len(texts), items) if excluded is None else excluded
        require_room(without, items, k)
        distinct, row = _distinct([text.strip() or EMPTY_TITLE for text in texts])
        most = int((without < items).sum(1).max(initial=0))
        return first_allowed(self._ranked(distinct, k + most)[row], without, k)

    def _ranked(self, texts: Sequence[str], k: int) -> np.ndarray:
        """The ``k`` nearest items of distinct texts, shape (n, k)."""
        if not texts:
            return np.zeros((0, k), dtype=np.int64)
        queries = self.encoder.encode(texts).float()
        if self._titles.rows.device != queries.device:
            self._titles = FlatIndex(self._titles.rows.to(queries.device))
        titles, distances = self._titles.search(queries, min(k, len(self._titles.rows)))
        return self._carriers_of(titles.cpu().numpy(), distances.cpu().numpy(), k)

    def _carriers_of(self, titles: np.ndarray, distances: np.ndarray, k: int) -> np.ndarray:
        """The first ``k`` items that carry the ranked titles, ordered by (distance, item id), shape (n, k).

        The k nearest titles suffice: titles are numbered by their lowest item, so every title that is ranked
        before another one has an item before all items of the other.
        """
        count = self._carriers[titles].ravel()
        ends = np.cumsum(count)
        place = np.arange(ends[-1]) - np.repeat(ends - count, count)
        start = np.repeat((np.cumsum(self._carriers) - self._carriers)[titles].ravel(), count)
        items = self._items_by_title[start + place]
        rows = np.repeat(np.arange(len(titles)), count.reshape(titles.shape).sum(1))
        order = np.lexsort((items, np.repeat(distances.ravel(), count), rows))
        first = np.searchsorted(rows, np.arange(len(titles)))
        ranked: np.ndarray = items[order[first[:, None] + np.arange(k)]]
        return ranked


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different texts in order of appearance, and for each text which of them it is."""
    number: dict[str, int] = {}
    which = np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)
    return list(number), which


def _title_embeddings(encoder: Encoder, titles: Sequence[str], cache: Path | None) -> Tensor:
    """Embeddings of the titles, float32 on the CPU, shape (titles, d); from the cache where it has them."""
    if cache is None:
        return _encode(encoder, titles)
    key = sha256(encoder.name.encode())
    for title in titles:
        key.update(b"\x00" + title.encode("utf-8", "surrogatepass"))
    file = cache / f"{key.hexdigest()[:32]}.safetensors"
    embeddings = _read(file, len(titles))
    if embeddings is None:
        if file.exists():
            say(f"! {file} is damaged; encoding the titles again")
        embeddings = _encode(encoder, titles)
        if processes.first():
            _write(file, embeddings)
    return embeddings


def _encode(encoder: Encoder, titles: Sequence[str]) -> Tensor:
    embeddings = torch.empty(0)
    with bar("encoding titles", len(titles)) as progress:
        for start in range(0, len(titles), _BATCH):
            batch = titles[start : start + _BATCH]
            part = encoder.encode(batch).float().cpu()
            if not start:  # as large as all of them, not held twice as a list of parts would be
                embeddings = part.new_empty(len(titles), part.shape[1])
            embeddings[start : start + len(batch)] = part
            progress.advance(len(batch))
    return embeddings


def _read(file: Path, rows: int) -> Tensor | None:
    """The cached embeddings, or None where they are absent or damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            embeddings: Tensor = content.get_tensor("embeddings")
            metadata = content.metadata() or {}
    except (SafetensorError, OSError):
        return None
    whole = len(embeddings) == rows and metadata.get("sha256") == _digest(embeddings)
    return embeddings if whole else None


def _write(file: Path, embeddings: Tensor) -> None:
    """Write the cache file whole or not at all; several processes may do so at once, and find the same."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing_file(file) as scratch:
            save_file({"embeddings": embeddings}, scratch, {"sha256": _digest(embeddings)})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the embedding cache {file}: {error}") from error


def _digest(embeddings: Tensor) -> str:
    return sha256(embeddings.contiguous().numpy().data).hexdigest()
