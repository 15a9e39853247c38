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

from chaos.conftest import FULL, Run, content, finished, goes_on
from chaos.harness import Fault
from chaos.records import Record

PLAIN = ["--set", "backbone.dropout=0", "--set", "backbone.lr=0.005", "--set", "negatives.decode=greedy"]
LINES = ("sprec: ", "sprec (process ")


TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
DDP = [*TWO, "-m", "sprec"]
FSDP2 = [*TWO, str(Path(__file__).with_name("fsdp_on_cpu.py"))]
WAYS = pytest.mark.parametrize("program", [DDP, FSDP2], ids=["ddp", "fsdp2"])


def start(run: Run, out: Path, program: list[str]) -> "subprocess.Popen[str]":
    toy = ["run", str(run.files / "recipe.yaml"), "--data", str(run.files / "data"), "-o", str(out), *PLAIN]
    return subprocess.Popen(
        [*program, *toy],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[str]", patience: float = 240) -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=patience)
    return process.returncode, errors, printed


def accelerate_launch(name: str, run: Run, folder: Path) -> list[str]:
    """The beginning of a command that starts two processes by one of our launcher configurations."""
    file = folder / f"{name}.yaml"
    assert run.command(folder / "copied", "recipes", "cp", f"accelerate/{name}", file).code == 0
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    return [*launch, "--num_processes", "2", "--main_process_port", "0"]


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


def run_like_one(run: Run, single: Path, out: Path, program: list[str], patience: float = 240) -> str:
    """The output of a run of several processes; it must end like the run of one, and only one process prints."""
    code, errors, printed = finish(start(run, out, program), patience)
    assert code == 0, errors
    assert same_result(single, out)
    assert errors.count("✓ 01-sft") == 1
    return printed


@pytest.mark.timeout(300)
def test_two_processes_equal_one(run: Run, single: Path, tmp_path: Path) -> None:
    run_like_one(run, single, tmp_path / "run", DDP)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_two_processes_with_sharded_parameters_equal_one(run: Run, single: Path, tmp_path: Path) -> None:
    printed = run_like_one(run, single, tmp_path / "run", FSDP2)
    assert printed.count("sharded: True") == 8, "four training stages on two processes"


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_two_processes_of_accelerate_launch_equal_one(run: Run, single: Path, tmp_path: Path) -> None:
    run_like_one(run, single, tmp_path / "run", [*accelerate_launch("cpu", run, tmp_path), "-m", "sprec"])


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_two_processes_of_deepspeed_equal_one(
    run: Run, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed compiles an extension for the CPU when it is first used: that takes minutes and a C++ compiler."""
    pytest.importorskip("deepspeed", reason="pip install deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    program = [*accelerate_launch("deepspeed-zero2", run, tmp_path), str(Path(__file__).with_name("zero2_on_cpu.py"))]
    printed = run_like_one(run, single, tmp_path / "run", program, patience=500)
    assert printed.count("ZeRO stage: 2") == 8, "four training stages on two processes"


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
@WAYS
def test_a_run_of_one_process_goes_on_with_two(
    program: list[str], run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    out = tmp_path / "run"
    with record.trying("one process is killed, two go on"):
        assert run(out, *PLAIN, fault=Fault("kill", 100)).code == -9
        before = finished(out)
        code, errors, _ = finish(start(run, out, program))
        assert code == 0, errors
        assert errors.count("resuming after step") == 1
        assert before.items() <= finished(out).items()
        assert same_result(single, out)


def wait_for(pattern: str, out: Path, process: "subprocess.Popen[str]") -> None:
    while not list(out.glob(pattern)):
        assert process.poll() is None, finish(process)
        time.sleep(0.001)


def rank(number: str, process: "subprocess.Popen[str]") -> psutil.Process:
    started = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in started if child.environ().get("RANK") == number)


CHECKPOINT = "unfinished/*/step-*"
MOMENTS = {
    "training": ("00-backbone", CHECKPOINT),
    "a rollout": ("03-rollout-1", "stages/.03-rollout-1.*"),
    "an evaluation": ("05-evaluate-sft-1", "stages/.05-evaluate-sft-1.*"),
}
"""The stage in which a process dies, and the file that shows that it has begun."""


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL, reason="make chaos")
@WAYS
@pytest.mark.parametrize("victim", ["0", "1"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_dying_process_ends_the_run_which_resumes_alone(
    moment: str, victim: str, program: list[str], run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    out, (stage, sign) = tmp_path / "run", MOMENTS[moment]
    with record.trying(f"one of two processes is killed in {moment}, one goes on"):
        process = start(run, out, program)
        wait_for("dataset/dataset.json", out, process)
        killed = rank(victim, process)
        wait_for(sign, out, process)
        killed.kill()
        code, errors, _ = finish(process)
        told = [line for line in errors.splitlines() if line.startswith(LINES)]
        assert code != 0
        assert len(told) == 1, errors
        assert "lost the others: one of them ended" in told[0]
        assert not (out / "stages" / stage).exists(), "it died before the stage was finished"
        done = goes_on(run, out, *PLAIN)
        assert done.code == 0, done.stderr
        assert "resuming after step" in done.stderr or moment != "training"
        assert same_result(single, out)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not FULL, reason="make chaos")
def test_a_signal_stops_all_processes_after_the_same_step(
    run: Run, single: Path, tmp_path: Path, record: Record
) -> None:
    out = tmp_path / "run"
    with record.trying("SIGTERM to two processes"):
        process = start(run, out, DDP)
        wait_for(CHECKPOINT, out, process)
        process.terminate()
        code, errors, _ = finish(process)
        assert code != 0
        assert "sprec: stopped by SIGTERM; the same command resumes" in errors.splitlines()
        assert "lost the others" not in errors
        assert goes_on(run, out, *PLAIN).code == 0
        assert same_result(single, out)
