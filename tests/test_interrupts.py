"""The first signal waits for the step, the second one and the end of patience do not."""

import signal
import subprocess
import sys
import time

import pytest

from sprec import interrupts

SCRIPT = """
import sys, time
from sprec import interrupts
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


def start(grace: float, work: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(grace), str(work)]
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


def test_nobody_asked() -> None:
    process = start(grace=60, work=1)
    assert process.communicate(timeout=30)[0] == "not asked\n"
    assert process.returncode == 0


def test_leaving_without_a_signal_is_a_termination() -> None:
    with pytest.raises(interrupts.Interrupted) as caught:
        interrupts.leave()
    assert caught.value.code == 143
    assert str(caught.value) == "SIGTERM"
