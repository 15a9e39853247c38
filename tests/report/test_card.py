"""The folder for the hub: a card that the hub's library reads, weights that load, no paths or data of this machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprec.config import HuggingFace
from sprec.data import Dataset
from sprec.engine.model.backbones import KNOWN
from sprec.report.card import Base, base_of, write_folder
from sprec.runs import run
from sprec.runs.recipes import resolve
from sprec.system.errors import UserError
from toy_runs import TOY, Cli

HOSTILE = "Shop <script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(toy_run: Path, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "model"
    told = cli("push", toy_run, "somebody/films", "--dry-run", out, "--licence", "mit").stdout
    assert told == f"wrote {out}; nothing was uploaded\n"
    return out


def test_the_card_is_in_the_form_of_the_hub(folder: Path, toy_run: Path) -> None:
    """Its library reads the metadata back, the model-index with intervals among it, and would take every file."""
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.model_name == "films"
    metrics = json.loads((toy_run / "metrics.json").read_text())[-1]["metrics"]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) >= {"HR@5", "NDCG@5", "DivRatio@1", "ORRatio@1", "ExactTitles"}
    for name, result in found.items():
        assert result.metric_value == pytest.approx(metrics[name], abs=1e-6)
        assert result.metric_args["low"] <= result.metric_value <= result.metric_args["high"]
        assert (result.dataset_name, result.dataset_split) == ("demo (simulated users)", "test")
    for heading in ("Use", "Data", "Results", "Limits", "Licence", "Training"):
        assert f"\n## {heading}\n" in card.text
    assert "simulated users, not real behaviour" in card.text
    assert f"{found['NDCG@5'].metric_value:.4f} [" in card.text
    for file in folder.rglob("*"):
        CommitOperationAdd(file.relative_to(folder).as_posix(), file)


def test_the_weights_load_and_the_data_stay(folder: Path, toy_run: Path, toy_dataset: Dataset) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() > 10_000
    assert AutoTokenizer.from_pretrained(folder)("Alien")["input_ids"]
    assert not list(folder.rglob("*.parquet"))
    texts = "".join(file.read_text("utf-8") for file in folder.iterdir() if file.suffix in (".md", ".json"))
    assert str(toy_run) not in texts
    assert toy_dataset.catalog.titles[0] not in (folder / "README.md").read_text("utf-8")


def test_names_are_text_in_the_card(toy_dataset: Dataset, tmp_path: Path) -> None:
    data = replace(toy_dataset, name="Shop <script>alert(1)").save(tmp_path / "data")
    settings = [f"{name}={json.dumps(value)}" for name, value in (TOY | {"backbone.epochs": 1}).items()]
    run(resolve("demo", [*settings, "method=bigrec"]), data, tmp_path / "run")
    write_folder(tmp_path / "run", "somebody/shop", tmp_path / "model")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "<script" not in card.text
    assert "Shop &lt;script&gt;alert(1)" in card.text
    assert card.data.eval_results[0].dataset_name == "Shop <script>alert(1)"
    assert card.data.license is None
    assert "Its authors have not stated one." in card.text


def test_mistakes_are_one_line(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    for name, told in (
        ("a b/c", "the hub does not take the name 'a b/c'"),
        ("films", "name the model with its owner: user/films"),
    ):
        with pytest.raises(UserError, match=told):
            write_folder(toy_run, name, tmp_path / "model")
    run(resolve("demo", ["method=knn", "cases=5"]), Dataset.load(toy_data), tmp_path / "knn")
    with pytest.raises(UserError, match="knn trains no language model"):
        write_folder(tmp_path / "knn", "a/b", tmp_path / "model")
    with pytest.raises(UserError, match="already exists"):
        write_folder(toy_run, "a/b", tmp_path)


def test_the_base_model_and_its_licence(tmp_path: Path) -> None:
    recipe = resolve("demo")
    assert base_of(recipe) == Base("", "")

    def given(path: str, **more: object) -> Base:
        backbone = HuggingFace.model_validate({"kind": "huggingface", "path": path, **more})
        return base_of(recipe.model_copy(update={"backbone": backbone}))

    known = KNOWN["smollm2-135m"]
    assert given("smollm2-135m") == Base(known.hub, "apache-2.0")
    assert given("somebody/not-in-the-cache") == Base("somebody/not-in-the-cache", "")
    (tmp_path / "own").mkdir()
    assert given(str(tmp_path / "own"), lora=None) == Base("own", "")
    with pytest.raises(UserError, match=r"an adapter of .*own, a folder that nobody else has"):
        given(str(tmp_path / "own"))


def test_without_the_hub_nothing_is_lost(toy_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sprec", "push", str(toy_run), "somebody/films"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sprec: somebody/films was not uploaded: ")
    assert done.stderr.count("\n") == 1
