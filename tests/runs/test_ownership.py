"""What a run may touch: its own folder, empty ones, and a finished run of other data only when it is told to."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from sprec.data import Dataset
from sprec.data.demo import demo
from sprec.runs import Recommender, run
from sprec.runs.evaluations import evaluate_run
from sprec.runs.recipes import resolve
from sprec.runs.store import Store
from sprec.serve.batch import recommend_to_all
from sprec.study.compare import compare_runs
from sprec.study.lists import score_lists
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import Cli, toy_changes

OWNERS = ["model/weights.bin", "dataset/raw.csv", "unfinished/thesis.tex", "metrics.json", "recipe.json"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "data"
    demo(1, train=240, valid=12, test=20, extra=8, history=4).save(folder)
    return folder


@pytest.mark.parametrize("name", OWNERS)
def test_a_folder_of_somebody_else_is_refused_untouched(name: str, cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"title": "a cookbook"}')
    done = cli("run", "demo", "--data", toy_data, "-o", tmp_path / "mine", *toy_changes(), code=2)
    assert "is not empty and not a run" in done.stderr
    assert content(tmp_path / "mine") == {name: b'{"title": "a cookbook"}'}


def test_our_lock_and_temporary_names_are_nobody_s(tmp_path: Path) -> None:
    for name in (".recipe.json.0123abcd.tmp", ".dataset.0123abcd.old"):
        (tmp_path / name).mkdir()
    (tmp_path / ".lock").write_text("pid 4711 on elsewhere\n")
    with Store(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == f"pid {os.getpid()} on {os.uname().nodename}\n"
    (tmp_path / ".lock").write_text("the combination of my bicycle is 1234")
    with pytest.raises(UserError, match="not empty and not a run"), Store(tmp_path).lock():
        pass
    assert "1234" in (tmp_path / ".lock").read_text()


NAMES = [
    (os.fsdecode(b"a\xff"), "not UTF-8"),
    ("n" * 245, r"a name of 2\d\d bytes; the limit is 241"),
    ("a\0b", "a null"),
]


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_names_that_no_folder_can_have_are_one_line(
    name: str, message: str, toy_run: Path, toy_dataset: Dataset, tmp_path: Path
) -> None:
    recipe, odd = resolve("demo", ["method=popularity", "cases=10"]), tmp_path / name
    uses: list[Callable[[], object]] = [
        lambda: run(recipe, toy_dataset, odd),
        lambda: run(recipe, toy_dataset, tmp_path / "run", shared=odd),
        lambda: Recommender.load(odd),
        lambda: evaluate_run(odd),
        lambda: compare_runs([toy_run, odd]),
        lambda: score_lists(odd, toy_dataset),
        lambda: recommend_to_all(Recommender.load(toy_run), odd.with_name(f"{name}.csv"), histories=toy_run),
        lambda: recommend_to_all(Recommender.load(toy_run), tmp_path / "all.csv", histories=odd),
    ]
    for use in uses:
        with pytest.raises(UserError, match=message):
            use()
    with pytest.raises(UserError, match="neither a readable file nor one of"):
        resolve(str(odd))
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_are_no_text_are_one_line(cli: Cli, toy_run: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for arguments in (
        ("recommend", toy_run, "--history", name),
        ("compare", toy_run, "-o", tmp_path / name),
        ("recipes", "cp", "demo", tmp_path / name),
        ("run", "demo", "--set", f"description={name}"),
    ):
        done = cli(*arguments, code=2)
        assert "caf? is not UTF-8" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_tables_do_not_replace_what_a_run_has(toy_run: Path, cli: Cli) -> None:
    before = content(toy_run)
    done = cli("compare", toy_run, toy_run, "-o", toy_run, code=2)
    assert f"{toy_run} is a run, and tables would replace its files; choose another -o" in done.stderr
    assert content(toy_run) == before


def lock(root: Path, victim: Path) -> None:
    (root / ".lock").unlink()
    (root / ".lock").symlink_to(victim)


def logs(root: Path, victim: Path) -> None:
    (root / "logs").rename(victim.parent / "logs")
    (root / "logs").symlink_to(victim.parent / "logs")


def a_log(root: Path, victim: Path) -> None:
    log = root / "logs/01-sft/log.jsonl"
    log.unlink()
    log.symlink_to(victim)


def unfinished(root: Path, victim: Path) -> None:
    (root / "unfinished").symlink_to(victim.parent)


def journal(root: Path, victim: Path) -> None:
    (root / "unfinished/key/rollout").mkdir(parents=True)
    (root / "unfinished/key/rollout/batches-0.jsonl").symlink_to(victim)


@pytest.mark.parametrize("link", [lock, logs, a_log, unfinished, journal])
def test_symbolic_links_are_not_followed(
    link: Callable[[Path, Path], None], cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    out, victim = tmp_path / "run", tmp_path / "victim" / "thesis.tex"
    shutil.copytree(toy_run, out)
    victim.parent.mkdir()
    victim.write_text("three years of work")
    link(out, victim)
    shutil.rmtree(out / "stages/01-sft")  # so that there is something to train and to log
    done = cli("run", "demo", "--data", toy_data, "-o", out, *toy_changes(), code=2)
    assert "is a symbolic link" in done.stderr
    assert victim.read_text() == "three years of work"


def test_the_lock_of_a_shared_stage_is_no_link_either(tmp_path: Path) -> None:
    victim = tmp_path / "thesis.tex"
    victim.write_text("three years of work")
    (tmp_path / "file.lock").symlink_to(victim)
    with ExitStack() as held, pytest.raises(OSError, match="symbolic links"):
        storage.lock(tmp_path / "file.lock", held)
    assert victim.read_text() == "three years of work"


@pytest.mark.parametrize("option", [[], ["--strict"]])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_other_data_leave_a_run_as_it_is(
    state: str, option: list[str], cli: Cli, toy_run: Path, other_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(toy_run, out)
    if state == "unfinished":
        for path in ("MANIFEST.json", "metrics.json", "stages/07-evaluate-prefer-1/MANIFEST.json"):
            (out / path).unlink()
    before = content(out)
    done = cli("run", "demo", "--data", other_data, "-o", out, *toy_changes(), *option, code=2)
    assert f"{out} is a run on other data than" in done.stderr
    assert "--overwrite" in done.stderr
    assert content(out) | {".lock": b""} == before | {".lock": b""}


def test_the_last_model_is_served_until_the_new_run_is_complete(
    cli: Cli, toy_run: Path, toy_data: Path, other_data: Path, tmp_path: Path
) -> None:
    """The new run is stopped before its end by its own rule, after it has made other stages."""
    out = tmp_path / "run"
    shutil.copytree(toy_run, out)
    before = content(out)
    again = ("run", "demo", "--data", other_data, "-o", out, "--overwrite")
    stops = toy_changes(stop_below_exact_share=1.0, recommend__max_new_tokens=1)
    assert "the recipe demands 100%" in cli(*again, *stops, code=2).stderr
    after = content(out)
    assert after["stages/00-backbone/MANIFEST.json"] != before["stages/00-backbone/MANIFEST.json"]
    finished = [name for name in before if not name.startswith(("stages/", "logs/", ".lock", "unfinished/"))]
    assert {name: after[name] for name in finished} == {name: before[name] for name in finished}
    asked = ("--history", "Alien (1979)", "-k", "3", "--json")
    assert cli("recommend", out, *asked).stdout == cli("recommend", toy_run, *asked).stdout
    cli(*again, *toy_changes())
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["dataset"]["hash"] == Dataset.load(other_data).hash
    assert storage.verify(out) == ""
    assert content(out)["model/model.safetensors"] != before["model/model.safetensors"]
    assert content(out)["dataset/sequences.parquet"] == (other_data / "sequences.parquet").read_bytes()
