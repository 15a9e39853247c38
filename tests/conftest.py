"""Fixtures: checkpoints of toy models, the paper's datasets if they are there."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest

from toy_models import save_checkpoint

pytest_plugins = ["toy_runs"]

SHARED_DATA = Path(os.environ.get("SPREC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Holds ``sprec/``, the authors' files of the paper's datasets, and ``raw/``, two real logs; see CONTRIBUTING.md."""


TIERS = {"slow", "gpu", "nightly"}
RUNS = {"cli", "toy_run", "run", "whole", "shared_data"}
"""Fixtures of tests that start runs or processes, or read the paper's data."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow by their fixtures, and the rest as ``unit``."""
    for item in items:
        if RUNS & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        if not TIERS & {mark.name for mark in item.iter_markers()}:
            item.add_marker("unit")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("SPREC_TEST_DATA names no folder with the paper's datasets (CONTRIBUTING.md)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(style: str) -> Path:
        if style not in made:
            made[style] = save_checkpoint(tmp_path_factory.mktemp(style), style)
        return made[style]

    return make
