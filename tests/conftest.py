"""Fixtures: checkpoints of toy models, the paper's datasets where they are."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest

from toy_models import save_checkpoint

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the paper's datasets are not beside the checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(style: str) -> Path:
        if style not in made:
            made[style] = save_checkpoint(tmp_path_factory.mktemp(style), style)
        return made[style]

    return make
