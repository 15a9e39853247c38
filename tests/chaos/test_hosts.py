"""Two hosts, as two network namespaces with a cable between them: the result of one, and a cut cable ends both."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.conftest import FULL, Run, finished, goes_on
from chaos.records import Record
from chaos.test_processes import CHECKPOINT, PLAIN, finish, same_result, wait_for

HOSTS = ("sprec-a", "sprec-b")
ADDRESSES = ("10.213.7.1", "10.213.7.2")
CABLE = "sprec0"
"""The name that each host has for its end."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def remove() -> None:
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces that see each other over a pair of virtual devices, and nothing else."""
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: iproute2 is not installed")
    remove()  # leftovers of a killed test
    try:
        for host in HOSTS:
            ip("netns", "add", host)
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(f"no network namespaces: {error.stderr.strip()}")
    try:
        ip("link", "add", CABLE, "netns", HOSTS[0], "type", "veth", "peer", "name", CABLE, "netns", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        remove()


def start(run: Run, out: Path, number: int) -> "subprocess.Popen[str]":
    """The process of one host; torchrun finds the others at the first host's address."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc_per_node",
        "1",
        "--rdzv_id",
        "7",
    ]
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{ADDRESSES[0]}:29400", "--local_addr", ADDRESSES[number]]
    meeting += [
        "--rdzv_conf",
        f"is_host={1 - number},read_timeout=10",
    ]  # the machine's name does not resolve in a namespace
    toy = ["-m", "sprec", "run", str(run.files / "recipe.yaml"), "--data", str(run.files / "data"), "-o", str(out)]
    return subprocess.Popen(
        ["ip", "netns", "exec", HOSTS[number], *torchrun, *meeting, *toy, *PLAIN],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "GLOO_SOCKET_IFNAME": CABLE},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.timeout(400)
@pytest.mark.skipif(not FULL, reason="make chaos")
@pytest.mark.usefixtures("hosts")
def test_a_cut_cable_ends_both_hosts_and_one_goes_on(run: Run, tmp_path: Path, record: Record) -> None:
    single, out = tmp_path / "single", tmp_path / "run"
    assert run(single, *PLAIN).code == 0
    with record.trying("the network between two hosts is cut, one goes on"):
        both = [start(run, out, number) for number in (0, 1)]
        wait_for(CHECKPOINT, out, both[0])
        ip("-n", HOSTS[0], "link", "set", CABLE, "down")
        cut = time.monotonic()
        ends = [finish(process, patience=100) for process in both]
        seconds = time.monotonic() - cut
        for number, (code, errors, _) in enumerate(ends):
            told = [line for line in errors.splitlines() if line.startswith("sprec: ")]
            assert code != 0
            assert len(told) == 1, errors
            assert f"host {number} of 2 has not heard of host {1 - number} for 40 seconds" in told[0]
        assert seconds < 60, ends
        before = finished(out)
        assert goes_on(run, out, *PLAIN).code == 0
        assert before.items() <= finished(out).items()
        assert same_result(single, out)


@pytest.mark.timeout(400)
@pytest.mark.skipif(not FULL, reason="make chaos")
@pytest.mark.usefixtures("hosts")
def test_two_hosts_equal_one_process(run: Run, tmp_path: Path) -> None:
    single, out = tmp_path / "single", tmp_path / "run"
    assert run(single, *PLAIN).code == 0
    both = [start(run, out, number) for number in (0, 1)]
    for code, errors, _ in [finish(process) for process in both]:
        assert code == 0, errors
    assert same_result(single, out)
