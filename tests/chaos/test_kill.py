"""Kill -9 at every file operation of Python, and at random moments: the same command ends in the same bytes."""

import itertools
import random
import shutil
import signal
from pathlib import Path

import pytest

from chaos.conftest import FULL, Run, differing, goes_on, resumes
from chaos.harness import Ended, Fault, Server
from chaos.records import Record
from sprec.system import storage


@pytest.fixture(scope="module")
def counted(run: Run, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run that only counts operations; it also shows that two runs are equal to the byte."""
    out = tmp_path_factory.mktemp("counted") / "run"
    done = run(out, fault=Fault("count"))
    assert differing(out, whole) == []
    assert done.operations > 200
    return done


PARTS = 40  # so that the full test can be run in pieces


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS) if FULL else [0])
def test_killed_at_every_file_operation(
    part: int, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    for at in range(1 + part, counted.operations + 1, PARTS if FULL else counted.operations // 3):
        out = tmp_path / str(at)
        with subtests.test(at=at), record.trying("kill -9 at a file operation"):
            assert goes_on(run, out, fault=Fault("kill", at)).code == -9
            resumes(run, whole, out)
            shutil.rmtree(out)


STAGES = {
    "backbone": "00-backbone",
    "SFT": "01-sft",
    "rollout": "03-rollout-1",
    "preference step": "06-prefer-1",
    "evaluation": "07-evaluate-prefer-1",
}
DRAWN = list(STAGES) if FULL else ["rollout"]


def strike(run: Run, whole: Path, out: Path, stage: str, number: int, rng: random.Random) -> Ended:
    """Run until a signal at a random moment of a stage; one that comes too late is drawn again, up to 20 times."""
    seconds = storage.read_manifest(whole / "stages" / stage)["seconds"]
    for _ in range(20):
        done = goes_on(run, out, fault=Fault("late", number, rng.uniform(0, seconds), stage))
        if not (out / "stages" / stage).exists():
            return done
        assert done.code in (0, -number, 128 + number), done.stderr
        shutil.rmtree(out)
    raise AssertionError(f"no signal came in time for {stage}")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", DRAWN)
def test_killed_at_random_moments_of_a_stage(
    stage: str, run: Run, whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    rng = random.Random(stage)
    for moment in range(10 if FULL else 1):
        out = tmp_path / str(moment)
        with subtests.test(moment=moment), record.trying(f"kill -9 at a random moment of the {stage}"):
            assert strike(run, whole, out, STAGES[stage], signal.SIGKILL, rng).code == -9
            resumes(run, whole, out)
            shutil.rmtree(out)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(20) if FULL else [0])
def test_killed_again_while_resuming(
    seed: int, run: Run, whole: Path, counted: Ended, tmp_path: Path, record: Record
) -> None:
    rng = random.Random(seed)
    ends = sorted(rng.sample(range(1, counted.operations + 1), 3))
    with record.trying("kill -9 three times in a row"):
        for before, end in itertools.pairwise([0, *ends]):  # a resumed run has all later operations to do
            assert goes_on(run, tmp_path / "run", fault=Fault("kill", end - before)).code == -9
        resumes(run, whole, tmp_path / "run")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] if FULL else [signal.SIGTERM])
@pytest.mark.parametrize("stage", DRAWN)
def test_asked_to_leave_at_random_moments(
    stage: str,
    number: signal.Signals,
    run: Run,
    whole: Path,
    counted: Ended,
    tmp_path: Path,
    record: Record,
    subtests: pytest.Subtests,
) -> None:
    rng = random.Random(stage)
    for moment in range(4 if FULL else 1):
        out = tmp_path / str(moment)
        with subtests.test(moment=moment), record.trying(f"{number.name} at a random moment"):
            done = strike(run, whole, out, STAGES[stage], number, rng)
            assert done.code == 128 + number, done.stderr
            assert done.seconds < counted.seconds + 30
            assert done.stderr.splitlines()[-1] == f"sprec: stopped by {number.name}; the same command resumes"
            resumes(run, whole, out)
            shutil.rmtree(out)


def test_no_more_than_one_save_interval_is_lost(run: Run, counted: Ended, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, fault=Fault("kill", 100)).code == -9
    steps = [int(path.name.removeprefix("step-")) for path in out.glob("unfinished/*/step-*")]
    assert max(steps) in (8, 16, 24, 32, 40)
    assert f"resuming after step {max(steps)} of 48" in run(out).stderr


def test_nothing_is_left_in_the_temporary_directory(
    run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a run that is killed in the middle of its training, nor by one that ends, nor by what uses it."""
    out, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    server = Server()
    try:
        own = Run(server, run.files)
        assert strike(own, whole, out, STAGES["backbone"], signal.SIGKILL, random.Random(0)).code == -9
        assert list(temporary.iterdir()) == []
        assert own(out).code == 0
        for asked in (("evaluate", out), ("recommend", out, "--history", "Dune", "-k", 2)):
            assert own.command(out, *asked).code == 0
    finally:
        server.close()
    assert list(temporary.iterdir()) == []
