"""Flip a bit, cut or remove any file of a run: it is named, refused with --strict, and repaired without."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.conftest import FULL, Record, Run, content

Harm = Callable[[Path, random.Random], None]


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.unlink()  # it may share its content with another folder
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
    """Files of a finished run: all of them, or one of each name."""
    kept = [whole / name for name in content(whole) if not name.startswith("cache/")]
    return kept if FULL else list({file.name: file for file in kept}.values())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", HARMS, ids=["flip", "cut", "remove"])
@pytest.mark.parametrize("part", range(PARTS) if FULL else [0])
def test_damage_is_named_and_repaired(
    part: int, harm: Harm, run: Run, whole: Path, tmp_path: Path, record: Record
) -> None:
    rng, out = random.Random(part), tmp_path / "run"
    shutil.copytree(whole, out)
    files = [file.relative_to(whole) for file in targets(whole)]
    files = files[part::PARTS] if FULL else files[HARMS.index(harm) :: len(HARMS)]
    missed = []
    for name in files:
        harm(out / name, rng)
        done = run(out)
        unfinished = harm is remove and name == Path("MANIFEST.json")  # a run that was killed before its last step
        named = unfinished or str(out / name) in done.stderr
        if done.code or not named or content(out) != content(whole):
            missed.append((name, done.stderr))
    record(f"{harm.__name__} a file", len(files), len(files) - len(missed))
    assert missed == []


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
