"""Kill -9 in other runs than that of ``test_kill.py``, in lists for many users, while a finished run is replaced."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from chaos.conftest import FULL, RECIPE, TITLES, Run, differing, finished, goes_on
from chaos.harness import Ended, Fault, Server
from chaos.records import Record
from sprec.serve.users import CHUNK
from sprec.system import storage

pytestmark = pytest.mark.skipif(not FULL, reason="make chaos")

ORACLE = ("--set", "method=rosepo", "--set", "recommend.protocol=consensus", "--set", "sasrec.epochs=5")
SHARED = ("--shared", "{out}/shared")  # below the run directory, so that faults strike there, too, and it is compared
KNN = ("--set", "method=knn")
TILTED = ("--set", "recommend.protocol=exact", "--set", "recommend.tilt=true")
SAMPLED = ("--set", "method=sasrec", "--set", "sasrec.loss=sampled-softmax", "--set", "sasrec.negatives=6", "--set",
           "sasrec.epochs=5")  # fmt: skip
POINTS = 30


@pytest.fixture(scope="module")
def rosepo(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files, (*ORACLE, *SHARED))


@pytest.fixture(scope="module")
def knn(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files, (*KNN, *SHARED))


@pytest.fixture(scope="module")
def tilt(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files, TILTED)


@pytest.fixture(scope="module")
def sampled(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files, (*SAMPLED, *SHARED))


@pytest.fixture(scope="module")
def lora(pretrained: Callable[..., Run]) -> Run:
    return pretrained()


@pytest.fixture(scope="module")
def adapt(pretrained: Callable[..., Run]) -> Run:
    return pretrained(adapt={"epochs": 2, "batch": 4, "lr": 0.01, "warmup_steps": 2})


@pytest.fixture(scope="module")
def pretrained(
    server: Server, toy_files: Path, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    def make(**more: object) -> Run:
        files = tmp_path_factory.mktemp("pretrained")
        shutil.copytree(toy_files / "data", files / "data")
        backbone = {"kind": "huggingface", "path": str(checkpoint("llama")), "lora": {"r": 4}, **more}
        (files / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"backbone": backbone}))
        return Run(server, files)

    return make


def in_shared(out: Path) -> list[Path]:
    """The visible files in the shared folder of the runs, if there is one."""
    return [folder for folder in sorted((out / "shared").glob("*")) if not folder.name.startswith(".")]


def spread(operations: int) -> list[int]:
    """Thirty operations, the first and the last among them."""
    assert operations > POINTS
    return [1 + point * (operations - 1) // (POINTS - 1) for point in range(POINTS)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rosepo", "lora", "knn", "tilt", "sampled", "adapt"])
def test_killed_at_file_operations_spread_over_the_run(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    run: Run = request.getfixturevalue(name)
    whole = tmp_path / "whole"
    counted = run(whole, fault=Fault("count"))
    assert counted.code == 0, counted.stderr
    for at in spread(counted.operations):
        out = tmp_path / str(at)
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


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_killed_while_lists_are_made(
    form: str, knn: Run, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    assert knn(tmp_path / "run").code == 0
    histories = [[TITLES[(user * step) % len(TITLES)] for step in (1, 5, 7)] for user in range(3 * CHUNK + 100)]
    lines = [json.dumps({"user": user, "history": own}) + "\n" for user, own in enumerate(histories)]
    (tmp_path / "users.jsonl").write_text("".join(lines))

    def lists(folder: Path, fault: Fault) -> Ended:
        asked = ("recommend", tmp_path / "run", "--histories", tmp_path / "users.jsonl", "-k", 3)
        return knn.server.run(folder, *asked, "-o", folder / f"all.{form}", fault=fault)

    operations = lists(tmp_path / "whole", Fault("count")).operations
    for at in spread(operations):
        out = tmp_path / str(at)
        with subtests.test(at=at), record.trying("kill -9 at a file operation, lists for many users"):
            assert lists(out, Fault("kill", at)).code == -9
            pieces = len(list(out.glob("*.parts/*.parquet")))
            complete = (out / f"all.{form}").exists() and not pieces
            done = lists(out, Fault("count"))
            assert done.code == (2 if complete else 0), done.stderr
            assert complete == (f"all.{form} already exists" in done.stderr)
            assert done.operations <= operations - pieces, "those that are there are not made again"
            assert [file.name for file in out.iterdir()] == [f"all.{form}"]
            assert (out / f"all.{form}").read_bytes() == (tmp_path / f"whole/all.{form}").read_bytes()
            shutil.rmtree(out)


@pytest.mark.timeout(3600)
def test_killed_while_a_finished_run_is_replaced(
    run: Run, whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    """The old model or the new one is served, and the same command ends as if nothing had happened.

    Only while the files of a complete run replace the old ones, nothing is served.
    """

    def replaced(out: Path, fault: Fault) -> Ended:
        return run(out, "--overwrite", "--set", "prefer.beta=0.2", "--set", "prefer.lr=0.01", fault=fault)

    def served(out: Path) -> str:
        asked = ("--history", TITLES[0], "-k", 5, "--json", "--set", "recommend.protocol=exact")
        done = run.command(out, "recommend", out, *asked)
        complete = kept(out).keys() == finished(tmp_path / "new").keys()
        if done.code == 2 and complete:
            assert done.stderr.endswith("finish it with the same sprec run command\n")
            return ""
        assert done.code == 0, done.stderr
        return done.stdout

    def kept(out: Path) -> dict[str, tuple[int, int]]:
        """The stages that the new run needs and has."""
        return {name: mark for name, mark in finished(out).items() if key(out, name) == key(tmp_path / "new", name)}

    def key(out: Path, name: str) -> object:
        return storage.read_manifest(out / "stages" / name)["key"]

    shutil.copytree(whole, tmp_path / "new")
    counted = replaced(tmp_path / "new", Fault("count"))
    assert counted.code == 0, counted.stderr
    answers = {served(whole), served(tmp_path / "new")}
    assert len(answers - {""}) == 2
    for at in spread(counted.operations):
        out = tmp_path / str(at)
        shutil.copytree(whole, out)
        with subtests.test(at=at), record.trying("kill -9 at a file operation, a finished run is replaced"):
            assert replaced(out, Fault("kill", at)).code == -9
            assert served(out) in answers | {""}
            before = kept(out)
            done = replaced(out, Fault())
            assert done.code == 0, done.stderr
            assert before.items() <= finished(out).items()
            assert differing(out, tmp_path / "new") == []
            shutil.rmtree(out)
