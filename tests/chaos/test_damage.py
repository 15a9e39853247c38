"""Flip a bit, cut, remove or add any file of a run: it is named, refused with --strict, and repaired without."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.conftest import FULL, Run, announced, content, differing, goes_on
from chaos.records import Record
from sprec.data import Dataset
from sprec.system import storage
from sprec.system.errors import UserError

Harm = Callable[[Path, random.Random], None]


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.unlink()  # it may be a hard link
    file.write_bytes(data)


def cut(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[: rng.randrange(len(data))])


def remove(file: Path, _: random.Random) -> None:
    file.unlink()


PARTS = 3  # so that the full test can be run in pieces
HARMS: list[Harm] = [flip, cut, remove]


def targets(whole: Path) -> list[Path]:
    """Files of a finished run, but logs and cached embeddings: all of them, or one of each name."""
    kept = [whole / name for name in content(whole) if not name.startswith("cache/")]
    return kept if FULL else list({file.name: file for file in kept}.values())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", HARMS, ids=["flip", "cut", "remove"])
@pytest.mark.parametrize("part", range(PARTS) if FULL else [0])
def test_damage_is_named_and_repaired(
    part: int, harm: Harm, run: Run, whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    rng = random.Random(part)
    files = [file.relative_to(whole) for file in targets(whole)]
    files = files[part::PARTS] if FULL else files[HARMS.index(harm) :: len(HARMS)]
    for number, name in enumerate(files):
        out = tmp_path / str(number)
        shutil.copytree(whole, out)
        with subtests.test(file=str(name)), record.trying(f"{harm.__name__} a file"):
            harm(out / name, rng)
            done = goes_on(run, out)
            unfinished = harm is remove and name == Path("MANIFEST.json")  # a run that was killed before its last step
            assert unfinished or str(out / name) in done.stderr
            assert done.code == 0, done.stderr
            assert differing(out, whole) == []
            shutil.rmtree(out)


def sealed(whole: Path) -> list[str]:
    """Folders that hold exactly the files in their manifest: stages and models."""
    stages = [file.parent for file in sorted(whole.glob("stages/*/MANIFEST.json"))]
    models = [file.parent for file in sorted(whole.rglob("model/config.json"))]
    return [folder.relative_to(whole).as_posix() for folder in [*stages, *models]]


@pytest.mark.timeout(1200)
def test_an_added_file_is_named_and_its_folder_made_again(
    run: Run, whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    folders = sealed(whole) if FULL else ["stages/06-prefer-1/model", "model"]
    for number, folder in enumerate(folders):
        out = tmp_path / str(number)
        added = out / folder / "added.safetensors"
        shutil.copytree(whole, out)
        with subtests.test(folder=folder), record.trying("add a file"):
            added.write_bytes(b"not ours")
            done = goes_on(run, out)
            assert done.code == 0, done.stderr
            assert any(line.startswith("! ") and str(added) in line for line in done.stderr.splitlines()), done.stderr
            assert announced(done) == {part for part in Path(folder).parts if part[0].isdigit()}
            assert differing(out, whole) == []
            shutil.rmtree(out)


JSON_FILES = ("MANIFEST.json", "recipe.json", "metrics.json", "dataset.json")


def detected(file: Path) -> bool:
    """Whether the code that uses this file refuses it first."""
    if file.name == "dataset.json":
        try:
            Dataset.load(file.parent)
        except UserError as error:
            return str(file) in str(error)
        return False
    names = () if file.name == storage.MANIFEST else (file.name,)
    return str(file) in storage.verify(file.parent, *names)


def undetected(file: Path, rng: random.Random) -> list[int]:
    """The bytes of a file in which a flipped bit goes unnoticed; the file is restored."""
    content = file.read_bytes()
    missed = []
    with file.open("r+b", buffering=0) as handle:
        for at, byte in enumerate(content):
            os.pwrite(handle.fileno(), bytes([byte ^ 1 << rng.randrange(8)]), at)
            missed += [] if detected(file) else [at]
            os.pwrite(handle.fileno(), bytes([byte]), at)
    return missed


def test_every_flipped_bit_of_a_manifest_recipe_or_metrics_is_noticed(
    whole: Path, tmp_path: Path, record: Record, subtests: pytest.Subtests
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    rng = random.Random(0)
    for file in sorted(file for name in JSON_FILES for file in (tmp_path / "run").rglob(name)):
        assert not detected(file), "it is whole"
        with subtests.test(file=str(file)), record.trying("flip a bit of any byte of a JSON file", file.stat().st_size):
            assert undetected(file, rng) == []


def test_a_missing_last_newline_is_noticed(whole: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for file in sorted(file for name in JSON_FILES for file in (tmp_path / "run").rglob(name)):
        with subtests.test(file=str(file)):
            content = file.read_bytes()
            assert content.endswith(b"}\n") or content.endswith(b"]\n")
            os.truncate(file, len(content) - 1)
            assert detected(file)
            file.write_bytes(content)


def test_a_recipe_without_its_last_newline_is_written_again(run: Run, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    os.truncate(out / "recipe.json", (out / "recipe.json").stat().st_size - 1)
    done = goes_on(run, out)
    assert done.code == 0, done.stderr
    assert f"! {out / 'recipe.json'} is damaged or was edited; it is written again" in done.stderr
    assert differing(out, whole) == []


@pytest.mark.parametrize("name", ["stages/01-sft/model/model.safetensors", "metrics.json", "dataset/sequences.parquet"])
def test_strict_refuses_and_changes_nothing(name: str, run: Run, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    flip(out / name, random.Random(1))
    before = content(out)
    done = run(out, "--strict")
    assert done.code == 2
    assert str(out / name) in done.stderr
    assert content(out) == before


def test_what_uses_a_run_refuses_damage(run: Run, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    flip(out / "model/model.safetensors", random.Random(2))
    done = run.command(out, "recommend", out, "--history", "Dune", "-k", 2)
    assert done.code == 2
    assert f"{out / 'model/model.safetensors'} is damaged or was edited" in done.stderr
