"""Each example of docs/extending.md is executed as it stands, and does what it says."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprec.data import Split
from sprec.data.logs import READERS, import_log
from sprec.data.windows import Protocol as Windows
from sprec.data.windows import Sizes
from sprec.evaluation import CatalogFacts, evaluate
from sprec.evaluation.metrics import METRICS
from sprec.methods.negatives import SAMPLERS, Drawing
from sprec.methods.preferences import PREFERENCES
from sprec.recommend.protocols import PROTOCOLS, is_read
from sprec.runs import Recommender
from sprec.runs.recipes import resolve
from sprec.runs.settings import settings
from sprec.runs.stages import preference

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
TABLES: tuple[dict[str, Any], ...] = (PREFERENCES, SAMPLERS, PROTOCOLS, READERS, METRICS)


@pytest.fixture
def added(request: pytest.FixtureRequest) -> Any:
    """Execute the code of a section; the tables are as before afterwards."""
    before = [dict(table) for table in TABLES]
    (code,) = re.findall(rf"^## {request.param}\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/extending.md", "exec"), {})
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("added", ["An objective"], indirect=True)
def test_the_objective(added: None) -> None:
    recipe = resolve("demo", ["prefer.objective=ipo", "prefer.beta=0.25"])
    policy, reference = torch.tensor([[-1.0, -5.0], [-2.0, -2.0]]), torch.tensor([[-2.0, -3.0], [-2.0, -2.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    row = PREFERENCES[recipe.prefer.objective]
    losses = row.loss(policy, reference, mask, {}, recipe.prefer)
    assert losses.tolist() == [1.0, 4.0], "margins 3 and 0, target 2"
    assert preference(recipe.prefer).loss is not None
    (shown,) = [one for one in settings()["prefer"] if one.key == "prefer.objective"]
    assert "ipo" in shown.others


@pytest.mark.parametrize("added", ["A negative sampler"], indirect=True)
def test_the_sampler(added: None) -> None:
    recipe = resolve("demo", ["negatives.source=rare"])
    counts = np.array([9, 9, 9, 0, 9])  # weights 1, 1, 1, 10, 1
    examples = Split.of([([0], 1)] * 4000)
    drawing = Drawing(np.random.default_rng(0), examples, 5, recipe.negatives, lambda: counts, lambda: np.eye(5))
    drawn = np.bincount(SAMPLERS["rare"].draw(drawing)[:, 0], minlength=5) / 4000
    assert drawn[:2].tolist() == [0, 0], "history and target"
    assert drawn[3] == pytest.approx(10 / 12, abs=0.02)


@pytest.mark.parametrize("added", ["A protocol"], indirect=True)
def test_the_protocol(added: None, toy_run: Path) -> None:
    recommender = Recommender.load(toy_run)
    first = recommender.recommend([[0, 1]], k=4, protocol="rarest")[0]
    seen = recommender.recommend([first], k=3, protocol="rarest", exclude_history=True)[0]
    assert recommender.recommend([[0, 1]], k=7, protocol="rarest")[0] == first + seen
    assert not is_read("recommend.beams", resolve("demo", ["recommend.protocol=rarest"]).recommend)


@pytest.mark.parametrize("added", ["A reader"], indirect=True)
def test_the_reader(added: None, tmp_path: Path) -> None:
    films = ["Alien", "Dune", "Heat", "Up", "Big", "Jaws"]
    lines = [
        {"user": name, "chosen": [[f"2024-01-{day + 1:02d}", films[(day + start) % 6]] for day in range(6)]}
        for start, name in enumerate(["ann", "bob", "cai"])
    ]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    windows = Windows(history=3, min_history=3, min_length=5, split="leave-one-out", sizes=Sizes(9, 9, 9, 0))
    dataset = import_log("diary", tmp_path / "log", "diary", windows)
    titles = dataset.catalog.titles
    assert sorted(titles) == sorted(films)
    tested = {tuple(titles[item] for item in [*example.history, example.target]) for example in dataset.test}
    assert tested == {tuple(films[(day + start) % 6] for day in range(2, 6)) for start in range(3)}
    assert "watched" in dataset.wording.instruction


@pytest.mark.parametrize("added", ["A metric"], indirect=True)
def test_the_metric(added: None) -> None:
    facts = CatalogFacts(np.array([1, 7, 3]), [(), (), ()])
    found = evaluate([[0, 1], [2, 0], [1, 2], [0, 2]], [0, 0, 0, 0], [], [0] * 5, np.zeros((3, 0)), (1, 2), facts)
    assert (found["Blockbuster@1"], found["Blockbuster@2"]) == (0.25, 0.5)


def test_every_example_has_a_test() -> None:
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    source = Path(__file__).read_text("utf-8")
    assert sections
    assert [name for name in sections if f'parametrize("added", ["{name}"]' not in source] == []
