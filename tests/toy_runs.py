"""A toy run in seconds, through the real command line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.harness import Ended, Server
from sprec.data import Dataset
from sprec.data.demo import demo

TOY = {
    "seed": 3,
    "precision": "fp32",
    "device": "cpu",
    "backbone.hidden": 64,
    "backbone.layers": 1,
    "backbone.heads": 2,
    "backbone.vocabulary": 600,
    "backbone.epochs": 15,
    "backbone.lr": 0.01,
    "backbone.warmup_steps": 5,
    "sft.epochs": 1,
    "sft.batch": 16,
    "loop.iterations": 1,
    "loop.samples": 24,
    "cases": 20,
    "baselines": [],
}

Cli = Callable[..., Ended]


def toy_changes(**more: Any) -> list[str]:
    settings = TOY | {name.replace("__", "."): value for name, value in more.items()}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The real command in a process of its own, forked from one that has imported everything: imports take seconds."""
    server, beside = Server(), tmp_path_factory.mktemp("cli") / "call"

    def call(*arguments: object, code: int = 0) -> Ended:
        done = server.run(beside, *arguments)
        assert done.code == code, done.stdout + done.stderr
        return done

    yield call
    server.close()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "data"
    demo(0, train=240, valid=12, test=20, extra=8, history=4).save(folder)
    return folder


@pytest.fixture(scope="session")
def toy_run(cli: Cli, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    cli("run", "demo", "--data", toy_data, "-o", folder, *toy_changes())
    return folder


@pytest.fixture
def toy_dataset(toy_data: Path) -> Dataset:
    return Dataset.load(toy_data)
