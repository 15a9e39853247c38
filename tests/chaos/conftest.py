"""A run of seconds to break: a tiny model, a catalog of a dozen titles, checkpoints every second step."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from chaos.harness import Ended, Fault, Server
from sprec.data import Catalog, Dataset, Split
from sprec.data.dataset import Wording

TITLES = ["Dune", "Emma", "Persuasion", "Dracula", "Ulysses", "Middlemarch", "Red Rising", "Red Queen", "Six of Crows",
          "Crooked Kingdom", "Heir of Fire", "The Hating Game"]  # fmt: skip

FULL = os.environ.get("SPREC_CHAOS") == "full"
"""``make chaos`` tries everything; the tests of every day try a part."""

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
}  # fmt: skip

Record = Callable[[str, int, int], None]


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
    """Run the toy recipe into a folder, with a fault: ``run(out, "--strict", fault=...)``; or another command."""

    server: Server
    files: Path

    def __call__(self, out: Path, *more: object, fault: Fault = Fault()) -> Ended:  # noqa: B008
        arguments = ("run", self.files / "recipe.yaml", "--data", self.files / "data", "-o", out, *more)
        return self.server.run(out, *arguments, fault=fault)

    def command(self, out: Path, *arguments: object) -> Ended:
        return self.server.run(out, *arguments)


@pytest.fixture(scope="session")
def run(server: Server, toy_files: Path) -> Run:
    return Run(server, toy_files)


@pytest.fixture(scope="session")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(out)
    assert done.code == 0, done.stderr
    return out


def content(out: Path) -> dict[str, bytes]:
    """All that a run has computed: every file but the locks, logs and times."""
    files = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    kept = {name: path.read_bytes() for name, path in files.items() if not name.startswith(("logs/", ".lock"))}
    for name in [name for name in kept if name.endswith("MANIFEST.json")]:
        manifest = json.loads(kept[name])
        kept[name] = json.dumps([manifest.get("key"), manifest["files"]]).encode()
    return kept


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Note how many faults of a kind were tried and survived; the full run writes them down, test by test."""

    def note(fault: str, tried: int, survived: int) -> None:
        target = os.environ.get("SPREC_CHAOS_RESULTS")
        if target:
            file = Path(target)
            found = json.loads(file.read_text()) if file.exists() else {"faults": {}}
            found["machine"] = {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "system": platform.system(),
                "date": datetime.date.today().isoformat(),
            }
            found["faults"].setdefault(fault, {})[request.node.name] = [tried, survived]
            file.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")

    return note
