"""Two processes on a CPU (gloo) give the result of one; when one dies, the run ends in one line and can be resumed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from chaos.conftest import FULL, Record, Run, content
from chaos.harness import Fault

PLAIN = ["--set", "backbone.dropout=0", "--set", "backbone.lr=0.005", "--set", "negatives.decode=greedy"]
LINES = ("sprec: ", "sprec (process ")


PLAIN_LAUNCH = ["-m", "sprec"]
FSDP2 = [str(Path(__file__).with_name("fsdp_on_cpu.py"))]


def start(count: int, run: Run, out: Path, program: list[str]) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    toy = ["run", str(run.files / "recipe.yaml"), "--data", str(run.files / "data"), "-o", str(out), *PLAIN]
    return subprocess.Popen(
        [*launcher, *program, *toy],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=240)
    return process.returncode, errors, printed


@pytest.fixture(scope="module")
def single(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single") / "run"
    assert run(out, *PLAIN).code == 0
    return out


def losses(out: Path) -> np.ndarray:
    files = sorted(out.glob("stages/*/log.jsonl"))
    return np.array([json.loads(line)["loss"] for file in files for line in file.read_text().splitlines()])


def same_result(one: Path, two: Path) -> bool:
    """Losses within 1e-4 over more than 50 steps, the same titles, the same files."""
    titles = [(out / "stages/03-rollout-1/rollouts.jsonl").read_bytes() for out in (one, two)]
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (one, two)]
    assert len(losses(one)) > 50
    return (
        np.abs(losses(one) - losses(two)).max() < 1e-4
        and titles[0] == titles[1]
        and all(a["metrics"] == pytest.approx(b["metrics"]) for a, b in zip(*metrics, strict=True))
        and content(one).keys() == content(two).keys()
    )


@pytest.mark.timeout(300)
def test_two_processes_equal_one(run: Run, single: Path, tmp_path: Path) -> None:
    code, errors, _ = finish(start(2, run, tmp_path / "run", PLAIN_LAUNCH))
    assert code == 0, errors
    assert same_result(single, tmp_path / "run")
    assert errors.count("✓ 01-sft") == 1, "one process speaks"


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_two_processes_with_sharded_parameters_equal_one(run: Run, single: Path, tmp_path: Path) -> None:
    code, errors, printed = finish(start(2, run, tmp_path / "run", FSDP2))
    assert code == 0, errors
    assert printed.count("sharded: True") == 8, "four training stages on two processes"
    assert same_result(single, tmp_path / "run")


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
@pytest.mark.parametrize("program", [PLAIN_LAUNCH, FSDP2], ids=["ddp", "fsdp2"])
def test_a_run_of_one_process_goes_on_with_two(
    program: list[str], run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    assert run(tmp_path / "run", *PLAIN, fault=Fault("kill", 100)).code == -9
    code, errors, _ = finish(start(2, run, tmp_path / "run", program))
    assert code == 0, errors
    assert errors.count("resuming after step") == 1
    survived = same_result(single, tmp_path / "run")
    record("one process is killed, two go on", 1, int(survived))
    assert survived


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL, reason="make chaos")
@pytest.mark.parametrize("program", [PLAIN_LAUNCH, FSDP2], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_dying_process_ends_the_run_which_resumes_alone(
    victim: str, program: list[str], run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    out = tmp_path / "run"
    process = start(2, run, out, program)
    while not list(out.glob("unfinished/*/step-*")):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "RANK" in child.environ()]
    next(child for child in ranks if child.environ()["RANK"] == victim).kill()
    code, errors, _ = finish(process)
    told = [line for line in errors.splitlines() if line.startswith(LINES)]
    assert code != 0
    assert len(told) <= 1
    assert all("lost the others: one of them ended" in line for line in told)
    done = run(out, *PLAIN)
    assert done.code == 0, done.stderr
    assert "resuming after step" in done.stderr
    survived = same_result(single, out)
    record("one of two processes is killed, one goes on", 1, int(survived))
    assert survived


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_a_signal_stops_all_processes_after_the_same_step(
    run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    out = tmp_path / "run"
    process = start(2, run, out, PLAIN_LAUNCH)
    while not list(out.glob("unfinished/*/step-*")):
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    process.terminate()
    code, errors, _ = finish(process)
    assert code != 0
    assert "sprec: stopped by SIGTERM; the same command resumes" in errors.splitlines()
    assert "lost the others" not in errors
    done = run(out, *PLAIN)
    survived = done.code == 0 and same_result(single, out)
    record("SIGTERM to two processes", 1, int(survived))
    assert survived
