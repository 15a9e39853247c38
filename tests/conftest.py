"""Fixtures: checkpoints of toy models, the paper's datasets where they are."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest

from toy_models import save_checkpoint

pytest_plugins = ["toy_runs"]

SHARED_DATA = Path(os.environ.get("SPREC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Holds ``sprec/``, the authors' files of the paper's datasets, and ``raw/``, two real logs; see CONTRIBUTING.md."""


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
