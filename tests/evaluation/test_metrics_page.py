"""docs/metrics.md: its example runs, and its table is what comes out."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")


def test_the_worked_example() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    scope: dict[str, dict[str, float]] = {}
    exec(code[1], scope)
    rows = dict(re.findall(r"^\| (\w+@\d) \| (.+?) \|", PAGE, re.MULTILINE))
    assert len(rows) == 8
    for name, text in rows.items():
        assert scope["values"][name] == pytest.approx(float(Fraction(text)), abs=5e-5), name
