"""Grounding: from generated texts to the items whose titles are nearest in an embedding space (BIGRec, step 2)."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sprec.data import Catalog
from sprec.methods.exclusion import Excluded, nothing_excluded
from sprec.methods.ranking import allowed_places, at_places
from sprec.prompts import EMPTY_TITLE
from sprec.recommend.encoders import Encoder
from sprec.recommend.nearest import FlatIndex
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.progress import bar, say

_BATCH = 4096
_CHOICES = 4
"""Number of sets of barred items for which an index is kept."""


class _Titles:
    """Titles to search, and their items.

    The k nearest titles suffice for the k nearest items: titles are numbered by their lowest item, so a title that is
    ranked before another one has an item before all items of the other.

    Args:
        embeddings: of all titles of the catalog, float32, shape (titles, d).
        title_of_item: the index of each item's title, shape (items,).
        allowed: the items to find, ascending.
    """

    def __init__(self, embeddings: Tensor, title_of_item: np.ndarray, allowed: np.ndarray) -> None:
        titles, first, which = np.unique(title_of_item[allowed], return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.argsort(order)[which]
        chosen = titles[order]
        whole = np.array_equal(chosen, np.arange(len(embeddings)))
        self.index = FlatIndex(embeddings if whole else embeddings[torch.from_numpy(chosen)])
        self._items = allowed[np.argsort(number, kind="stable")]
        self._carriers = np.bincount(number, minlength=len(titles))

    def search(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items by (distance, item id), and squared distances, both (n, k); there are at least k."""
        found, distances = (part.cpu().numpy() for part in self.index.search(queries, min(k, len(self._carriers))))
        count = self._carriers[found].ravel()
        ends = np.cumsum(count)
        place = np.arange(ends[-1]) - np.repeat(ends - count, count)
        start = np.repeat((np.cumsum(self._carriers) - self._carriers)[found].ravel(), count)
        items, far = self._items[start + place], np.repeat(distances.ravel(), count)
        rows = np.repeat(np.arange(len(found)), count.reshape(found.shape).sum(1))
        order = np.lexsort((items, far, rows))
        best = order[np.searchsorted(rows, np.arange(len(found)))[:, None] + np.arange(k)]
        return items[best], far[best]


class Grounder:
    """Finds the top-k items of a catalog for generated texts by L2 distance of embeddings.

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
        self._embeddings = _title_embeddings(encoder, titles, cache)
        self._known: dict[bytes, _Titles] = {}

    @property
    def item_embeddings(self) -> np.ndarray:
        """Embedding of each item's title, float32, shape (items, d)."""
        embeddings: np.ndarray = self._embeddings.cpu().numpy()[self._title_of_item]
        return embeddings

    def title_of(self, item: int) -> str:
        """The title of an ``item``."""
        return self.catalog.titles[item]

    def top_k(self, texts: Sequence[str], k: int, excluded: Excluded | None = None) -> np.ndarray:
        """The items of :meth:`nearest` for ``texts``, ``k`` and ``excluded``, shape (n, k)."""
        return self.nearest(texts, k, excluded)[0]

    def nearest(self, texts: Sequence[str], k: int, excluded: Excluded | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` items nearest to each text, nearest first, ties by item id, and their distances.

        Args:
            texts: generated titles; an empty one is read as NAN. Equal texts are encoded once.
            k: items per text.
            excluded: items to leave out; nothing by default.

        Returns:
            Items, padded with -1, and L2 distances, padded with inf; both of shape (n, k).
        """
        items = len(self._title_of_item)
        without = excluded or Excluded.of(nothing_excluded(len(texts), items), items)
        enough = min(k + without.most, items - int(without.barred.sum()))
        distinct, row = _distinct([text.strip() or EMPTY_TITLE for text in texts])
        ranked, far = self._ranked(distinct, enough, without.barred)
        places = allowed_places(ranked[row], without, k)
        return at_places(ranked[row], places, -1), np.sqrt(at_places(far[row], places, np.inf))

    def _ranked(self, texts: Sequence[str], k: int, barred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` nearest items to distinct texts that are not barred, and squared distances, shape (n, k)."""
        if not texts or not k:
            return np.zeros((len(texts), k), dtype=np.int64), np.zeros((len(texts), k))
        queries = self.encoder.encode(texts).float()
        if self._embeddings.device != queries.device:
            self._embeddings, self._known = self._embeddings.to(queries.device), {}
        return self._titles(barred).search(queries, k)

    def _titles(self, barred: np.ndarray) -> _Titles:
        """The index of the items that are not barred; the last few are kept."""
        key = barred.tobytes() if barred.any() else b""
        if key not in self._known:
            others = [name for name in self._known if name]
            for name in others[: len(others) + 1 - _CHOICES]:
                del self._known[name]
            self._known[key] = _Titles(self._embeddings, self._title_of_item, np.flatnonzero(~barred))
        return self._known[key]


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct texts in order of appearance, and the index of each text among them."""
    number: dict[str, int] = {}
    which = np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)
    return list(number), which


def _title_embeddings(encoder: Encoder, titles: Sequence[str], cache: Path | None) -> Tensor:
    """Embeddings of the titles, float32 on the CPU, shape (titles, d); from the cache if it has them."""
    if cache is None:
        return _encode(encoder, titles)
    key = sha256(encoder.name.encode())
    for title in titles:
        key.update(b"\x00" + title.encode("utf-8", "surrogatepass"))
    file = cache / f"{key.hexdigest()[:32]}.safetensors"
    embeddings = _read(file, len(titles), key.hexdigest())
    if embeddings is None:
        if file.exists():
            say(f"! {file} is damaged, or of other titles; encoding the titles again")
        embeddings = _encode_new(encoder, titles, cache)
        if processes.first():
            _write(file, embeddings, key.hexdigest(), encoder, titles)
    return embeddings


def _encode_new(encoder: Encoder, titles: Sequence[str], cache: Path) -> Tensor:
    """Embeddings of the titles; those that a cached catalog shares with this one are not encoded again."""
    found: dict[bytes, Tensor] = {}
    for file in sorted(cache.glob("*.safetensors")) if encoder.alone else ():
        found |= _known_titles(file, encoder)
    names = [_title_digest(title) for title in titles]
    new = [place for place, name in enumerate(names) if name not in found]
    fresh = _encode(encoder, [titles[place] for place in new])
    if len(new) == len(titles):
        return fresh
    rows = [found.get(name) for name in names]
    for place, row in zip(new, fresh, strict=True):
        rows[place] = row
    return torch.stack([row for row in rows if row is not None])


def _known_titles(file: Path, encoder: Encoder) -> dict[bytes, Tensor]:
    """The embeddings in a cache file of this encoder, by the digest of their titles; none if it has no digests."""
    try:
        with safe_open(file, framework="pt") as content:
            about = json.loads((content.metadata() or {}).get("about", "{}"))
            if about.get("encoder") != encoder.name:
                return {}
            embeddings, digests = content.get_tensor("embeddings"), content.get_tensor("titles")
    except (SafetensorError, OSError, ValueError):
        return {}
    if about.get("sha256") != _digest(embeddings, digests, about.get("key", "")):
        return {}
    return dict(zip(map(bytes, digests.numpy()), embeddings, strict=True))


def _title_digest(title: str) -> bytes:
    return sha256(title.encode("utf-8", "surrogatepass")).digest()


def _encode(encoder: Encoder, titles: Sequence[str]) -> Tensor:
    embeddings = torch.empty(0)
    with bar("encoding titles", len(titles)) as progress:
        for start in range(0, len(titles), _BATCH):
            batch = titles[start : start + _BATCH]
            part = encoder.encode(batch).float().cpu()
            if not start:  # allocated once: a list of parts would take twice the memory
                embeddings = part.new_empty(len(titles), part.shape[1])
            embeddings[start : start + len(batch)] = part
            progress.advance(len(batch))
    return embeddings


def _read(file: Path, rows: int, key: str) -> Tensor | None:
    """The cached embeddings, or None if they are missing, damaged, or of other titles or another encoder."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            about = json.loads((content.metadata() or {}).get("about", "{}"))
            embeddings: Tensor = content.get_tensor("embeddings")
            digests = content.get_tensor("titles")
    except (SafetensorError, OSError, ValueError):
        return None
    whole = len(embeddings) == rows and about.get("sha256") == _digest(embeddings, digests, key)
    return embeddings if whole else None


def _write(file: Path, embeddings: Tensor, key: str, encoder: Encoder, titles: Sequence[str]) -> None:
    """Write the cache file, completely or not at all; several processes may do so at once, with the same content."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing_file(file) as scratch:
            digests = torch.tensor([list(_title_digest(title)) for title in titles], dtype=torch.uint8)
            about = {"encoder": encoder.name, "key": key, "sha256": _digest(embeddings, digests, key)}
            save_file({"embeddings": embeddings, "titles": digests}, scratch, {"about": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the embedding cache {file}: {error}") from error


def _digest(embeddings: Tensor, titles: Tensor, key: str) -> str:
    """The hash of embeddings together with their titles and encoder: an intact file of other titles does not match."""
    content = sha256(key.encode())
    content.update(embeddings.contiguous().numpy().data)
    content.update(titles.contiguous().numpy().data)
    return content.hexdigest()
