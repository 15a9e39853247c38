"""Run the command line many times quickly, with faults.

A server process imports everything once and forks a child per run. Before the child starts, a fault is planted: an
audit hook counts what the child does to files of its run directory and strikes at the n-th time, or a timer kills it.
"""

import errno
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REMOVING = ("os.remove", "os.rmdir")
# Python's file operations; audit hooks do not see those of safetensors and polars, which are in Rust
WRITING = ("open", "os.rename", "os.mkdir", "os.link")


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        kind: ``none``; ``count`` file operations only; ``kill`` at operation ``at``; ``full`` from operation ``at`` on
            the disk has no space; ``late`` signal ``at`` after ``seconds``; ``small`` no file may be larger than ``at``
            bytes; ``memory`` training batches of more than ``at`` tokens do not fit.
        stage: the folder of the stage from whose beginning the seconds of ``late`` count, by default that of the run.
    """

    kind: str = "none"
    at: int = 0
    seconds: float = 0.0
    stage: str = ""


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: killed by that signal), what it printed, file operations, seconds."""

    code: int
    stdout: str
    stderr: str
    operations: int
    seconds: float


class Server:
    """The process that forks runs."""

    def __init__(self) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "POLARS_MAX_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, out: Path, *arguments: object, fault: Fault = Fault()) -> Ended:
        """Run ``sprec`` with these arguments; the fault strikes in operations on files below ``out``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = {"out": str(out), "arguments": [str(part) for part in arguments], "fault": asdict(fault)}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    import sprec.cli
    import sprec.runs

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the child was faster than _killer: there is no fault
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(_fork(task, sprec.cli.main)), file=answers, flush=True)


def _fork(task: dict[str, Any], main: Callable[[], None]) -> dict[str, Any]:
    out, fault = Path(task["out"]), Fault(**task["fault"])
    printed, errors = (out.with_name(f"{out.name}.{name}") for name in ("stdout", "stderr"))
    counted = out.with_name(out.name + ".count")
    counted.write_text("0")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        for number, place in ((1, printed), (2, errors)):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _child(task["arguments"], out, fault, counted, main)
    with _killer(child, fault):
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    code, operations = os.waitstatus_to_exitcode(status), int(counted.read_text())
    return asdict(Ended(code, printed.read_text(), errors.read_text(), operations, seconds))


@contextmanager
def _killer(child: int, fault: Fault) -> Iterator[None]:
    if fault.kind != "late":
        yield
        return

    def wait(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, max(fault.seconds, 1e-6))  # 0 would mean never

    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, fault.at))
    signal.signal(signal.SIGUSR1, wait)
    if not fault.stage:
        wait()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _child(arguments: list[str], out: Path, fault: Fault, counted: Path, main: Callable[[], None]) -> None:
    _plant(str(out), fault, counted)
    sys.argv = ["sprec", *arguments]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _plant(out: str, fault: Fault, counted: Path) -> None:
    if fault.kind == "small":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, fault.at))
    if fault.kind == "memory":
        _limit_memory(fault.at)
    if fault.stage:
        _tell_beginning(f"{out}/stages/.{fault.stage}.")
    if fault.kind not in ("count", "kill", "full"):
        return
    number, handle = 0, os.open(counted, os.O_WRONLY)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal number
        if not _touches(event, details, out):
            return
        number += 1
        if fault.kind == "count":
            os.pwrite(handle, str(number).encode(), 0)
        elif fault.kind == "kill" and number == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "full" and number >= fault.at and event not in REMOVING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(details[0]))

    sys.addaudithook(hook)


def _tell_beginning(scratch: str) -> None:
    """Signal to the server when the hidden folder of a stage is made."""

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and str(details[0]).startswith(scratch):
            os.kill(os.getppid(), signal.SIGUSR1)

    sys.addaudithook(hook)


def _limit_memory(tokens: int) -> None:
    import torch

    training: Any = importlib.import_module("sprec.engine.train.trainer")
    collate = training.collate

    def scarce(*arguments: Any, **options: Any) -> Any:
        batch = collate(*arguments, **options)
        if batch.input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("out of memory")
        return batch

    training.collate = scarce


def _touches(event: str, details: tuple[Any, ...], out: str) -> bool:
    if event in REMOVING and details[-1] != -1:  # relative to an open folder: part of the removal of a tree
        return True
    if event not in WRITING + REMOVING or not str(details[0]).startswith(out + "/"):
        return False
    return event != "open" or bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    _serve()
