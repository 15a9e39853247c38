"""Recipes resolve by the documented order; every shipped one loads; mistakes name the key."""

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sprec.config import HuggingFace, Recipe
from sprec.methods.table import METHODS
from sprec.recommend.protocols import PROTOCOLS
from sprec.runs.finished import read_run
from sprec.runs.recipes import merge, names, resolve
from sprec.runs.settings import Setting, settings
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import Cli


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_shipped_recipe_resolves_for_every_method(name: str, method: str) -> None:
    recipe = resolve(name, [f"method={method}"])
    assert recipe.method == method
    assert recipe.description


def test_the_layers_lie_over_each_other_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "method: sdpo\nprefer: {lr: 0.001, beta: 0.5}\nloop: {iterations: 4}\nmethods: {sdpo: {prefer: {beta: 0.7}}}\n"
    )
    recipe = resolve(str(file), ["prefer.lr=0.01", "sft.samples=7"])
    assert recipe.prefer.objective == "sdpo"  # the method's row
    assert recipe.loop.iterations == 1  # a row is what the method is: it lies over the recipe
    assert resolve(str(file), ["method=sprec"]).loop.iterations == 4
    assert recipe.prefer.beta == 0.7  # the recipe's part for the method over the recipe
    assert recipe.prefer.lr == 0.01  # the command line over all
    assert recipe.sft.samples == 7
    assert resolve(str(file), ["method=dpo"]).prefer.beta == 0.5


def test_another_kind_of_backbone_replaces_all_of_its_settings() -> None:
    base = {"backbone": {"kind": "scratch", "hidden": 64}}
    changed = merge(base, {"backbone": {"kind": "huggingface", "path": "x"}})
    assert changed == {"backbone": {"kind": "huggingface", "path": "x"}}
    assert merge(base, {"backbone": {"kind": "scratch", "layers": 2}})["backbone"]["hidden"] == 64, "the same kind"
    settings = ["backbone.path=gpt2", "backbone.kind=huggingface"]
    for order in (settings, settings[::-1]):
        backbone = resolve("demo", order).backbone
        assert (backbone.kind, getattr(backbone, "path", "")) == ("huggingface", "gpt2")


def test_a_resolved_recipe_survives_json() -> None:
    recipe = resolve("llama-3.2-1b")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["prefer.betta=1"], "prefer.betta: unknown key"),
        (["backbone.hiden=64"], "backbone.hiden: unknown key"),
        (["prefer.beta=-1"], "prefer.beta: Input should be greater than 0"),
        (["prefer.beta=abc"], "prefer.beta: Input should be a valid number"),
        (["prefer.beta=.inf"], "prefer.beta: Input should be a finite number"),
        (["recommend.temperature=.nan"], "recommend.temperature: Input should be a finite number"),
        (["method=spreck"], 'unknown method "spreck"; methods: bigrec, rw'),
        (["seed"], '--set takes key=value, not "seed"'),
        (["seed=[1"], "is not valid YAML"),
        (
            ["negatives.count=3", "negatives.decode=beam"],
            "prefer.objective=dpo takes one negative, not negatives.count=3; use sdpo or dmpo",
        ),
        (
            ["backbone={kind: huggingface, path: x, lora: null, quantize: nf4}"],
            "4-bit weights cannot be trained: keep backbone.lora, or drop backbone.quantize",
        ),
        (["backbone.heads=5"], "hidden (128) must be an even multiple of heads (5)"),
        (["sasrec.heads=5"], "sasrec: hidden (64) must be a multiple of heads (5)"),
        (["prefer.smoothing=true"], "prefer.smoothing: unknown key"),
        (["prefer.objective=ppo"], 'prefer.objective: there is no "ppo"; objectives: dpo, dmpo'),
        (["negatives.source=hard"], 'negatives.source: there is no "hard"; sources: self-play, uniform'),
        (["prefer.robust=true"], "prefer.robust is a form of prefer.objective=smoothed-dpo"),
        (
            ["prefer.objective=weighted-dpo"],
            "prefer.objective=weighted-dpo weighs uniform negatives, not negatives.source=self-play",
        ),
        (
            ["negatives.count=3", "prefer.objective=sdpo"],
            "negatives.decode=greedy gives one answer, not negatives.count=3; take beam or sample",
        ),
        (["method=sprec-weighted", "negatives.source=popularity"], "not negatives.source=popularity"),
        (["method=sprec-weighted", "negatives.source=semantic"], "not negatives.source=semantic"),
        (["recommend.encoder=tfdif"], "recommend.encoder"),
        (["recommend.protocol=exakt"], 'recommend.protocol: there is no "exakt"; protocols: paper, exact'),
        (["seed=-1"], "seed: "),
        (["backbone.seed=4294967296"], "backbone.seed: "),
        (["negatives.top=3"], "negatives.top is for negatives.source=semantic"),
        (["method=rosepo", "negatives.redraw_equal=true"], "negatives.redraw_equal is for negatives.source=self-play"),
    ],
)
def test_mistakes_name_the_key(changes: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve("demo", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- a list\n", "{unclosed", "method: [a]\nmethods: 3\n"])
def test_broken_files_end_in_one_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """The parser would take the last one: here half of the settings of the SFT would be gone without a word."""
    file = tmp_path / "twice.yaml"
    file.write_text("method: dpo\nsft: {lr: 0.001}\nsft:\n  epochs: 2\n")
    with pytest.raises(UserError, match=r"not valid YAML: sft stands there twice, again in line 3$"):
        resolve(str(file))
    file.write_text("sft: {lr: 0.001, epochs: 2}\nsft_step: {lr: 0.001}\n")
    assert resolve(str(file)).sft.epochs == 2


def written(file: Path, recipe: Recipe, version: str, **more: Any) -> Path:
    """A ``recipe.json`` as a run has it."""
    content = recipe.model_dump(mode="json") | more
    file.write_text(json.dumps({"recipe": content, "dataset": {"name": "x"}, "versions": {"sprec": version}}))
    return file


def test_the_recipe_of_a_run_is_a_recipe(tmp_path: Path) -> None:
    """A setting that a row would change back stays, but for another method; trust is not handed on."""
    recipe = resolve("demo", ["method=sdpo", "loop.iterations=3", "negatives.count=2", "seed=5"])
    file = written(tmp_path / "recipe.json", recipe, "0.1.0")
    assert resolve(str(file)) == recipe
    assert resolve(str(file), ["sft.samples=9"]) == recipe.model_copy(
        update={"sft": recipe.sft.model_copy(update={"samples": 9})}
    )
    other = resolve(str(file), ["method=dmpo"])
    assert (other.loop.iterations, other.negatives.count, other.prefer.objective, other.seed) == (1, 3, "dmpo", 5)
    trusting = resolve("demo", ["backbone={kind: huggingface, path: x, trust_remote_code: true, allow_pickle: true}"])
    written(file, trusting, "0.1.0")
    backbone = resolve(str(file)).backbone
    assert isinstance(backbone, HuggingFace)
    assert (backbone.path, backbone.trust_remote_code, backbone.allow_pickle) == ("x", False, False)


@pytest.mark.parametrize(
    ("version", "told"), [("0.0.9", ""), ("9.1.0", r"; it was written by sprec 9\.1\.0, this is 0")]
)
def test_what_a_newer_version_wrote_names_it(tmp_path: Path, version: str, told: str) -> None:
    file = written(tmp_path / "recipe.json", resolve("demo"), version, later=1)
    with pytest.raises(UserError, match=rf"later: unknown key{told}" + ("$" if not told else "")):
        resolve(str(file))
    with pytest.raises(UserError, match=rf"later: unknown key{told}" + ("$" if not told else "")):
        read_run(tmp_path)
    about = {"format": 2, "versions": {"sprec": version}, "files": {}}
    storage.write_json(tmp_path / storage.MANIFEST, about | {"sha256": storage.digest(about)})
    assert re.search(rf"has format 2, this version reads 1{told}", storage.verify(tmp_path))


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").stdout == f"sprec {metadata.version('sprec')}\n"


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r'no recipe "demmo".*demo, demo-lm, goodreads-scratch'):
        resolve("demmo")


def test_settings_have_the_defaults_of_the_recipe_and_what_else_they_may_be() -> None:
    parts = settings()
    found = {setting.key: setting for title, group in parts.items() for setting in group if "huggingface" not in title}
    assert found["sft_step.lr"].default == "2.0e-05"  # not that of any training
    assert found["sft.lr"].default == "0.0003"
    assert found["recommend.protocol"][1:3] == ("paper", tuple(name for name in PROTOCOLS if name != "paper"))
    assert found["server"].default == "null"
    assert found["negatives.top"] == Setting(
        "negatives.top",
        "null",
        (),
        "Draw the semantic negatives from this many most similar items; null takes the most similar ones.",
    )
    language_model = {setting.key: setting for setting in parts["backbone, kind: huggingface"]}
    assert language_model["backbone.path"].default == "REQUIRED"
    assert language_model["backbone.lora"][1:3] == ("{...}", ("null",))
    assert language_model["backbone.quantize"][1:3] == ("null", ("nf4",))


def test_every_setting_is_listed_and_its_default_is_what_set_takes() -> None:
    def leaves(content: dict[str, Any], path: str = "") -> set[str]:
        inner = {key: value for key, value in content.items() if isinstance(value, dict)}
        return {path + key for key in content if key not in inner}.union(
            *(leaves(value, f"{path}{key}.") for key, value in inner.items())
        )

    absent = {"server", "backbone, kind: huggingface", "backbone.lora", "backbone.adapt"}  # from a recipe of defaults
    listed = {setting.key: setting for title, group in settings().items() for setting in group if title not in absent}
    whole = leaves(Recipe().model_dump(mode="json"))
    assert set(listed) == whole
    changes = [f"{key}={listed[key].default}" for key in sorted(whole)]
    assert resolve("demo", changes) == Recipe()
