"""When memory runs out: what such an error looks like, and how work goes on in smaller pieces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sprec.errors import UserError
from sprec.progress import say


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that a tensor did not fit, on a GPU or on the host."""
    told = any(words in str(error) for words in ("allocate memory", "out of memory"))  # compilers wrap the error
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def free() -> None:
    """Give cached blocks back, so that smaller pieces find room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Pieces:
    """Work on batches of rows, in smaller and smaller pieces once a batch did not fit in memory.

    Attributes:
        work: one value per row; it does not depend on the rows beside it.
        what: the work in the messages.
        parts: pieces of a batch so far.
    """

    work: Callable[[list[int]], list[Any]]
    what: str
    parts: int = 1

    def __call__(self, rows: list[int]) -> list[Any]:
        """The values of a batch, in order.

        Raises:
            UserError: a single row does not fit.
        """
        found = None
        while found is None:
            found = self._attempt(rows)
        return found

    def _attempt(self, rows: list[int]) -> list[Any] | None:
        try:
            return [value for piece in self._cut(rows) for value in self.work(piece)]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if self.parts >= len(rows):  # outside of the except clause, which holds the tensors of the failed attempt
            raise UserError(f"out of memory in {self.what} with one example at once; take a smaller model")
        self.parts *= 2
        say(f"! out of memory in {self.what}: going on with 1/{self.parts} of a batch at once")
        free()
        return None

    def _cut(self, rows: Sequence[int]) -> list[list[int]]:
        size = -(-len(rows) // self.parts)
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
