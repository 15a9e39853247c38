"""A full disk, from any file operation on: one clear line, finished stages stay, and with space the run ends the same.

Also memory that runs out, and losses that are not finite.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.conftest import FULL, Run, announced, differing, goes_on, resumes
from chaos.harness import Ended, Fault
from chaos.records import Record

PARTS = 40


def refused(done: Ended, reason: str) -> bool:
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("✓", "=", "!"))]
    return done.code == 2 and len(lines) == 1 and lines[0].startswith("sprec: cannot write ") and reason in lines[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS) if FULL else [0])
def test_no_space_at_any_write(
    part: int, run: Run, whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    operations = run(tmp_path / "counted", fault=Fault("count")).operations
    for at in range(1 + part, operations + 1, PARTS if FULL else operations // 2):
        out = tmp_path / str(at)
        with subtests.test(at=at), record.trying("no space left at a file operation"):
            done = goes_on(run, out, fault=Fault("full", at))
            assert done.code == 0 or refused(done, "No space left on device"), done.stderr
            resumes(run, whole, out)
            shutil.rmtree(out)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [400, 800, 3_000, 20_000, 40_000] if FULL else [3_000])
def test_writes_that_fail_half_way(size: int, run: Run, whole: Path, tmp_path: Path, record: Record) -> None:
    with record.trying("a write that fails half way"):
        done = goes_on(run, tmp_path / "run", fault=Fault("small", size))
        assert refused(done, "File too large"), done.stderr
        resumes(run, whole, tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB that can grow."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, run: Run, whole: Path, record: Record) -> None:
    out = small_disk / "run"
    sizes = [300, 400, 600, 2000]
    with ExitStack() as tries:
        while (done := goes_on(run, out)).code:
            tries.enter_context(record.trying("a small file system runs full"))
            assert refused(done, "No space left on device") or refused(done, "os error 28"), done.stderr
            size = f"remount,size={sizes.pop(0)}k"
            subprocess.run(["mount", "-o", size, str(small_disk)], check=True)
        assert len(sizes) <= 2
        assert differing(out, whole) == []


def test_losses_that_are_no_numbers(run: Run, tmp_path: Path, record: Record) -> None:
    out = tmp_path / "run"
    with record.trying("a loss that is no number"):
        done = run(out, "--set", "prefer.beta=1.0e+38", "--set", "prefer.lr=0.1")
        (file,) = out.glob("logs/*/failed-step-*.json")
        assert done.code == 2
        message = (
            rf"sprec: the (loss|gradient) is (nan|inf) at step \d+; lower the learning rate; the batch is in {file}"
        )
        assert re.fullmatch(message, done.stderr.splitlines()[-1])
        again = goes_on(run, out)
        assert again.code == 0, "with the old settings the stages before it are there"
        assert announced(again) == {"06-prefer-1", "07-evaluate-prefer-1"}


def losses(out: Path) -> list[float]:
    files = sorted(out.glob("stages/*/log.jsonl"))
    return [json.loads(line)["loss"] for file in files for line in file.read_text().splitlines()]


def test_memory_that_runs_out(run: Run, tmp_path: Path, record: Record) -> None:
    roomy = ["--set", "tokens_per_batch=8192", "--set", "backbone.dropout=0", "--set", "backbone.batch=24"]
    assert run(tmp_path / "plenty", *roomy).code == 0
    with record.trying("memory runs out on a batch"):
        done = run(tmp_path / "scarce", *roomy, fault=Fault("memory", 600))
        assert done.code == 0, done.stderr
        assert "! out of memory at step 0: going on with 4096 tokens per forward pass" in done.stderr
        assert losses(tmp_path / "plenty") == pytest.approx(losses(tmp_path / "scarce"), abs=1e-4)
    hopeless = run(tmp_path / "none", *roomy, fault=Fault("memory", 10))
    assert hopeless.code == 2
    assert re.search(r"sprec: out of memory at step 0 with only 256 tokens at once; take a smaller", hopeless.stderr)
