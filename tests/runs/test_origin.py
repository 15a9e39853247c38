"""A run that continues another one: its model, its backbone, and only rows that it has not seen."""

import json
from pathlib import Path
from typing import Any

import pytest

from sprec.data import Dataset
from sprec.runs import Recommender
from sprec.runs import run as run_recipe
from sprec.runs.lineage import lineage
from sprec.runs.recipes import resolve
from sprec.study.compare import compare_runs
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import Cli

OLD, NEW = 200, 40


@pytest.fixture(scope="module")
def newer(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the toy data, rotated by one item: 40 new ones behind 200 that the run has seen."""
    data = Dataset.load(toy_data)
    rows = [data.train[row] for row in range(OLD)]
    fresh = [((*history[1:], target), history[0]) for history, target in (data.train[row] for row in range(NEW))]
    seen = {(row.history, row.target) for row in data.train}
    assert not seen & set(fresh)
    train = data.train.of([*rows, *fresh])
    folder = tmp_path_factory.mktemp("newer") / "data"
    Dataset(
        "newer", data.catalog, {"train": train, "valid": data.valid, "test": data.test}, data.genres, data.wording
    ).save(folder)
    return folder


def yesterday(about: dict[str, Any]) -> dict[str, Any]:
    """The content of recipe.json as it would be had the run begun on another day."""
    return about | {"lineage": [step | {"date": "2026-01-01"} for step in about["lineage"]]}


def reseal(run: Path) -> None:
    manifest = storage.read_manifest(run)
    storage.seal(run, {name: manifest[name] for name in ("stages", "backbone")}, list(manifest["files"]))


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))


def test_a_run_goes_on_from_another(cli: Cli, toy_run: Path, newer: Path, tmp_path: Path) -> None:
    command = ("run", toy_run / "recipe.json", "--data", newer, "--from", toy_run, "-o", tmp_path / "next")
    done = cli(*command)
    assert "pretrain" not in done.stderr
    backbone = tmp_path / "next" / "backbone" / "model"
    assert bytes_of(backbone) == bytes_of(toy_run / "backbone" / "model")
    sft = json.loads(next((tmp_path / "next" / "stages").glob("*-sft/MANIFEST.json")).read_text())
    assert sft["depends"]["start"] == storage.digest(storage.read_manifest(toy_run))[:24]
    steps = [
        json.loads(line)
        for line in next((tmp_path / "next" / "stages").glob("*-sft/log.jsonl")).read_text().splitlines()
    ]
    assert len(steps) == -(-NEW // 16), "an epoch of the 40 new rows, 16 at a time"
    rollouts = next((tmp_path / "next" / "stages").glob("*-rollout-1/rollouts.jsonl")).read_text().splitlines()
    rows = {json.loads(line)["row"] for line in rollouts}
    assert rows <= set(range(OLD, OLD + NEW))
    assert len(rows) > 10
    assert [step["change"] for step in lineage(tmp_path / "next")] == ["train"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "next" / "stages").rglob("*") if file.is_file()}
    about = tmp_path / "next" / "recipe.json"
    about.write_text(storage.as_text(yesterday(json.loads(about.read_text()))))
    reseal(tmp_path / "next")
    cli(*command)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert lineage(tmp_path / "next")[0]["date"] == "2026-01-01", "the step is as old as it is"
    assert "another --from" in cli(*command[:4], "-o", tmp_path / "next", code=2).stderr
    assert "toy: trained further" in cli("show", tmp_path / "next").stdout
    recommender = Recommender.load(tmp_path / "next")
    assert not recommender.session.changed_items
    assert len(recommender.recommend([[1, 2]], 3, protocol="knn")[0]) == 3
    assert "lists kept in" in cli("evaluate", tmp_path / "next").stderr
    metrics, _ = compare_runs([tmp_path / "next"])
    assert [labels[0] for labels, _ in metrics.rows] == ["bigrec", "sprec"]


def test_what_cannot_go_on_is_one_line(toy_run: Path, toy_data: Path, newer: Path, tmp_path: Path) -> None:
    recipe, data = resolve(str(toy_run / "recipe.json")), Dataset.load(newer)
    with pytest.raises(UserError, match=r"has no training row that .*toy has not seen; import a newer log"):
        run_recipe(recipe, Dataset.load(toy_data), tmp_path / "next", start=toy_run)
    with pytest.raises(UserError, match=r"backbone differs from that of .*toy, and --from trains the"):
        run_recipe(resolve("demo"), data, tmp_path / "next", start=toy_run)
    knn = resolve("demo", ["method=knn"])
    with pytest.raises(UserError, match="--from goes on training a language model, and knn has none"):
        run_recipe(knn, data, tmp_path / "next", start=toy_run)
    with pytest.raises(UserError, match="is not a run"):
        run_recipe(recipe, data, tmp_path / "next", start=tmp_path)
    assert not (tmp_path / "next").exists()
