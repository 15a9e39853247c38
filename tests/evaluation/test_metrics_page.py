"""docs/metrics.md: its example runs and gives its table, and its new metric works."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from sprec.evaluation import METRICS, bootstrap, compare, direction, metrics, selected, table_of_methods
from sprec.evaluation.cases import accumulate

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_worked_example() -> None:
    scope: dict[str, dict[str, float]] = {}
    exec(BLOCKS[0], scope)
    rows = dict(re.findall(r"^\| (\w+@\d) \| (.+?) \|", PAGE, re.MULTILINE))
    assert len(rows) == 15
    assert {name.partition("@")[0] for name in rows} == set(METRICS) - {"ExactTitles"}
    for name, text in rows.items():
        assert scope["values"][name] == pytest.approx(float(Fraction(text)), abs=5e-5), name


def test_every_metric_is_explained() -> None:
    for row in METRICS.values():
        arrow = {1: "↑", -1: "↓"}[row.direction]
        assert re.search(rf"\*\*{row.at(0).replace('@0', '@k')} ?{arrow}", PAGE), row.name


def test_a_new_metric_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's MRR on the page's example: second in case 1, first in case 2."""
    monkeypatch.setitem(METRICS, "MRR", METRICS["HR"])  # so that the name is gone after the test
    exec(BLOCKS[1], dict(vars(metrics)))
    lists, targets = [[0, 1], [0, 2], [3, 0], [2, 4]], [1, 0, 4, 3]
    cases = accumulate(lists, targets, [0] * 4, range(5), [[1.0]] * 5, (1, 2))
    assert metrics.measure(cases)["MRR@1"] == 1 / 4
    assert metrics.measure(cases)["MRR@2"] == (1 / 2 + 1) / 4
    assert direction("MRR@2") == 1
    assert selected("MRR", metrics.measurable(cases)) == ["MRR@1", "MRR@2"]
    sample = bootstrap([cases], 500)
    table = table_of_methods({"ours": sample}, metrics=["MRR@2"])
    assert "| method | MRR@2 ↑ |" in table.markdown()
    found = dict(table.rows)["ours",]["MRR@2"]
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < 3 / 8 < found.high <= 1
    other = bootstrap([accumulate(lists[::-1], targets, [0] * 4, range(5), [[1.0]] * 5, (1, 2))], 500)
    difference = compare(sample, other)["MRR@2"]
    assert difference.value == pytest.approx(3 / 8 - 1 / 8), "reversed, only case 2 has its target, second"
    assert difference.p == 2 / 2**2, "two cases differ, and a coin falls twice on one side in half of all tries"
