"""The examples in the docstrings of the public API run and print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = {
    "sprec": 9,
    "sprec.data.catalog": 3,
    "sprec.data.dataset": 7,
    "sprec.evaluation.metrics": 3,
    "sprec.methods.objectives": 3,
    "sprec.runs.recipes": 3,
}
"""Module to how many statements its examples have, so that none is lost unnoticed."""


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_the_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(module), optionflags=doctest.ELLIPSIS)
    assert (result.failed, result.attempted) == (0, EXAMPLES[module])
