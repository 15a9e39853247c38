"""A run of seconds to break: a tiny model, a catalog of a dozen titles, checkpoints every second step."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from chaos.harness import Ended, Fault, Server
from chaos.records import Record, recording
from sprec.data import Catalog, Dataset, Split
from sprec.data.about import Wording
from sprec.system import storage

TITLES = ["Dune", "Emma", "Persuasion", "Dracula", "Ulysses", "Middlemarch", "Red Rising", "Red Queen", "Six of Crows",
          "Crooked Kingdom", "Heir of Fire", "The Hating Game"]  # fmt: skip

FULL = os.environ.get("SPREC_CHAOS") == "full"
"""``make chaos`` tries everything; the daily tests try a part."""

RECIPE = {
    "prompt": {"style": "compact"},
    "precision": "fp32",
    "device": "cpu",
    "backbone": {"kind": "scratch", "hidden": 16, "layers": 1, "heads": 1, "vocabulary": 300, "dropout": 0.1,
                 "epochs": 12, "batch": 8, "lr": 0.03, "warmup_steps": 5},
    "sft": {"epochs": 2, "batch": 2, "valid": 8, "lr": 0.01, "warmup_steps": 2},
    "loop": {"iterations": 1, "samples": 12},
    "sft_step": {"batch": 1},
    "prefer": {"batch": 1, "lr": 0.001},
    "negatives": {"decode": "sample", "max_new_tokens": 12},
    "recommend": {"max_new_tokens": 12},
    "tokens_per_batch": 256,
    "checkpoint_steps": 8,
    "cases": 8,
    "baselines": [],
}  # fmt: skip


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``recipe.yaml`` and ``data``."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    rng = np.random.default_rng(0)
    genres = [["fantasy", "romance", "science fiction"][i % 3 : i % 3 + 1] for i in range(len(TITLES))]

    def split(count: int) -> Split:
        return Split.of(
            (rng.permutation(len(TITLES))[:3].tolist(), int(rng.integers(len(TITLES)))) for _ in range(count)
        )

    splits = {"train": split(24), "valid": split(8), "test": split(8), "extra": split(4)}
    wording = Wording("Recommend a book.", "The user has read:", "\n", "books")
    dataset = Dataset("Toy", Catalog.of(TITLES, genres), splits, ("fantasy", "romance", "science fiction"), wording)
    dataset.save(folder / "data")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@dataclass(frozen=True)
class Run:
    """Run the toy recipe into a folder, with a fault: ``run(out, "--strict", fault=...)``; or another command.

    Attributes:
        files: where the recipe and the data are.
        options: of every run; ``{out}`` in them is the folder.
    """

    server: Server
    files: Path
    options: tuple[str, ...] = ()

    def __call__(self, out: Path, *more: object, fault: Fault = Fault()) -> Ended:  # noqa: B008
        options = [option.format(out=out) for option in self.options]
        arguments = ("run", self.files / "recipe.yaml", "--data", self.files / "data", "-o", out, *options, *more)
        return self.server.run(out, *arguments, fault=fault)

    def command(self, out: Path, *arguments: object) -> Ended:
        return self.server.run(out, *arguments)


@pytest.fixture(scope="session")
def run(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files)


@pytest.fixture(scope="session")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(out)
    assert done.code == 0, done.stderr
    return out


def content(out: Path) -> dict[str, bytes]:
    """Everything that a run has computed: all files except locks, logs and times."""
    files = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    kept = {name: path.read_bytes() for name, path in files.items() if not name.startswith(("logs/", ".lock"))}
    for name in [name for name in kept if name.endswith("MANIFEST.json")]:
        manifest = json.loads(kept[name])
        inner = {file: about for file, about in manifest["files"].items() if not file.endswith("MANIFEST.json")}
        kept[name] = json.dumps([manifest.get("key"), inner]).encode()  # a stage's manifest has times, too
    return kept


def differing(one: Path, two: Path) -> list[str]:
    """The files in which two runs differ: none, if the same was computed to the byte."""
    first, second = content(one), content(two)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The complete stages, with the inodes of their manifests: a stage that is made again gets a new one."""
    whole = [folder for folder in sorted(out.glob("stages/[0-9]*")) if not storage.verify(folder)]
    manifests = {folder.name: (folder / storage.MANIFEST).stat() for folder in whole}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in manifests.items()}


def announced(done: Ended) -> set[str]:
    """The stages that a run has reported as finished."""
    return {line.split()[1] for line in done.stderr.splitlines() if line.startswith("✓")}


def goes_on(run: Run, out: Path, *more: object, fault: Fault = Fault()) -> Ended:  # noqa: B008
    """Run, as far as the fault permits: no finished stage is lost or made again, and reported ones are on the disk."""
    before = finished(out)
    done = run(out, *more, fault=fault)
    assert before.items() <= finished(out).items(), done.stderr
    assert announced(done) <= finished(out).keys(), done.stderr
    return done


def resumes(run: Run, whole: Path, out: Path) -> None:
    """The same command ends like the undisturbed run, without making anything twice."""
    done = goes_on(run, out)
    assert done.code == 0, done.stderr
    assert differing(out, whole) == []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    with recording(request.node.name) as made:
        yield made
