"""Threads sleep while they wait where other processes compute."""

import os
import subprocess
import sys

import pytest

from sprec.cli import COMPUTING, app
from sprec.system.threads import always_busy, busy_cores, ticks

STAT = "cpu  {} {} {} {} 5 1 2 40 0 0\ncpu0 9 9 9 9 0 0 0 0 0 0\n"


def test_busy_cores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 ticks on two cores 3 + 1 + 2 were in processes: .6 cores; time that a hypervisor took does not count."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before, after = ticks(STAT.format(100, 10, 20, 500)), ticks(STAT.format(103, 11, 22, 514))
    assert before == (130, 638)
    assert busy_cores(before, after) == pytest.approx(0.6)
    assert busy_cores(before, before) == 0


def test_one_idle_moment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 of 20 ticks on two cores are half a core; what comes after a moment with less is not read."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    busy, idle = (5, 20), (4, 20)  # .5 and .4 cores
    assert always_busy([(0, 0), busy, (10, 40), (15, 60)])
    further = iter([(0, 0), busy, (busy[0] + idle[0], 40), (99, 60)])
    assert not always_busy(further)
    assert next(further) == (99, 60)


CHOOSE = "import os; from sprec.cli import threads; threads.choose(); print(os.environ.get('OMP_WAIT_POLICY'))"


def chosen(**more: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | more
    done = subprocess.run([sys.executable, "-c", CHOOSE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_beside_busy_processes_threads_sleep_and_what_is_set_stays() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert chosen() == "PASSIVE"
        assert chosen(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_the_commands_that_compute_exist() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names | {group.name for group in app.registered_groups} >= COMPUTING
