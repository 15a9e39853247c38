"""Experts in a run: the product of what each gives alone, weights chosen on validation rows, kept and served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split, Wording
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.train.scoring import score
from sprec.methods.experts import choose_weights, normalised, of_titles, product
from sprec.methods.knn import ItemKnn, Settings
from sprec.recommend.protocols import Need, needs_of
from sprec.runs import Recommender, evaluate_run, load_results, run
from sprec.runs.examples import pretraining_examples, prompts
from sprec.runs.pipeline import planned
from sprec.runs.recipes import resolve
from sprec.runs.sasrec_stage import load_sasrec
from sprec.system.errors import UserError

ITEMS = 40
TINY = ["backbone.hidden=32", "backbone.heads=1", "backbone.layers=1", "backbone.vocabulary=400",
        "backbone.epochs=2", "backbone.lr=0.01",
        "sft.epochs=1", "method=bigrec", "cases=15", "sasrec.epochs=2", "precision=fp32", "recommend.protocol=scores",
        "recommend.beams=4", "baselines=[]"]  # fmt: skip
ALL = "recommend.experts=[lm,knn,sasrec]"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Everyone walks on by one or two of forty places."""
    rng = np.random.default_rng(0)

    def walkers(n: int) -> Split:
        steps = (rng.integers(0, ITEMS, (n, 1)) + np.cumsum(rng.integers(1, 3, (n, 5)), axis=1)) % ITEMS
        return Split.of([(row[:-1], row[-1]) for row in steps.tolist()])

    catalog = Catalog.of([f"place {i}" for i in range(ITEMS)], [[("low", "high")[i > 15]] for i in range(ITEMS)])
    splits = {name: walkers(n) for name, n in (("train", 120), ("valid", 12), ("test", 15), ("extra", 8))}
    made = Dataset("walk", catalog, splits, ("low", "high"), Wording("places", "visited", "place"))
    return made.save(tmp_path_factory.mktemp("walk") / "data")


@pytest.fixture(scope="module")
def experts(walk: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "run"
    run(resolve("demo", [*TINY, ALL]), walk, folder)
    return folder


def each(recommender: Recommender, dataset: Dataset, split: Split) -> list[np.ndarray]:
    """Log-probabilities of all items by each expert, the model asked for all titles one by one."""
    session, items = recommender.session, len(dataset.catalog)
    knn = ItemKnn.count(pretraining_examples(dataset), items, Settings()).log_probs(split)
    sasrec = normalised(load_sasrec(session).scores(split).double().numpy())
    policy = session.policy(recommender.final)
    answers = tuple(policy.encode_completions([session.builder.respond(title) for title in dataset.catalog.titles]))
    asked = prompts(policy, session.builder, split, "generate", 512)
    whole = np.array([own.double().numpy() for own in score(policy, [PromptGroup(ask, answers) for ask in asked])])
    known = np.full((len(split), 12), -1)
    for row in range(len(split)):
        best = [np.argsort(-values[row], kind="stable")[:4] for values in (whole, knn, sasrec)]
        union = list(dict.fromkeys(np.concatenate(best).tolist()))
        known[row, : len(union)] = union
    values = np.take_along_axis(whole, np.maximum(known, 0), axis=1)
    return [of_titles(known, values, np.ones(items, dtype=int)), knn, sasrec]


def test_the_lists_are_the_best_of_the_product(experts: Path, walk: Dataset) -> None:
    recommender, test = Recommender.load(experts), walk.test[:15]
    weights = tuple(json.loads((experts / "weights" / "weights.json").read_text())["weights"])
    blocks = [(each(recommender, walk, walk.valid), walk.valid.targets)]
    assert weights == choose_weights(blocks, 3)
    for chosen in (weights, (0.4, 0.4, 0.2)):
        total = product(each(recommender, walk, test), chosen)
        found = recommender.recommendations([list(e.history) for e in test], weights=chosen)
        assert found.items.tolist() == np.argsort(-total, axis=1, kind="stable")[:, :5].tolist()
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, -np.sort(-total, axis=1)[:, :5], atol=1e-5)


def test_a_finished_run_serves_the_weights_that_it_chose(
    experts: Path, walk: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender, histories = Recommender.load(experts), [list(e.history) for e in walk.test[:15]]
    without = recommender.recommend(histories, experts=["knn"], weights=[1.0])
    assert without == recommender.recommend(histories, protocol="knn")
    monkeypatch.setattr("sprec.runs.weights_stage._choose", None)
    together = recommender.recommend(histories)
    assert together == [recommender.recommend([history])[0] for history in histories]
    assert evaluate_run(experts) == pytest.approx(dict(load_results(experts)[-1].metrics), nan_ok=True)
    with pytest.raises(TypeError):  # others would have to be chosen
        recommender.recommend(histories, experts=["lm", "knn"])
    seen = recommender.recommend(histories, weights=(0.4, 0.4, 0.2), exclude_history=True)
    assert not any(set(own) & set(history) for own, history in zip(seen, histories, strict=True))


def test_experts_without_a_model_and_with_a_tilt(walk: Dataset, tmp_path: Path) -> None:
    changes = ["method=knn", "recommend.experts=[knn,sasrec]", "recommend.tilt=true", "recommend.caps=[0.3]",
               "recommend.candidates=20"]  # fmt: skip
    recipe = resolve("demo", [*TINY, *changes])
    assert list(planned(recipe, walk)) == ["sasrec", "weights-knn-0", "tilt-knn-0", "evaluate-knn-0"]
    results = run(recipe, walk, tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    histories = [list(e.history) for e in walk.test[:15]]
    assert recommender.recommend(histories) == [recommender.recommend([history])[0] for history in histories]
    assert evaluate_run(tmp_path / "run") == pytest.approx(dict(results[-1].metrics), nan_ok=True)


def test_only_the_experts_that_are_named_are_needed() -> None:
    def needs(*changes: str) -> Need:
        return needs_of(resolve("demo", [*TINY, *changes]).recommend)

    assert needs() == Need.MODEL | Need.BEAMS | Need.KNN
    assert needs("recommend.experts=[sasrec,knn]") == Need.SASREC | Need.KNN
    assert needs(ALL) == Need.MODEL | Need.BEAMS | Need.SASREC | Need.KNN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recommend.weights=[0.5]", "one number for each of lm, knn, and they sum to 1"),
        ("recommend.weights=[0.5,0.6]", "one number for each of lm, knn, and they sum to 1"),
        ("recommend.experts=[knn,knn]", "each of the recommenders once"),
        ("recommend.experts=[]", "each of the recommenders once"),
    ],
)
def test_weights_and_experts_that_do_not_fit_are_refused(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("demo", [*TINY, change])


def test_without_validation_rows_weights_must_be_given(walk: Dataset, tmp_path: Path) -> None:
    splits: dict[str, Any] = {**walk.splits, "valid": walk.valid[:0]}
    bare = Dataset("bare", walk.catalog, splits, walk.genres, walk.wording).save(tmp_path / "bare")
    with pytest.raises(UserError, match="the weights of experts are chosen on validation rows, and bare has none"):
        run(resolve("demo", [*TINY, "sft.valid=0"]), bare, tmp_path / "run")
