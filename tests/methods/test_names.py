"""What the rooms offer can be imported by name, and a formula alone imports no model library."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("room", ["sprec.methods", "sprec.recommend"])
def test_every_public_name_is_there(room: str) -> None:
    module = importlib.import_module(room)
    assert {name for name in module.__all__ if getattr(module, name) is None} == set()
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("code", ["from sprec.methods import objectives, negatives, METHODS", "import sprec.recommend"])
def test_parts_stay_light(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
