"""A formula alone imports no model library."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("code", ["from sprec.methods import objectives, negatives, table", "import sprec.recommend"])
def test_parts_stay_light(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
