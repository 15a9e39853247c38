"""Valid files of another run are not used, and no file of a run gives permissions."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sprec.data import Catalog, Dataset
from sprec.recommend.encoders import Encoder
from sprec.recommend.grounding import Grounder
from sprec.runs import Recommender, run
from sprec.runs.evaluations import evaluate_run
from sprec.runs.recipes import resolve, validate
from sprec.runs.stages import given
from sprec.study.compare import compare_runs
from sprec.study.records import Record, of_run
from sprec.system import storage
from sprec.system.errors import UserError
from toy_models import add_code
from toy_runs import Cli, toy_changes

HISTORY = [["Alien (1979)"]]


@pytest.fixture(scope="module")
def other_run(cli: Cli, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy run with another backbone, and so with other stages: as valid as it is."""
    folder = tmp_path_factory.mktemp("other") / "run"
    cli("run", "demo", "--data", toy_data, "-o", folder, *toy_changes(backbone__seed=5))
    return folder


@pytest.fixture
def mine(toy_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def replaced(part: str, mine: Path, other: Path) -> None:
    shutil.rmtree(mine / part)
    shutil.copytree(other / part, mine / part)


def resealed(root: Path) -> None:
    """A manifest forged after files were changed."""
    manifest = storage.read_manifest(root)
    storage.seal(root, {name: manifest[name] for name in ("stages", "backbone")}, list(manifest["files"]))


def test_another_run_s_backbone_encodes_no_titles(mine: Path, other_run: Path) -> None:
    replaced("backbone", mine, other_run)
    resealed(mine)
    assert storage.verify(mine) == ""
    with pytest.raises(UserError, match=r"backbone belongs to another run.*the same sprec run command repairs it"):
        Recommender.load(mine)
    with pytest.raises(UserError, match="backbone belongs to another run"):
        of_run(mine, "key", 0.0, "fp32")


def test_another_run_s_evaluation_is_not_compared_or_put_on_record(mine: Path, other_run: Path) -> None:
    replaced("stages/07-evaluate-prefer-1", mine, other_run)
    for use in (lambda: compare_runs([mine]), lambda: of_run(mine, "key", 0.0, "fp32")):
        with pytest.raises(UserError, match="07-evaluate-prefer-1 belongs to another run"):
            use()


def test_another_dataset_is_not_the_run_s(mine: Path, toy_data: Path) -> None:
    shutil.rmtree(mine / "dataset")
    data = Dataset.load(toy_data)
    Dataset(data.name, data.catalog, dict(data.splits) | {"test": data.valid}, data.genres, data.wording).save(
        mine / "dataset"
    )
    uses: Sequence[Callable[[], object]] = (
        lambda: Recommender.load(mine),
        lambda: evaluate_run(mine),
        lambda: compare_runs([mine]),
    )
    for use in uses:
        with pytest.raises(UserError, match="dataset is not the data that the run was made from"):
            use()


NUMBERS = Encoder("numbers", lambda texts: torch.tensor([[float(text)] for text in texts]))


def test_embeddings_of_other_titles_are_encoded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def embedded(*titles: str) -> list[float]:
        found: list[float] = Grounder(NUMBERS, Catalog.of(titles), tmp_path).item_embeddings[:, 0].tolist()
        return found

    assert embedded("1", "2") == [1.0, 2.0]
    (first,) = tmp_path.iterdir()
    assert embedded("3", "4") == [3.0, 4.0]
    (second,) = set(tmp_path.iterdir()) - {first}
    shutil.copy(first, second)
    assert embedded("3", "4") == [3.0, 4.0]
    assert "of other titles" in capsys.readouterr().err


def test_the_recipe_of_a_run_runs_no_code(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], Path]
) -> None:
    """A run from elsewhere whose recipe trusts the code next to its weights."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    marker, model = tmp_path / "ran", mine / "model"
    add_code(model, marker)
    about = json.loads((mine / "recipe.json").read_text())
    about["recipe"]["backbone"] = {"path": str(checkpoint("llama")), "kind": "huggingface", "lora": None}
    about["recipe"]["backbone"] |= {"trust_remote_code": True, "allow_pickle": True}
    about["recipe"]["recommend"]["encoder"] = "tfidf"
    storage.write_json(mine / "recipe.json", about)
    manifest = storage.read_manifest(mine)
    keys = {"stages": manifest["stages"], "backbone": given(validate(about["recipe"], "")).key}
    storage.seal(mine, keys, [*manifest["files"], "model/theirs.py"])
    with pytest.raises(UserError, match=r"brings code of its own; .* pass --set backbone.trust_remote_code=true"):
        Recommender.load(mine).recommend(HISTORY)
    with pytest.raises(UserError, match="brings code of its own"):
        evaluate_run(mine)
    assert not marker.exists()
    assert len(Recommender.load(mine, ["backbone.trust_remote_code=true"]).recommend(HISTORY, k=3)[0]) == 3
    assert marker.exists()


@pytest.mark.parametrize("permission", ["trust_remote_code", "allow_pickle"])
def test_a_recipe_file_permits_nothing(permission: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"backbone: {{kind: huggingface, path: somebody/model, {permission}: true}}\n")
    with pytest.raises(UserError, match=rf"a file cannot permit backbone.{permission}; pass --set"):
        resolve(str(file))
    file.write_text("backbone: {kind: huggingface, path: somebody/model}\n")
    assert getattr(resolve(str(file), [f"backbone.{permission}=true"]).backbone, permission) is True


def test_a_record_that_was_edited_is_noticed(mine: Path, tmp_path: Path) -> None:
    record = of_run(mine, "key", 1.25, "fp32")
    file = tmp_path / "record.json"
    record.write(file)
    assert Record.read(file).lists.tolist() == record.lists.tolist()
    written = json.loads(file.read_text())
    edits: list[Callable[[dict[str, Any]], None]] = [
        lambda found: found["lists"][3].reverse(),
        lambda found: found["results"][-1]["metrics"].update({"HR@5": 0.5}),
        lambda found: found.update(backbone="another"),
        lambda found: found.pop("digest"),
    ]
    for edit in edits:
        found = json.loads(file.read_text())
        edit(found)
        file.write_text(json.dumps(found))
        with pytest.raises(UserError, match="is damaged or was edited; remove it"):
            Record.read(file)
        file.write_text(json.dumps(written))
    assert Record.read(file).key == "key", "its layout does not matter"


def test_another_recipe_replaces_a_finished_run_only_when_told(
    mine: Path, toy_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = resolve("demo", [part for part in toy_changes() if part != "--set"])
    before = {file: file.read_bytes() for file in mine.rglob("*") if file.is_file() and file.name != ".lock"}
    other = resolve("demo", [part for part in toy_changes(prefer__beta=0.2) if part != "--set"])
    with pytest.raises(UserError, match=r"06-prefer-1 would be made again \(another prefer.beta\).*--overwrite"):
        run(other, toy_dataset, mine)
    assert {file: file.read_bytes() for file in mine.rglob("*") if file.is_file() and file.name != ".lock"} == before
    run(other, toy_dataset, mine, overwrite=True)
    assert storage.verify(mine) == ""
    further = other.model_copy(update={"loop": other.loop.model_copy(update={"iterations": 2}), "description": "more"})
    run(further, toy_dataset, mine)  # what is there stays, and more is made
    assert recipe.prefer.beta != other.prefer.beta
