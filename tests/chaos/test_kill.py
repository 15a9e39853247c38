"""Kill -9 at every file operation of a run, and at random moments: the same command ends in the same bytes."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from chaos.conftest import FULL, Record, Run, content
from chaos.harness import Ended, Fault


@pytest.fixture(scope="module")
def counted(run: Run, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run that only counts; it also shows that two runs are equal to the byte."""
    out = tmp_path_factory.mktemp("counted") / "run"
    done = run(out, fault=Fault("count"))
    assert content(out) == content(whole)
    assert done.operations > 200
    return done


def survives(run: Run, whole: Path, out: Path, *faults: Fault) -> bool:
    """Whether a run that was killed by each of the faults in turn ends as the run that was left alone."""
    ends = [run(out, fault=fault).code for fault in faults]
    last = run(out)
    same = last.code == 0 and content(out) == content(whole)
    shutil.rmtree(out)
    return same and set(ends) <= {0, -9}


PARTS = 40  # so that the full test can be run in pieces


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS) if FULL else [0])
def test_killed_at_every_file_operation(
    part: int, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record
) -> None:
    points = range(1 + part, counted.operations + 1, PARTS if FULL else counted.operations // 3)
    lost = [at for at in points if not survives(run, whole, tmp_path / "run", Fault("kill", at))]
    record("kill -9 at a file operation", len(points), len(points) - len(lost))
    assert lost == []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(10) if FULL else [0])
def test_killed_at_random_moments(
    seed: int, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record
) -> None:
    rng = random.Random(seed)
    moments = [rng.uniform(0, counted.seconds) for _ in range(5 if FULL else 1)]
    faults = [Fault("late", signal.SIGKILL, moment) for moment in moments]
    lost = [fault for fault in faults if not survives(run, whole, tmp_path / "run", fault)]
    record("kill -9 at a random moment", len(faults), len(faults) - len(lost))
    assert lost == []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(20) if FULL else [0])
def test_killed_again_while_resuming(
    seed: int, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record
) -> None:
    rng = random.Random(seed)
    faults = [Fault("kill", rng.randint(1, counted.operations)) for _ in range(3)]
    survived = survives(run, whole, tmp_path / "run", *faults)
    record("kill -9 three times in a row", 1, int(survived))
    assert survived


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] if FULL else [signal.SIGTERM])
@pytest.mark.parametrize("seed", range(4) if FULL else [0])
def test_asked_to_leave_at_random_moments(
    seed: int, number: signal.Signals, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record
) -> None:
    rng = random.Random(seed)
    tried = 5 if FULL else 1
    survived = 0
    for _ in range(tried):
        done = run(tmp_path / "run", fault=Fault("late", number, rng.uniform(0.1, counted.seconds)))
        assert done.code in (128 + number, 0), done.stderr
        assert done.seconds < counted.seconds + 30
        if done.code:
            assert done.stderr.splitlines()[-1] == f"sprec: stopped by {number.name}; the same command resumes"
        survived += survives(run, whole, tmp_path / "run")
    record(f"{number.name} at a random moment", tried, survived)
    assert survived == tried


def test_no_more_than_one_save_interval_is_lost(run: Run, counted: Ended, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, fault=Fault("kill", 100)).code == -9
    steps = [int(path.name.removeprefix("step-")) for path in out.glob("unfinished/*/step-*")]
    assert max(steps) in (8, 16, 24, 32, 40)
    assert f"resuming after step {max(steps)} of 48" in run(out).stderr
