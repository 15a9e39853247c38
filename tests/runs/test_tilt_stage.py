"""The tilt in a run: learned as a stage, kept for serving, the same for one user and for many."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sprec.data import Dataset
from sprec.methods.knn import ItemKnn, Settings
from sprec.methods.tilt import Scored, choose_tilt, genre_shares
from sprec.runs import Recommender, evaluate_run, load_results, run
from sprec.runs.examples import held_examples, pretraining_examples, recent_histories
from sprec.runs.pipeline import planned
from sprec.runs.recipes import resolve
from sprec.system import storage
from sprec.system.errors import UserError

TILTED = ["method=knn", "cases=20", "baselines=[]", "recommend.tilt=true", "recommend.caps=[0.2,0.1]",
          "recommend.candidates=40"]  # fmt: skip


@pytest.fixture(scope="module")
def tilted(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tilt") / "run"
    run(resolve("demo", TILTED), Dataset.load(toy_data), folder)
    return folder


def lists(folder: Path) -> list[list[int]]:
    (file,) = folder.glob("stages/*-evaluate-*/recommendations.parquet")
    found: list[list[int]] = pl.read_parquet(file)["items"].to_list()
    return found


def test_the_lists_are_those_of_the_functions(tilted: Path, toy_dataset: Dataset) -> None:
    items, genres = len(toy_dataset.catalog), toy_dataset.catalog.genre_matrix(toy_dataset.genres)
    knn = ItemKnn.count(pretraining_examples(toy_dataset), items, Settings())

    def scored(part: str) -> Scored:
        split = held_examples(toy_dataset) if part == "held" else toy_dataset.splits[part]
        return Scored.best(knn.log_probs(split), 40)

    shares = genre_shares(recent_histories(toy_dataset), genres)
    targets = toy_dataset.valid.targets
    chosen = choose_tilt(scored("valid"), targets, scored("held"), genres, shares, (None, 0.2, 0.1))
    assert lists(tilted) == scored("test").top(5, chosen.tilt.offset(genres)).tolist()
    about = json.loads((tilted / "tilt" / "tilt.json").read_text())
    assert about["cap"] == chosen.cap
    assert list(about["kept"].values()) == pytest.approx(list(chosen.kept.values()), abs=1e-4)


def test_a_user_alone_gets_the_list_that_the_user_gets_among_others(tilted: Path, toy_dataset: Dataset) -> None:
    recommender = Recommender.load(tilted)
    histories = [list(example.history) for example in toy_dataset.test[:20]]
    together = recommender.recommend(histories)
    assert together == lists(tilted) == [recommender.recommend([history])[0] for history in histories]
    plain = recommender.recommend(histories, tilt=False)
    assert together != plain
    assert recommender.recommend(histories, tilt_strength=0) == plain
    changes = [sum(a != b for a, b in zip(recommender.recommend(histories, tilt_strength=s), plain, strict=True))
               for s in (0.25, 1, 10)]  # fmt: skip
    assert changes == sorted(changes)
    assert 0 < changes[0] < changes[2]
    assert [row[:3] for row in together] == recommender.recommend(histories, k=3)


def test_the_kept_tilt_is_served_and_another_one_is_learned_when_asked_for(
    tilted: Path, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = Recommender.load(tilted)
    history = [list(toy_dataset.test[0].history)]
    unseen = recommender.recommend(history, exclude_history=True)[0]
    assert not set(unseen) & set(history[0])
    assert len(recommender.session.offsets) == 1  # of the lists without histories: they have a tilt of their own
    monkeypatch.setattr("sprec.runs.tilt_stage._learn", None)
    assert recommender.recommend(history, exclude_history=True)[0] == unseen
    assert recommender.recommend(history) == [lists(tilted)[0]]
    assert evaluate_run(tilted) == pytest.approx(dict(load_results(tilted)[-1].metrics), nan_ok=True)


def test_nothing_is_learned_again_unless_it_would_differ(tilted: Path, toy_dataset: Dataset) -> None:
    def made() -> dict[str, int]:
        return {stage.name: (stage / storage.MANIFEST).stat().st_mtime_ns for stage in tilted.glob("stages/*")}

    before = made()
    assert sorted(before) == ["00-tilt-knn-0", "01-evaluate-knn-0"]
    run(resolve("demo", [*TILTED, "recommend.beams=3"]), toy_dataset, tilted)
    assert made() == before
    run(resolve("demo", [*TILTED, "recommend.top_k=6"]), toy_dataset, tilted, overwrite=True)
    assert made()["00-tilt-knn-0"] == before["00-tilt-knn-0"]
    assert made()["01-evaluate-knn-0"] != before["01-evaluate-knn-0"]
    run(resolve("demo", TILTED), toy_dataset, tilted, overwrite=True)


@pytest.mark.parametrize("method", ["sasrec", "bigrec"])
def test_other_scores_are_tilted_too(method: str, toy_dataset: Dataset, tmp_path: Path) -> None:
    tiny = ["backbone.hidden=32", "backbone.heads=1", "backbone.layers=1", "backbone.vocabulary=400", "sft.epochs=1",
            "baselines=[]", "backbone.epochs=1", "sasrec.epochs=1", "recommend.candidates=12", "cases=8"]  # fmt: skip
    exact = ["recommend.protocol=exact"] if method == "bigrec" else []
    recipe = resolve("demo", [*tiny, f"method={method}", *exact, "recommend.tilt=true"])
    run(recipe, toy_dataset, tmp_path / "run")
    histories = [list(example.history) for example in toy_dataset.test[:8]]
    recommender = Recommender.load(tmp_path / "run")
    assert recommender.recommend(histories) == lists(tmp_path / "run")
    best = np.array(recommender.recommend(histories, k=12, tilt=False))
    assert all(
        set(own) <= set(candidates) for own, candidates in zip(lists(tmp_path / "run"), best.tolist(), strict=True)
    )


def test_what_cannot_be_tilted_is_refused(toy_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recommend.protocol=paper has none; these have: exact, sasrec, knn"):
        run(resolve("demo", ["recommend.tilt=true"]), toy_dataset, tmp_path / "run")
    without = Dataset("rows", toy_dataset.catalog, {**toy_dataset.splits, "valid": toy_dataset.valid[:0]},
                      toy_dataset.genres, toy_dataset.wording).save(tmp_path / "data")  # fmt: skip
    with pytest.raises(UserError, match=r"has none; import a valid split"):
        run(resolve("demo", TILTED), without, tmp_path / "run")


def test_a_finished_run_refuses_a_tilt_that_would_do_nothing(tilted: Path, toy_run: Path) -> None:
    message = r"recommend.protocol=\w+ has none; these have: exact, sasrec, knn"
    with pytest.raises(UserError, match=message):
        evaluate_run(toy_run, ["recommend.tilt=true"])
    with pytest.raises(UserError, match=message):
        Recommender.load(toy_run, ["recommend.tilt=true"])
    with pytest.raises(UserError, match=message):
        Recommender.load(tilted).recommend([[0, 1]], protocol="popularity")
    assert len(Recommender.load(tilted).recommend([[0, 1], []], protocol="popularity", tilt=False)) == 2


def test_keys_follow_what_a_tilt_is_made_of(toy_dataset: Dataset) -> None:
    def keys(*changes: str) -> dict[str, str]:
        return planned(resolve("demo", [*TILTED, *changes]), toy_dataset)

    before = keys()
    assert list(before) == ["tilt-knn-0", "evaluate-knn-0"]
    for change in (
        "knn.decay=0.1",
        "recommend.caps=[0.5]",
        "recommend.candidates=30",
        "recommend.exclude_history=true",
    ):
        assert not {*keys(change).values()} & {*before.values()}, change
    for change in ("recommend.top_k=3", "cases=9", "split=valid"):
        now = keys(change)
        assert now["tilt-knn-0"] == before["tilt-knn-0"], change
        assert now["evaluate-knn-0"] != before["evaluate-knn-0"], change
    assert list(keys("recommend.tilt=false")) == ["evaluate-knn-0"]
