"""Popularity and item kNN stand beside every run."""

from pathlib import Path

import numpy as np
import pytest

from sprec.data import Dataset
from sprec.evaluation import evaluate
from sprec.methods.exclusion import Excluded, nothing_excluded
from sprec.methods.histories import item_counts
from sprec.methods.knn import ItemKnn, Settings
from sprec.methods.trivial import popular_top_k
from sprec.runs import Recommender, health, load_results, run
from sprec.runs.examples import pretraining_examples
from sprec.runs.pipeline import planned
from sprec.runs.recipes import resolve
from sprec.runs.recommender import open_run
from sprec.runs.tables import table_of_results
from sprec.serve.exposure import recorded
from sprec.study.compare import evaluations_of

TINY = ["backbone.hidden=32", "backbone.heads=1", "backbone.layers=1", "backbone.vocabulary=400", "backbone.epochs=1",
        "sft.epochs=1", "method=bigrec", "cases=15"]  # fmt: skip


@pytest.fixture(scope="module")
def beside(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines") / "run"
    run(resolve("demo", TINY), Dataset.load(toy_data), folder)
    return folder


def test_their_metrics_are_those_of_the_functions(beside: Path, toy_dataset: Dataset) -> None:
    results = load_results(beside)
    assert [(one.method, one.baseline) for one in results] == [("popularity", True), ("knn", True), ("bigrec", False)]
    known, items, test = pretraining_examples(toy_dataset), len(toy_dataset.catalog), toy_dataset.test[:15]
    nothing = Excluded.of(nothing_excluded(15, items), items)
    lists = {
        "popularity": popular_top_k(item_counts(known, items), nothing, 5),
        "knn": ItemKnn.count(known, items, Settings()).top_k(test, 5, nothing)[0],
    }
    genres = toy_dataset.catalog.genre_matrix(toy_dataset.genres)
    for result in results[:2]:
        expected = evaluate(lists[result.method], test.targets, test.items, test.offsets, genres)
        for name, value in expected.items():
            assert result.metrics[name] == pytest.approx(value, nan_ok=True), (result.method, name)


def test_they_are_rows_of_the_table_and_never_the_run_itself(beside: Path) -> None:
    rows = [labels[0] for labels, _ in table_of_results(load_results(beside), "").rows]
    assert rows == ["popularity", "knn", "bigrec: sft 0"]
    assert [one.method for one in evaluations_of(beside)] == ["bigrec"]
    assert [one.name for one in recorded(open_run(beside))] == ["bigrec"]
    assert Recommender.load(beside).session.recipe.recommend.protocol == "paper"


def test_a_recipe_chooses_them_and_none_stands_beside_itself(toy_dataset: Dataset) -> None:
    def evaluated(*changes: str) -> list[str]:
        return [name for name in planned(resolve("demo", [*TINY, *changes]), toy_dataset) if "evaluate" in name]

    of_run = ["evaluate-sft-0", "evaluate-baseline-popularity-0", "evaluate-baseline-knn-0"]
    assert evaluated() == of_run
    assert evaluated("baselines=[knn]") == [of_run[0], of_run[2]]
    assert evaluated("baselines=[]") == of_run[:1]
    assert evaluated("method=knn") == ["evaluate-knn-0", of_run[1]]
    assert evaluated("method=knn", "recommend.tilt=true")[1:] == of_run[1:]  # the plain one beside the tilted


def test_their_own_settings_make_them_anew_and_nothing_else(toy_dataset: Dataset) -> None:
    def keys(*changes: str) -> dict[str, str]:
        return planned(resolve("demo", [*TINY, *changes]), toy_dataset)

    before, knn, beams = keys(), keys("knn.decay=0.1"), keys("recommend.beams=4")
    assert {name for name in before if before[name] != knn[name]} == {"evaluate-baseline-knn-0"}
    assert beams == before  # neither the paper's protocol nor a baseline reads them


def test_a_run_that_finds_less_than_a_baseline_says_so() -> None:
    found = health.of_baselines({"NDCG@5": 0.01}, {"popularity": {"NDCG@5": 0.01}, "knn": {"NDCG@5": 0.04}})
    assert found == ["knn (0.0400) has a higher NDCG@5 than the last model (0.0100); do not deploy less than that"]
    (both,) = health.of_baselines({"NDCG@5": 0.01}, {"popularity": {"NDCG@5": 0.02}, "knn": {"NDCG@5": 0.04}})
    assert both.startswith("popularity (0.0200) and knn (0.0400) have a higher NDCG@5 than")
    assert not health.of_baselines({"NDCG@5": 0.05}, {"knn": {"NDCG@5": 0.04}})
    assert not health.of_baselines({"NDCG@5": np.nan}, {"knn": {"NDCG@5": 0.04}})
