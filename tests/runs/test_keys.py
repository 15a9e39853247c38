"""Settings declare what they affect: each is changed, and the keys of all stages are compared."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sprec.config import (
    SCHEMA,
    Adapt,
    Affects,
    HuggingFace,
    Part,
    Recipe,
    Section,
    Server,
    leaves,
)
from sprec.config.affects import require_declarations
from sprec.data import Dataset
from sprec.methods.preferences import PREFERENCES
from sprec.methods.table import METHODS
from sprec.recommend.protocols import PROTOCOLS, Need, is_read, needs_of
from sprec.runs.keys import EVERYTHING, afterwards, settings_of
from sprec.runs.pipeline import planned
from sprec.runs.recipes import changed, resolve

UPSTREAM = {
    "sft": ["backbone"],
    "rollout-1": ["sft"],
    "sft-1": ["sft"],
    "prefer-1": ["sft", "sft-1", "rollout-1"],
    "evaluate-sft-0": ["sft"],
    "evaluate-sft-1": ["sft-1"],
    "evaluate-prefer-1": ["prefer-1"],
}
"""What each stage is made from, in the paper's loop with one iteration."""
OTHER: Mapping[str, Any] = {
    # values that differ from the base recipe where "one more" is not allowed
    "precision": "bf16",
    "method": "sprec-rn",
    "negatives.source": "popularity",
    "negatives.decode": "sample",
    "negatives.top": None,
    "negatives.max_new_tokens": 7,
    "recommend.max_new_tokens": 7,
    "prefer.objective": "sdpo",
    "prefer.reference": "iteration-start",
    "prefer.reduction": "sum",
    "prompt.style": "official",
    "recommend.caps": [0.5],
    "recommend.encoder": "tfidf",
    "recommend.experts": ["knn", "lm"],
    "recommend.protocol": "exact",
    "recommend.weights": [0.3, 0.7],
    "sasrec.loss": "ce",
    "sasrec.heads": 2,
    "sft.weights": "equal",
    "split": "valid",
    "evaluate": "last",
    "baselines": ["knn"],
    "device": "cpu",
    "track": ["tensorboard"],
    "backbone.heads": 4,
    "backbone.hidden": 256,
    "backbone.samples": 9,
    "stop_below_exact_share": 0.5,
    "description": "another",
    "server": {"url": "http://127.0.0.1:1"},
}
REQUIRED = {"backbone.path", "server.url"}
SKIPPED = {"backbone.kind", "prefer.robust", "negatives.top", "negatives.redraw_equal"}
"""Settings that go with others only; cases of their own below."""


@pytest.fixture(scope="module")
def data(toy_data: Any) -> Dataset:
    return Dataset.load(toy_data)


def part_of(stage: str) -> Part:
    if stage in ("sft-1", "sasrec", "sft", "backbone"):
        return {"sft-1": Part.SFT_STEP, "sasrec": Part.SASREC, "sft": Part.SFT, "backbone": Part.BACKBONE}[stage]
    return Part[stage.partition("-")[0].upper()]


def affected(stages: Iterable[str], parts: Part, recipe: Recipe, gone: Iterable[str] = ()) -> set[str]:
    """The stages of some parts or that are ``gone``, and those that are made from them."""
    found = {stage for stage in stages if part_of(stage) in parts} | {*gone}
    for stage in stages:  # in the order in which they are made
        made_from = list(UPSTREAM.get(stage, []))
        if stage == "prefer-1" and PREFERENCES[recipe.prefer.objective].needs == "smoothing":
            made_from.append("sasrec")
        if stage.startswith("evaluate") and Need.SASREC in needs_of(recipe.recommend):
            made_from.append("sasrec")
        if not found.isdisjoint(made_from):
            found.add(stage)
    return found


def different(name: str, value: Any) -> Any:
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.25
    raise AssertionError(f"give {name} another value in OTHER")


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in leaves(Recipe()) if leaf.name not in SKIPPED], ids=lambda leaf: leaf.name
)
def test_a_changed_setting_changes_the_keys_of_what_it_affects_and_no_others(leaf: Any, data: Dataset) -> None:
    # beams for several negatives, so that their number may change; precision is that of no machine in particular
    plain = ["precision=fp32", "loop.iterations=1", "baselines=[]"]
    base = resolve("demo", [*plain, "negatives.decode=beam", "prefer.objective=sdpo", "negatives.count=2"])
    if leaf.name in ("negatives.decode", "prefer.objective", "server", "negatives.source"):
        base = resolve("demo", plain)
    values = {one.name: one.value for one in leaves(base)}
    other = changed(base, [], nested(leaf.name, different(leaf.name, values.get(leaf.name))))
    before, now = planned(base, data), planned(other, data)
    parts = next(one for one in leaves(other) if one.name == leaf.name).parts(other)
    if not is_read(leaf.name, base.recommend) and not is_read(leaf.name, other.recommend):
        parts &= ~Part.EVALUATE
    both = [name for name in before if name in now]
    changes = affected(before, parts, base, before.keys() - now.keys())
    assert {name for name in both if before[name] != now[name]} == changes & {*both}
    assert before.keys() == now.keys() or Part.PLAN in parts
    assert (settings_of(base, EVERYTHING) == settings_of(other, EVERYTHING)) == (not parts & EVERYTHING)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in METHODS])
def test_lists_depend_on_the_settings_that_their_protocol_reads(protocol: str, data: Dataset) -> None:
    base = resolve("demo", ["method=bigrec", "precision=fp32", f"recommend.protocol={protocol}"])
    before = planned(base, data)["evaluate-sft-0"]
    for leaf in leaves(base):
        if leaf.name.startswith("recommend.") and leaf.name != "recommend.protocol":
            other = changed(base, [], nested(leaf.name, different(leaf.name, leaf.value)))
            now = planned(other, data)["evaluate-sft-0"]
            assert (now != before) == is_read(leaf.name, base.recommend), leaf.name


@pytest.mark.parametrize(
    ("changes", "change", "part"),
    [
        (["method=rosepo"], "sasrec.lr=0.1", Part.PREFER | Part.SASREC),
        (["method=rosepo"], "recommend.encoder=tfidf", Part.ROLLOUT | Part.EVALUATE),
        (["method=rosepo"], "negatives.top=4", Part.ROLLOUT),
        (["method=rosepo"], "prefer.robust=true", Part.PREFER),
        (["method=d3"], "sasrec.lr=0.1", Part.SASREC | Part.EVALUATE),
        (["method=d3"], "sasrec.epochs=7", Part.SASREC | Part.EVALUATE),
        (["method=knn"], "recommend.caps=[0.5]", Part.NOTHING),
        (["method=random"], "seed=5", Part.EVALUATE),
        (["method=popularity"], "seed=5", Part.NOTHING),
        (["method=knn"], "knn.decay=0.1", Part.EVALUATE),
        (["method=sasrec"], "knn.decay=0.1", Part.NOTHING),
        (["method=sasrec"], "prompt.history=3", Part.SASREC | Part.EVALUATE),
        (["method=sasrec"], "prompt.max_tokens=99", Part.NOTHING),
    ],
)
def test_settings_that_matter_in_some_recipes_alone(changes: list[str], change: str, part: Part, data: Dataset) -> None:
    base = ["precision=fp32", "baselines=[]", *changes]
    before, now = planned(resolve("demo", base), data), planned(resolve("demo", [*base, change]), data)
    assert {name for name in before if before[name] != now[name]} == affected(before, part, resolve("demo", base))


def test_no_default_has_changed_without_another_schema() -> None:
    """Keys leave defaults out. A new setting is added to the file; for another default SCHEMA must be raised, too."""
    known = json.loads((Path(__file__).parent / "defaults.json").read_text("utf-8"))
    given, adapted = HuggingFace(path="x"), HuggingFace(path="x", adapt=Adapt())
    recipes = [Recipe(), *(Recipe(backbone=one) for one in (given, adapted)), Recipe(server=Server(url="http://x"))]
    defaults = {leaf.name: leaf.default for recipe in recipes for leaf in leaves(recipe) if leaf.name not in REQUIRED}
    now = json.loads(json.dumps({"SCHEMA": SCHEMA, **defaults}))
    assert {name for name in {**known, **now} if known.get(name, "new") != now.get(name, "gone")} == set()


def test_a_setting_without_a_declaration_fails_at_import() -> None:
    class Undeclared(Section):
        depth: int = 1

    with pytest.raises(TypeError, match="the setting depth does not say what it affects"):
        require_declarations(Undeclared)


def test_what_a_finished_run_may_change() -> None:
    sections = ["recommend", "sasrec", "knn", "cases", "split"]
    assert afterwards() == ["seed", "device", "precision", "tokens_per_batch", *sections]
    assert Affects(Part.SFT).when(Recipe())
