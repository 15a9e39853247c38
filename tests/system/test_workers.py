"""Processes that divide work: shares of cores and GPUs, failures in one line, no process left over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sprec.system.errors import UserError
from sprec.system.workers import divide


def tell(folder: Path) -> None:
    """The environment of a worker."""
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    (folder / f"{os.getpid()}.json").write_text(json.dumps({name: os.environ.get(name) for name in names}))
    print("told")


def fail_or_wait(folder: Path) -> None:
    """The first one to come fails, the others would wait for ever."""
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        (folder / "waits").touch()
        time.sleep(600)
    while not (folder / "waits").exists():
        time.sleep(0.05)
    raise UserError("no luck today")


def wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


@pytest.mark.parametrize(("gpus", "shares"), [("", ["", ""]), ("3,5", ["3", "5"])])
def test_workers_share_the_machine(
    gpus: str, shares: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    before = dict(os.environ)
    divide(2, tmp_path, lambda: looks.append(len(list(tmp_path.glob("*.json")))), tell, tmp_path)
    told = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert [entry["OMP_NUM_THREADS"] for entry in told] == ["3", "3"]
    assert sorted(entry["CUDA_VISIBLE_DEVICES"] for entry in told) == shares
    assert looks[-1] == 2, "a last look, when all are done"
    assert [(tmp_path / f"worker-{number}.log").read_text() for number in (1, 2)] == ["told\n"] * 2
    assert dict(os.environ) == before


def test_a_failure_stops_the_others_and_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^worker [12]: no luck today \(more in .*worker-[12].log\)$"):
        divide(2, tmp_path, lambda: None, fail_or_wait, tmp_path)
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [command for command in left if "spawn_main" in command]


def begin(folder: Path) -> "subprocess.Popen[str]":
    """A program of two workers, in a process group of its own, as a terminal would start it."""
    code = (
        "from pathlib import Path; from test_workers import wait; from sprec.system.workers import divide\n"
        "from sprec.system.program import program\n"
        f"place = Path({str(folder)!r})\n"
        "if __name__ == '__main__': program('parent', lambda: divide(2, place, lambda: None, wait, place))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, start_new_session=True, text=True, stderr=-1
    )


def workers_of(folder: Path, parent: "subprocess.Popen[str]") -> list[psutil.Process]:
    while len(found := [int(file.name) for file in folder.iterdir() if file.name.isdigit()]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    return [psutil.Process(pid) for pid in found]


@pytest.mark.parametrize("early", [True, False])
def test_ctrl_c_ends_all_in_one_line(early: bool, tmp_path: Path) -> None:
    """Early: while the workers are being started."""
    parent = begin(tmp_path)
    if early:
        while len(psutil.Process(parent.pid).children(recursive=True)) < 2:
            time.sleep(0.02)
    workers = psutil.Process(parent.pid).children(recursive=True) if early else workers_of(tmp_path, parent)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=30)[1] == "parent: stopped by SIGINT; the same command resumes\n"
    assert parent.returncode == 130
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    logs = [log.read_text() for log in tmp_path.glob("*.log")]
    assert all("Traceback" not in log for log in logs)
    assert early or all("stopped by SIGTERM" in log for log in logs)


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    parent = begin(tmp_path)
    workers = workers_of(tmp_path, parent)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 2
    assert not alive
