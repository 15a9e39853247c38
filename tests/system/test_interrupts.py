"""The first signal waits for the step to end; a second one, or the time limit, does not."""

import signal
import subprocess
import sys
import time

import pytest

from sprec.system import interrupts

SCRIPT = """
import sys, time
from sprec.system import interrupts
interrupts.GRACE = float(sys.argv[1])
interrupts.install()
try:
    with interrupts.patiently():
        print("ready", flush=True)
        for _ in range(int(sys.argv[2])):
            time.sleep(0.01)
    print("not asked", flush=True)
except interrupts.Interrupted as stop:
    print("saved", flush=True)
    sys.exit(stop.code)
"""


PRODUCT = SCRIPT.replace("time.sleep(0.01)", "torch.ones(work, work) @ torch.ones(work, work)").replace(
    "print(", "import torch; work = int(sys.argv[2]); print(", 1
)
"""One call of seconds, in which no Python handler runs."""


def start(grace: float, work: int, script: str = SCRIPT) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, str(grace), str(work)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_waits_for_the_end_of_the_block(number: signal.Signals, code: int) -> None:
    process = start(grace=60, work=100)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert printed == "saved\n"
    assert errors.strip() == "stopping after this step, with a checkpoint; once more to stop at once"


def test_the_second_signal_leaves_at_once() -> None:
    process = start(grace=60, work=6000)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    process.stderr.readline()
    assert process.stderr.readline().startswith("stopping")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert time.monotonic() - started < 5


def test_patience_ends() -> None:
    process = start(grace=0.5, work=6000)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert printed == ""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_long_computation_does_not_outlast_patience(signals: int) -> None:
    process = start(grace=0.5 if signals == 1 else 60, work=7_000, script=PRODUCT)
    time.sleep(0.5)
    started = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.wait(timeout=60) == 143
    assert time.monotonic() - started < 3


def test_a_signal_while_the_program_ends_leaves_without_a_traceback() -> None:
    ending = """
import atexit, time
atexit.register(time.sleep, 60)
atexit.register(print, "ready", flush=True)
from sprec.system import interrupts
interrupts.install()
interrupts.end()
"""
    process = start(grace=60, work=1, script=ending)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 143
    assert time.monotonic() - started < 10  # a signal that comes between two handlers waits for the end of the next one


def test_nobody_asked() -> None:
    process = start(grace=60, work=1)
    assert process.communicate(timeout=30)[0] == "not asked\n"
    assert process.returncode == 0


def test_leaving_without_a_signal_is_a_termination() -> None:
    with pytest.raises(interrupts.Interrupted) as caught:
        interrupts.leave()
    assert caught.value.code == 143
    assert str(caught.value) == "SIGTERM"
