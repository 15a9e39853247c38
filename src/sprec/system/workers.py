"""Processes of one machine that divide work among them: each with its share of the cores, and one of the GPUs."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.program import program

_PAUSE = 0.5
"""Seconds between two looks at the workers."""


def divide(count: int, folder: Path, look: Callable[[], None], work: Callable[..., Any], *arguments: Any) -> None:
    """Call the same function in several processes, and return when all of them have returned.

    Args:
        count: of processes.
        folder: for their logs, ``worker-1.log`` and so on.
        look: called repeatedly meanwhile.
        work: a function of a module, which skips what another process is working on.
        arguments: of ``work``.

    Raises:
        UserError: one of them failed; contains its last words. The others have been stopped.
    """
    with storage.writing(folder, "choose another -o"):
        folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{number}.log" for number in range(1, count + 1)]
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = []
    tasks: list[Connection] = []
    try:
        for number, log in enumerate(logs):
            receive, send = context.Pipe(duplex=False)
            worker: BaseProcess = context.Process(target=_enter, args=(number + 1, log, receive), daemon=True)
            with _environment(_share(number, count)), _without_interrupts():
                worker.start()
                workers.append(worker)
            receive.close()
            tasks.append(send)
        for task in tasks:  # only now: sending blocks until the worker has imported everything
            with suppress(BrokenPipeError), task:
                task.send((work, arguments))
        while any(worker.is_alive() for worker in workers):
            _check(workers, logs)
            look()
            time.sleep(_PAUSE)
        _check(workers, logs)
        look()
    finally:
        for worker in workers:
            worker.terminate()  # harmless where the worker has already ended
        for worker in workers:
            worker.join()


def _share(number: int, count: int) -> Mapping[str, str]:
    """The environment of a worker: what the user has set stays."""
    import torch  # here, so that workers start quickly

    share = {
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count)),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the output goes to a file
        "TRANSFORMERS_VERBOSITY": "error",
    } | dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return share | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which a terminal sends to all: the parent stops them instead.

    The parent itself gets it at the end of the block: a half-started worker would complain that its pipe is closed.
    """
    resource_tracker.ensure_running()  # otherwise the first worker starts it, and Ctrl-C gets through again
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    own = signal.getsignal(signal.SIGINT)  # the handler runs in this thread whichever one receives the signal
    here = threading.current_thread() is threading.main_thread() and callable(own)
    if here:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if here:
            signal.signal(signal.SIGINT, own)
        if came and callable(own):
            own(signal.SIGINT, None)


def _enter(number: int, log: Path, task: Connection) -> None:
    """Entry point of a worker."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_follow, daemon=True).start()

    def begin() -> None:
        work, arguments = task.recv()
        work(*arguments)

    program(f"worker {number}", begin)


def _follow() -> None:
    """End when the parent does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _check(workers: list[BaseProcess], logs: list[Path]) -> None:
    """Complain if a worker has failed.

    Raises:
        UserError: its last words.
    """
    for worker, log in zip(workers, logs, strict=True):
        if worker.exitcode:
            said = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
            last = said[-1] if said and said[-1].startswith("worker ") else f"a worker ended with {worker.exitcode}"
            raise UserError(f"{last} (more in {log})")
