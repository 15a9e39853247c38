"""Work in batches that several processes share, and that can be resumed batch by batch."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sprec.system import processes
from sprec.system.memory import Pieces
from sprec.system.progress import bar, say

CACHED = 4096
"""Columns that a CPU reads at once without gradients: the activations of more do not fit in its caches.

In bf16 a 2M model took 50% longer for prompts in pieces of 16,000, and scored 17% and 9% slower in pieces of 2,048 and
8,192.
"""


def wider(budget: int, sizes: Sequence[int], device: torch.device, times: int) -> int:
    """The tokens of a batch that is read without gradients.

    On a GPU a step of decoding takes about as long for many rows as for few: up to ``times`` the ``budget``, as long as
    each process has two batches. On a CPU up to half of that, as long as each process has one. What does not fit is
    done in pieces (:func:`in_batches`).

    Args:
        budget: tokens of a batch with gradients.
        sizes: tokens of each row.
        device: where they are read.
        times: the largest factor.
    """
    if device.type == "cuda":
        return max(budget, min(times * budget, sum(sizes) // (2 * processes.world())))
    padded = max(sizes, default=0) * -(-len(sizes) // processes.world())
    return max(budget, min(times // 2 * budget, padded))


def cached(budget: int, device: torch.device) -> int:
    """The tokens of a batch that is read once without gradients on a ``device``: on a CPU as many as fit in its caches.

    At most twice the ``budget``: without gradients a token takes much less memory.
    """
    return min(2 * budget, CACHED) if device.type == "cpu" else budget


def in_batches(
    batches: Sequence[list[int]],
    work: Callable[[list[int]], list[Any]],
    description: str,
    *,
    journal: Path | None = None,
    together: bool = False,
) -> list[Any]:
    """Do the work of all batches, each on one of the processes.

    Args:
        batches: row numbers; every row from 0 on is in exactly one batch.
        work: returns one JSON value per row of a batch. A batch that does not fit in memory is done in pieces.
        description: for the progress bar.
        journal: a folder that keeps finished batches until all are done.
        together: every process does every batch, because the model is sharded over them.

    Returns:
        The values in the order of the row numbers, on each process.

    Raises:
        UserError: a single row does not fit in memory.
    """
    own = list(batches) if together else processes.share(batches)
    done = Journal(journal) if journal else None
    values: dict[int, Any] = {}
    do = work if together else Pieces(work, description)  # with a sharded model all processes must do the same
    with bar(description, sum(map(len, own))) as progress:
        for rows in own:
            found = done.find(rows) if done else None
            if found is None:
                found = do(rows)
                if done:
                    done.add(rows, found)
            values |= zip(rows, found, strict=True)
            progress.advance(len(rows))
    everything = values if together else processes.merge(values)
    return [everything[row] for row in range(len(everything))]


class Journal:
    """Finished batches in files of a ``folder``, one line each; each process appends to its own file and reads all.

    A line is the hash of its JSON, then the JSON: a torn or damaged line is recognised, and its batch is done again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"batches-{processes.rank()}.jsonl"
        self._found = dict(entry for file in sorted(folder.glob("batches-*.jsonl")) for entry in _read(file))
        if self._file.exists():  # after a torn line the next one must start on a new line
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n")

    def find(self, rows: Sequence[int]) -> list[Any] | None:
        """The values of a batch of these ``rows``, None if it has not been finished."""
        return self._found.get(tuple(rows))

    def add(self, rows: Sequence[int], values: Sequence[Any]) -> None:
        """Record the ``values`` of a finished batch of ``rows``."""
        text = json.dumps([list(rows), list(values)])
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{_hash(text)} {text}\n")


def _read(file: Path) -> list[tuple[tuple[int, ...], list[Any]]]:
    entries, torn = [], 0
    for line in file.read_text("utf-8", errors="replace").splitlines():
        mark, _, text = line.partition(" ")
        if text and mark == _hash(text):
            rows, values = json.loads(text)
            entries.append((tuple(rows), values))
        elif line:
            torn += 1
    if torn:
        say(f"! {file} has torn or damaged lines ({torn}); their batches are done again")
    return entries


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
