"""Progress for everything that can take over two seconds: a bar on a terminal, a line a minute elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
EVERY = 60.0
"""Seconds between two lines where there is no terminal."""


@dataclass
class Bar:
    """A running progress bar: call :meth:`advance` as work is done.

    Attributes:
        description: of the work.
        total: units of work; None if unknown.
        eta: whether the time left can be told from the pace.
        progress: what draws the bar.
        task: its number there.
        started: seconds, by the monotonic clock.
        done: units so far.
        note: shown behind the bar.
    """

    description: str
    total: float | None
    eta: bool
    progress: Progress
    task: TaskID
    started: float = field(default_factory=time.monotonic)
    done: float = 0.0
    note: str = ""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Mark ``amount`` units as done and show ``note`` (a loss, say) behind the bar."""
        self.done, self.note = self.done + amount, note or self.note
        self.progress.update(self.task, advance=amount, note=note)

    def line(self) -> str:
        """The bar as a line of text."""
        elapsed = time.monotonic() - self.started
        parts = [f"{self.done:,.0f}" if self.total is None else f"{self.done:,.0f} of {self.total:,.0f}"]
        parts.append(f"after {_duration(elapsed)}")
        if self.eta and self.total and 0 < self.done < self.total:
            parts.append(f"about {_duration(elapsed / self.done * (self.total - self.done))} left")
        return f"  {self.description}: {', '.join([*parts, self.note] if self.note else parts)}"


@contextmanager
def bar(description: str, total: float | None, *, eta: bool = True) -> Iterator[Bar]:
    """Show a bar with elapsed time and ETA while the block runs; a line a minute when stderr is not a terminal.

    Of nested bars the lines show the outermost.

    Args:
        description: of the work.
        total: units of work; None if unknown.
        eta: units take about equally long, so that the time left can be told from the pace.
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
        shown = Bar(description, total, eta, progress, progress.add_task(description, total=total, note=""))
        if not console.is_terminal:
            _watcher.watch(shown)
        try:
            yield shown
        finally:
            _watcher.forget(shown)


class _Watcher:
    """Prints a line about the outermost running bar every minute, from a daemon thread."""

    def __init__(self) -> None:
        self._running: list[Bar] = []
        self._thread = threading.Thread()

    def watch(self, shown: Bar) -> None:
        """Include a bar."""
        self._running.append(shown)
        if not self._thread.is_alive():  # never started, or lost in a fork
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()

    def forget(self, shown: Bar) -> None:
        """Leave out a bar whose work is done."""
        if shown in self._running:
            self._running.remove(shown)

    def _tell(self) -> None:
        while True:
            time.sleep(EVERY)
            for shown in self._running[:1]:
                say(shown.line())


_watcher = _Watcher()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def say(message: str) -> None:
    """Print a one-line ``message`` (a finished stage, a warning) to stderr."""
    console.print(message, soft_wrap=True, markup=False)
