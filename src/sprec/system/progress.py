"""Progress for everything that can take over two seconds: a bar on a terminal, nothing in a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Bar:
    """A running progress bar: call :meth:`advance` as work is done."""

    progress: Progress
    task: TaskID

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Mark ``amount`` units as done and show ``note`` (a loss, say) behind the bar."""
        self.progress.update(self.task, advance=amount, note=note)


@contextmanager
def bar(description: str, total: float | None, *, eta: bool = True) -> Iterator[Bar]:
    """Show a bar with elapsed time and ETA while the block runs; silent when stderr is not a terminal.

    Args:
        description: what is done.
        total: units of it; None if unknown.
        eta: units take about equally long, so that the time left can be told from their pace.
    """
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *((TextColumn("ETA"), TimeRemainingColumn()) if eta else ()),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(description, total=total, note=""))


def say(message: str) -> None:
    """Print one line of news (a finished stage, a counted warning) to stderr."""
    console.print(message, soft_wrap=True, markup=False)
