"""Watch a call into the package from inside: what it does to files, what it starts, how long it takes."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sprec.system.errors import UserError

PATIENCE = 10.0
"""Seconds; what takes longer hangs."""

STARTS = re.compile(r"os\.(exec|fork|forkpty|posix_spawn|spawn|system|startfile)|subprocess\.Popen|pty\.spawn")
CHANGES: dict[str, list[tuple[int, int | None]]] = {
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
    "os.link": [(0, 2), (1, 3)],
    "os.mkdir": [(0, 2)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.rmdir": [(0, 1)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
    "os.utime": [(0, 3)],
}
"""What changes files: where in the details of the event the paths are, and the open folders that they start from."""

_allowed: list[Path] = []
_strays: list[str] = []
_planted: list[bool] = []  # an audit hook cannot be taken away


def _hook(event: str, details: tuple[Any, ...]) -> None:
    if _allowed and STARTS.fullmatch(event):
        _strays.append(event)
    elif _allowed:
        _strays.extend(f"{event} {path}" for path in _changed(event, details) if _outside(path))


def _outside(path: Path) -> bool:
    return not path.is_relative_to(_allowed[0]) and "__pycache__" not in path.parts


def _changed(event: str, details: tuple[Any, ...]) -> list[Path]:
    if event == "open":
        opened, _, flags = details
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        return [_absolute(opened)] if writes and not isinstance(opened, int) else []
    paths = [_absolute(details[at], -1 if start is None else details[start]) for at, start in CHANGES.get(event, [])]
    if event == "os.symlink":  # what it leads to, too
        paths.append(Path(os.path.normpath(paths[0].parent / os.fsdecode(details[0]))))
    return paths


def _absolute(path: str | bytes | int, start: int = -1) -> Path:
    if isinstance(path, int):
        return Path(f"/proc/self/fd/{path}").readlink()
    base = Path.cwd() if start == -1 else Path(f"/proc/self/fd/{start}").readlink()
    return Path(os.path.normpath(base / os.fsdecode(path)))


@contextmanager
def in_time(seconds: float = PATIENCE) -> Iterator[None]:
    """Raise in the block when it takes too long, and after it if the block has swallowed that."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} seconds")

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, hangs)
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # pytest-timeout has a timer running
    try:
        yield
    finally:
        took = time.monotonic() - started
        signal.setitimer(signal.ITIMER_REAL, max(others - took, 0.001) if others else 0)
        signal.signal(signal.SIGALRM, handler)
    assert took < seconds


@contextmanager
def one_line_at_most(folder: Path, seconds: float = PATIENCE) -> Iterator[None]:
    """The block may only raise a UserError of one line, soon, write below the folder, and start nothing."""
    if not _planted:
        sys.addaudithook(_hook)
        _planted.append(True)
    _strays.clear()
    refusal = ""
    try:
        with in_time(seconds):
            _allowed.append(folder)
            yield
    except UserError as error:
        refusal = str(error)
    finally:
        _allowed.clear()
    assert "\n" not in refusal
    assert _strays == []
