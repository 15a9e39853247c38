"""Kill -9 in other runs than that of ``test_kill.py``: with SASRec and a shared folder, and with adapters."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from chaos.conftest import FULL, RECIPE, Run, differing, goes_on
from chaos.harness import Fault, Server
from chaos.records import Record

pytestmark = pytest.mark.skipif(not FULL, reason="make chaos")

ORACLE = ("--set", "method=rosepo", "--set", "recommend.protocol=consensus", "--set", "sasrec.epochs=5")
SHARED = ("--shared", "{out}/shared")  # below the run directory, so that faults strike there, too, and it is compared
POINTS = 30


@pytest.fixture(scope="module")
def rosepo(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files, (*ORACLE, *SHARED))


@pytest.fixture(scope="module")
def lora(
    server: Server,
    toy_files: Path,
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    files = tmp_path_factory.mktemp("lora")
    shutil.copytree(toy_files / "data", files / "data")
    backbone = {"kind": "huggingface", "path": str(checkpoint("llama")), "lora": {"r": 4}}
    (files / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"backbone": backbone}))
    return Run(server, files)


def in_shared(out: Path) -> list[Path]:
    """What is visible in the folder that runs share, if there is one."""
    return [folder for folder in sorted((out / "shared").glob("*")) if not folder.name.startswith(".")]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rosepo", "lora"])
def test_killed_at_file_operations_spread_over_the_run(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    run: Run = request.getfixturevalue(name)
    whole = tmp_path / "whole"
    operations = run(whole, fault=Fault("count")).operations
    assert operations > POINTS
    for point in range(POINTS):
        at, out = 1 + point * (operations - 1) // (POINTS - 1), tmp_path / str(point)
        with subtests.test(at=at), record.trying(f"kill -9 at a file operation, {name}"):
            assert goes_on(run, out, fault=Fault("kill", at)).code == -9
            done = goes_on(run, out)
            assert done.code == 0, done.stderr
            assert differing(out, whole) == [], "the shared folder is below it"
            shutil.rmtree(out)


def test_what_a_killed_run_did_not_share_is_shared_when_it_resumes(rosepo: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert rosepo(out).code == 0
    shared = in_shared(out)
    shared[0].rename(shared[0].with_name(f".{shared[0].name}.01234567.tmp"))  # as if killed while sharing it
    assert rosepo(out).code == 0
    assert sorted((out / "shared").iterdir()) == shared
