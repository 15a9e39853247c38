"""SIGTERM and SIGINT: finish the step, write a checkpoint, leave; a second signal leaves at once.

Work that can save itself runs inside :func:`patiently` and asks :func:`requested` between steps. Elsewhere the first
signal already ends the process at once: finished files are complete, and the rest is made again.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

GRACE = 25.0
"""Seconds that the first signal grants: schedulers kill after 30."""
_ASKING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal, by its ``number``, asked this process to leave; what it has done so far is on the disk."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@dataclass
class _State:
    number: int = 0
    patient: int = 0
    ended: bool = False


_state = _State()


def install() -> None:
    """Handle SIGTERM and SIGINT from now on; for programs, not for libraries."""
    for number in _ASKING:
        signal.signal(number, _on_signal)
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch, args=(told,), daemon=True).start()


def end() -> None:
    """The program is done: from now on a signal ends it at once, not in the middle of someone's exit handler."""
    _state.ended = True


def _watch(told: int) -> None:
    """End the process when its time is up: a signal handler waits for a long matrix product to end, this thread not."""
    asked = 0
    while True:
        number = os.read(told, 1)[0]
        if number in _ASKING:
            asked += 1
            if asked > 1 or _state.ended:
                os._exit(128 + number)
            _leave_after(GRACE, number)


def _on_signal(number: int, _: FrameType | None) -> None:
    if _state.number or _state.ended:
        os._exit(128 + number)
    _state.number = number
    if not _state.patient:
        raise Interrupted(number)
    os.write(2, b"\nstopping after this step, with a checkpoint; once more to stop at once\n")


def _leave_after(seconds: float, number: int) -> None:
    timer = threading.Timer(seconds, os._exit, [128 + number])
    timer.daemon = True
    timer.start()


def requested() -> bool:
    """Whether a signal came and waits for the step to end."""
    return _state.number != 0


@contextmanager
def patiently() -> Iterator[None]:
    """Inside the block the first signal only sets :func:`requested`; the block calls :func:`leave` when it is ready.

    Raises:
        Interrupted: a signal came, and the block ended without calling it.
    """
    _state.patient += 1
    try:
        yield
    finally:
        _state.patient -= 1
    if _state.number:
        leave()


def leave() -> None:
    """Leave, now that everything is saved.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(_state.number or signal.SIGTERM)
