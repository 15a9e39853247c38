"""Token ids of many texts in files, made once and mapped into memory when they are read.

A column is a folder of chunks, files of :data:`CHUNK` texts each. A chunk is one array: the lengths of its texts, then
their concatenated token ids, in the smallest type that holds them (2 bytes per token up to a vocabulary of 65,536).
Its name contains the hash of its content, which is checked when the chunk is first read, so that crashes and bad disks
are noticed: damaged chunks are made again. Several processes divide the chunks among them, and read all.
"""

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from sprec.system import processes, storage
from sprec.system.progress import bar, say

CHUNK = 8192
"""Texts of a chunk: at 215 tokens 3.5 MB."""
_MAPPED = 32
"""Number of chunks that are mapped at a time: pages that were read count as resident memory while they are mapped."""
_DIGITS = 16
_GOES_ON = "make room, the same command goes on"


class _Chunk(NamedTuple):
    """The token ids of some texts, and where those of each end."""

    tokens: np.ndarray
    ends: np.ndarray


class Column(Sequence[list[int]]):
    """The token ids of n texts, read on access.

    All processes of a run must make the same column together.

    Args:
        folder: of the chunks; its name is a key of everything that the token ids depend on.
        count: number of texts.
        encode: the token ids of a slice of the texts; called once for each missing chunk, in several threads.
        description: for the progress bar.
    """

    def __init__(
        self, folder: Path, count: int, encode: Callable[[slice], Sequence[Sequence[int]]], description: str
    ) -> None:
        self.folder, self._count, self._encode = folder, count, encode
        self._files: dict[int, Path] = {}
        self._mapped: OrderedDict[int, _Chunk] = OrderedDict()
        self._verified: set[int] = set()
        self._make_missing(description)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[row] for row in range(self._count)[index]]
        number, place = divmod(range(self._count)[index], CHUNK)
        chunk = self._chunk(number)
        start = int(chunk.ends[place - 1]) if place else 0
        tokens: list[int] = chunk.tokens[start : int(chunk.ends[place])].tolist()
        return tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """How many token ids each text has, (n,) int32."""
        lengths: np.ndarray = np.zeros(self._count, dtype=np.int32)
        for number in range(-(-self._count // CHUNK)):
            lengths[_rows(number)] = np.diff(self._chunk(number).ends, prepend=0)
        return lengths

    def _make_missing(self, description: str) -> None:
        numbers = range(-(-self._count // CHUNK))
        there = processes.by_first(self._there)
        missing = processes.share([number for number in numbers if number not in there])
        with bar(description, sum(map(self._size, missing))) as progress, ThreadPoolExecutor(os.cpu_count()) as threads:
            for number, file in zip(missing, threads.map(self._make, missing), strict=True):
                there[number] = file
                progress.advance(self._size(number))
        self._files = processes.merge(there)

    def _size(self, number: int) -> int:
        """How many texts a chunk has."""
        return len(range(self._count)[_rows(number)])

    def _there(self) -> dict[int, Path]:
        """The complete chunks of earlier processes; partial ones are removed."""
        with storage.writing(self.folder, _GOES_ON):
            self.folder.mkdir(parents=True, exist_ok=True)
            storage.sweep(self.folder)
        return {int(file.stem.partition("-")[0]): file for file in sorted(self.folder.glob("*-*.npy"))}

    def _make(self, number: int) -> Path:
        """Write a chunk, named by its content."""
        texts = self._encode(_rows(number))
        flat = np.fromiter(chain(map(len, texts), chain.from_iterable(texts)), dtype=np.int64)
        content = io.BytesIO()
        np.save(content, flat.astype(np.min_scalar_type(int(flat.max(initial=0)))))
        file = self.folder / f"{number:06d}-{sha256(content.getbuffer()).hexdigest()[:_DIGITS]}.npy"
        with storage.writing(file, _GOES_ON), storage.replacing_file(file) as scratch:
            scratch.write_bytes(content.getbuffer())
        return file

    def _chunk(self, number: int) -> _Chunk:
        """A mapped chunk; if too many are mapped, the least recently used one is released."""
        if number not in self._mapped:
            content, size = self._content(number), self._size(number)
            self._mapped[number] = _Chunk(content[size:], np.cumsum(content[:size], dtype=np.int64))
            if len(self._mapped) > _MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(number)
        return self._mapped[number]

    def _content(self, number: int) -> np.ndarray:
        """The content of a chunk, which is made again if it is damaged; this is checked once."""
        if number not in self._verified and not _is_whole(self._files[number]):
            say(f"! {self._files[number]} is damaged or missing; made again")
            self._files[number].unlink(missing_ok=True)
            self._files[number] = self._make(number)
        self._verified.add(number)
        content: np.ndarray = np.load(self._files[number], mmap_mode="r")
        return content


def _rows(number: int) -> slice:
    """The texts of a chunk."""
    return slice(number * CHUNK, (number + 1) * CHUNK)


def _is_whole(file: Path) -> bool:
    """Whether the content of a chunk has the hash in its name."""
    try:
        return storage.hash_of(file)[:_DIGITS] == file.stem.partition("-")[2]
    except OSError:
        return False
