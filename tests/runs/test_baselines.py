"""Every baseline of the paper at toy size through the command line, sharing backbone, SFT and SASRec."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner, Result

from sprec.cli import app
from sprec.data import Catalog, Dataset, Split
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.train.scoring import score
from sprec.engine.train.stage import plan
from sprec.methods.knn import ItemKnn, Settings
from sprec.methods.negatives import semantic
from sprec.methods.sasrec import SASRec
from sprec.methods.weights import Variant, reweighting
from sprec.runs import Recommender, load_results
from sprec.runs.examples import preference_groups, pretraining_examples, prompts, sft_groups
from sprec.runs.finished import backbone_of
from sprec.runs.recommender import open_run
from sprec.runs.rollouts import Rollouts, make_rollouts
from sprec.runs.sasrec_stage import load_sasrec, smoothing
from sprec.runs.stages import importance
from sprec.runs.store import Stage
from sprec.runs.streams import Stream, seed_of
from sprec.system.errors import UserError
from toy_runs import toy_changes

Run = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def mistake(*arguments: object) -> str:
    done = invoke(*arguments)
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def changes(method: str, **settings: Any) -> list[str]:
    """Toy settings; methods without iterations keep having none."""
    none = {} if method in ("rosepo", "rosepo-official", "dpo") else {"loop__iterations": 0}
    return toy_changes(**{"method": method, "sasrec__epochs": 8, **none, **settings})


@pytest.fixture(scope="module")
def run(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a method once and returns its folder."""
    root = tmp_path_factory.mktemp("baselines")

    def call(method: str, **settings: Any) -> Path:
        out = root / "-".join([method, *(f"{key}={value}" for key, value in settings.items())])
        shared = ("--shared", root / "shared")
        done = invoke("run", "demo", "--data", toy_data, "-o", out, *shared, *changes(method, **settings))
        assert done.exit_code == 0, (done.output, done.exception)
        return out

    return call


def stages(folder: Path) -> list[str]:
    return [stage.name for stage in sorted((folder / "stages").iterdir())]


def lists(folder: Path) -> np.ndarray:
    (file,) = folder.glob("stages/*evaluate*-0/recommendations.parquet")
    return np.array(pl.read_parquet(file)["items"].to_list())


def test_d3_and_rosepo_share_everything_before_them(run: Run) -> None:
    d3, rosepo, sasrec = run("d3"), run("rosepo"), run("sasrec")
    assert stages(d3) == ["00-backbone", "01-sasrec", "02-sft", "03-evaluate-sft-0"]
    assert stages(rosepo)[:3] == stages(d3)[:3]
    assert stages(rosepo)[3:] == ["03-evaluate-sft-0", "04-rollout-1", "05-prefer-1", "06-evaluate-prefer-1"]
    assert stages(sasrec) == ["00-sasrec", "01-evaluate-sasrec-0"]
    files = [folder / "sasrec.safetensors" for folder in (d3 / "stages/01-sasrec", sasrec / "stages/00-sasrec")]
    assert files[0].samefile(files[1])
    assert files[0].samefile(rosepo / "stages/01-sasrec/sasrec.safetensors")
    logs = [log.read_text().splitlines() for log in d3.parent.glob("*/logs/*-sasrec/log.jsonl")]
    assert list(json.loads(logs[0][0])) == ["epoch", "loss", "valid_ndcg"]
    assert [result.method for result in load_results(d3)] == ["d3"]
    assert [result.method for result in load_results(rosepo)] == ["bigrec", "rosepo"]


@pytest.mark.parametrize("method", ["sasrec", "knn", "popularity", "random"])
def test_methods_without_a_model(method: str, run: Run, toy_dataset: Dataset) -> None:
    folder = run(method)
    (result,) = load_results(folder)
    assert (result.stage, result.iteration, result.method) == (method, 0, method)
    assert {"HR@5", "NDCG@5", "DivRatio@1", "ORRatio@5", "MGU@1"} <= set(result.metrics)
    assert not (folder / "model").exists()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("stages/*/MANIFEST.json")}
    assert run(method) == folder  # the same command again redoes nothing
    assert {file: file.stat().st_mtime_ns for file in folder.glob("stages/*/MANIFEST.json")} == before
    history = toy_dataset.test[0].history
    asked = [part for item in history for part in ("--history", toy_dataset.catalog.titles[item])]
    done = invoke("recommend", folder, *asked, "-k", "5", "--json")
    assert len({entry["item"] for entry in json.loads(done.stdout)}) == 5
    assert json.loads(invoke("evaluate", folder, "--json").stdout) == {
        name: pytest.approx(value) for name, value in result.metrics.items()
    }


def test_what_they_recommend(run: Run, toy_dataset: Dataset) -> None:
    test, items = toy_dataset.test[:20], len(toy_dataset.catalog)
    known = pretraining_examples(toy_dataset)
    counts = np.bincount(known.items, minlength=items) + np.bincount(known.targets, minlength=items)
    assert (lists(run("popularity")) == np.argsort(-counts, kind="stable")[:5]).all()
    sasrec = run("sasrec")
    model = SASRec.load(sasrec / "stages/00-sasrec")
    assert (lists(sasrec) == model.top_k(test, 5)).all()
    near = ItemKnn.count(known, items, Settings(decay=0.4, window=2, popular=0.1))
    expected = np.argsort(-near.log_probs(test), axis=1, kind="stable")[:, :5]
    assert (lists(run("knn", knn__decay=0.4, knn__window=2, knn__popular=0.1)) == expected).all()
    assert (lists(run("knn")) != expected).any()
    sampled = SASRec.load(run("sasrec", sasrec__loss="sampled-softmax", sasrec__negatives=9) / "stages/00-sasrec")
    assert (sampled.settings.loss, sampled.settings.negatives) == ("sampled-softmax", 9)
    unseen = lists(run("popularity", recommend__exclude_history=True))
    assert not any(set(row) & set(example.history) for row, example in zip(unseen.tolist(), test, strict=True))
    one, other = lists(run("random")), lists(run("random", seed=4))
    assert (one != other).any()
    assert (one == lists(run("random", cases=20))).all()


def test_sasrec_learns_from_extra_rows_that_do_not_overlap(toy_dataset: Dataset) -> None:
    tail = toy_dataset.test[0]
    leaked = Split.of([(tail.history, tail.target), ((5, 6, 7), 8)])
    splits = {**toy_dataset.splits, "extra": leaked}
    dataset = Dataset("leaky", toy_dataset.catalog, splits, toy_dataset.genres, toy_dataset.wording)
    known = list(pretraining_examples(dataset))
    assert known == [*toy_dataset.train, ((5, 6, 7), 8)]


def test_the_exact_protocol_equals_scoring_every_title(run: Run, toy_dataset: Dataset) -> None:
    folder = run("bigrec", recommend__protocol="exact")
    session = open_run(folder)
    policy, builder = session.policy(Stage(folder, "model")), session.builder
    answers = policy.encode_completions([builder.respond(title) for title in toy_dataset.catalog.titles])
    asked = prompts(policy, builder, toy_dataset.test[:4], "generate", 512)
    parts = [answers[start : start + 20] for start in range(0, len(answers), 20)]
    groups = [PromptGroup(prompt, tuple(part)) for prompt in asked for part in parts]
    scores = torch.cat(score(policy, groups)).view(4, -1)
    best = scores.topk(5)
    assert lists(folder)[:4].tolist() == best.indices.tolist()
    (file,) = folder.glob("stages/*evaluate*-0/recommendations.parquet")
    log_probs = pl.read_parquet(file)["log_probs"].to_list()
    np.testing.assert_allclose(log_probs[:4], best.values.numpy(), atol=1e-4)


def test_recommend_tells_exact_log_probabilities(run: Run, toy_dataset: Dataset) -> None:
    folder, history = run("bigrec", recommend__protocol="exact"), toy_dataset.test[0].history
    session = open_run(folder)
    policy, builder = session.policy(Stage(folder, "model")), session.builder
    titles = toy_dataset.catalog.titles
    asked = [part for item in history for part in ("--history", titles[item])]
    found = json.loads(invoke("recommend", folder, *asked, "-k", 3, "--json").stdout)
    prompt = policy.encode_prompts([builder.prompt(history, "generate")])[0]
    answers = policy.encode_completions([builder.respond(entry["title"]) for entry in found])
    (values,) = score(policy, [PromptGroup(prompt, tuple(answers))])
    assert [entry["log_prob"] for entry in found] == pytest.approx(values.tolist(), abs=1e-4)
    assert [titles[entry["item"]] for entry in found] == [entry["title"] for entry in found]
    same = Recommender.load(folder).recommendations([list(history)], k=3)
    assert same.log_probs is not None
    assert same.log_probs[0].tolist() == [entry["log_prob"] for entry in found]


def test_protocols_without_log_probabilities_say_so(run: Run, toy_dataset: Dataset) -> None:
    for folder in (run("d3"), run("popularity"), run("bigrec")):
        (file,) = folder.glob("stages/*evaluate*-0/recommendations.parquet")
        frame = pl.read_parquet(file)
        assert frame["log_probs"].null_count() == len(frame) == 20
    asked = ("--history", toy_dataset.catalog.titles[1], "-k", 2, "--json")
    assert set(json.loads(invoke("recommend", run("bigrec"), *asked).stdout)[0]) == {"item", "source_id", "title"}
    other = invoke("recommend", run("bigrec"), *asked, "--set", "recommend.protocol=exact")
    assert set(json.loads(other.stdout)[0]) == {"item", "source_id", "title", "log_prob", "proven"}


def test_alpha_1_asks_no_assistant_and_many_beams_are_exact(run: Run, toy_dataset: Dataset) -> None:
    everything = len(toy_dataset.catalog)
    exact = run("bigrec", recommend__protocol="exact")
    alone = run("d3", recommend__alpha=1, recommend__beams=everything)
    assert "01-sasrec" not in stages(alone)
    assert (lists(exact) == lists(alone)).all()


def test_d3_can_be_grounded_as_in_the_research_code(run: Run, toy_dataset: Dataset) -> None:
    beams = run("d3")
    grounded = run("d3", recommend__protocol="d3-grounded")
    assert (lists(grounded)[:, 0] == lists(beams)[:, 0]).all()
    assert (lists(grounded) != lists(beams)).any()
    assert load_results(grounded)[0].metrics["ExactTitles"] == 1


def test_grounded_d3_without_the_history(run: Run, toy_dataset: Dataset) -> None:
    """The best item of the beams, then the items nearest to its title; none of the history."""
    beams = lists(run("d3", recommend__exclude_history=True))
    folder = run("d3", recommend__protocol="d3-grounded", recommend__exclude_history=True)
    session = open_run(folder)
    embeddings = session.grounder(backbone_of(session)).item_embeddings.astype(float)
    for row, (found, best) in enumerate(zip(lists(folder).tolist(), beams[:, 0].tolist(), strict=True)):
        history = toy_dataset.test[row].history
        distances = np.linalg.norm(embeddings - embeddings[best], axis=1)
        near = [item for item in np.argsort(distances, kind="stable").tolist() if item not in history]
        assert found == near[:5]
        assert found[0] == best


def test_smoothing_is_what_the_oracle_says(run: Run, toy_dataset: Dataset) -> None:
    session, titles = open_run(run("rosepo")), toy_dataset.catalog.titles
    examples = toy_dataset.train[:3]
    scores = load_sasrec(session).scores(examples)
    found = smoothing(session, examples, [[titles[7]], ["No such film"], [titles[examples[2].target]]])
    margin = scores[0, 7] - scores[0, examples[0].target]
    assert found[0].item() == pytest.approx(min(0.499, torch.sigmoid(margin).item()), abs=1e-5)
    assert found[1:].tolist() == [0, pytest.approx(0.499)]
    unsmoothed = {"prefer__objective": "dpo"}
    plain = [json.loads(line)["loss"] for line in _log(run("rosepo", **unsmoothed))]
    smooth = [json.loads(line)["loss"] for line in _log(run("rosepo"))]
    assert plain[0] == pytest.approx(smooth[0], abs=1e-5)  # ln 2 whatever the smoothing, while the margin is 0
    assert plain[1:] != smooth[1:]


@pytest.mark.parametrize("settings", [{}, {"sft__normalise": True}, {"sft__weights": "official"}])
def test_the_first_loss_of_rw_is_the_weighted_mean_of_the_formula(
    settings: dict[str, Any], run: Run, toy_dataset: Dataset
) -> None:
    """Sample by sample in Python: w_n times token-mean NLL; official: mean(w) mean(CE) of micro-batches of four."""
    folder = run("rw", sft__samples=48, **settings)
    session = open_run(folder)
    policy, sft, seed = session.policy(backbone_of(session)), session.recipe.sft, session.recipe.seed
    rows = np.random.default_rng([seed, 0]).permutation(len(toy_dataset.train))[: sft.samples]
    examples = toy_dataset.train.take(rows)
    groups = sft_groups(policy, session.builder, examples, session.recipe.prompt.max_tokens)
    variant: Variant = "official" if settings.get("sft__weights") else "correct"
    weights = reweighting(examples, toy_dataset.catalog, toy_dataset.genres, variant, counted=toy_dataset.train)
    assert len(examples) < len(toy_dataset.train)
    if sft.normalise:
        weights = weights / np.mean(weights)
    assert np.ptp(weights) > 0.01
    batch = plan([group.tokens for group in groups], sft.batch, 1, seed_of(seed, Stream.SFT))[0]
    nll = -torch.cat(score(policy, [groups[row] for row in batch])).double().numpy()
    lengths = np.array([len(groups[row].completions[0]) for row in batch])
    if variant == "official":
        parts = [slice(start, start + 4) for start in range(0, len(batch), 4)]
        losses = [weights[batch][own].mean() * nll[own].sum() / (4 * lengths[own].max()) for own in parts]
    else:
        losses = list(weights[batch] * nll / lengths)
    (file,) = folder.glob("stages/*-sft/log.jsonl")
    assert json.loads(file.read_text().splitlines()[0])["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("reference", ["post-sft", "iteration-start"])
@pytest.mark.parametrize("exclude_history", [True, False])
def test_eq_8_weighs_by_the_model_of_the_iterations_start(
    reference: str, exclude_history: bool, run: Run, toy_dataset: Dataset
) -> None:
    options = {"prefer__reference": reference, "negatives__exclude_history": exclude_history, "negatives__count": 2}
    folder = run("sprec-weighted", loop__iterations=1, prefer__epochs=1, **options)
    session = open_run(folder)
    rollouts = Rollouts.read(folder / "stages/03-rollout-1")
    examples = toy_dataset.train.take(rollouts.rows)
    scores = {}
    for name in ("01-sft", "04-sft-1"):  # the model of the iteration's start, and after its SFT step
        policy = session.policy(Stage(folder / "stages" / name, name))
        groups = preference_groups(policy, session.builder, examples, rollouts.titles, 512)
        scores[name] = torch.stack(score(policy, groups)).double()
    kept_out = [len({*history, target} if exclude_history else {target}) for history, target in examples]
    q = 1 / (len(toy_dataset.catalog) - torch.tensor(kept_out, dtype=torch.float64))
    weights = scores["01-sft"][:, 1:].exp() / q[:, None]
    current = importance(session, examples, scores["01-sft"])
    torch.testing.assert_close(current.exp(), weights)
    ratios = scores["04-sft-1"] - scores["01-sft" if reference == "iteration-start" else "04-sft-1"]
    margins = session.recipe.prefer.beta * (ratios[:, :1] - ratios[:, 1:])
    losses = (weights * torch.nn.functional.softplus(-margins)).mean(1)
    batch = plan([g.tokens for g in groups], 16, 1, int(np.random.SeedSequence([3, 1, 2]).generate_state(1)[0]))[0]
    first = json.loads(_log(folder)[0])["loss"]
    assert first == pytest.approx(losses[torch.from_numpy(batch)].mean().item(), rel=1e-3)


def test_self_hard_negatives_are_never_the_target(run: Run, toy_dataset: Dataset) -> None:
    options: dict[str, Any] = {"negatives__source": "self-play", "loop__samples": 200, "sft__epochs": 12}
    plain, hard = (
        Rollouts.read(run("rosepo", **options, **more) / "stages/04-rollout-1")
        for more in ({}, {"negatives__redraw_equal": True})
    )
    titles, train = toy_dataset.catalog.titles, toy_dataset.train
    own, redrawn = (dict(zip(r.rows.tolist(), r.titles, strict=True)) for r in (plain, hard))
    right = [row for row, (title,) in own.items() if title == titles[train.targets[row]]]
    assert right, "the toy model hits no target: the test shows nothing"
    assert all(titles[train.targets[row]] != title for row, (title,) in redrawn.items())
    others = set(own) - set(right)
    assert {row: own[row] for row in others} == {row: redrawn[row] for row in others}
    assert set(right) & set(redrawn)


def test_redraws_of_other_cases_are_not_taken_from_the_journal(run: Run) -> None:
    """Which cases are drawn again may depend on rounding, so a process that goes on may have to draw others."""
    options = {"negatives__source": "self-play", "loop__samples": 200, "sft__epochs": 12}
    folder = run("rosepo", **options, negatives__redraw_equal=True)
    session = open_run(folder)
    session.recipe = session.recipe.model_copy(update={"tokens_per_batch": 1})  # each case is a batch of its own
    (tuned,) = folder.glob("stages/*-sft")
    policy, rows = Stage(tuned, tuned.name), Rollouts.read(folder / "stages/04-rollout-1").rows

    def titles(cases: np.ndarray) -> list[list[str]]:
        shutil.rmtree(session.store.unfinished / "rollout", ignore_errors=True)
        return make_rollouts(session, policy, backbone_of(session), cases, 1).titles

    first = titles(rows[::2])
    beside = titles(rows[1::2])
    shutil.rmtree(session.store.unfinished)
    assert beside == titles(rows[1::2])
    assert first != beside


def test_semantic_negatives_from_the_top(run: Run, toy_dataset: Dataset) -> None:
    nearest, drawn = (
        Rollouts.read(run("rosepo", **more) / "stages/04-rollout-1") for more in ({}, {"negatives__top": 5})
    )
    folder = run("rosepo")
    session = open_run(folder)
    embeddings = session.grounder(backbone_of(session)).item_embeddings
    best = semantic(toy_dataset.train.take(drawn.rows), embeddings, 5)
    titles = toy_dataset.catalog.titles
    assert all(own[0] in [titles[item] for item in row] for own, row in zip(drawn.titles, best.tolist(), strict=True))
    assert nearest.titles == [[titles[row[0]]] for row in best.tolist()]
    assert drawn.titles != nearest.titles


def test_popular_negatives_may_be_of_the_history_if_the_recipe_says_so(run: Run, toy_dataset: Dataset) -> None:
    def of_history(**more: Any) -> int:
        folder = run("rosepo", negatives__source="popularity", loop__samples=200, **more)
        rollouts = Rollouts.read(folder / "stages/04-rollout-1")
        by_title = toy_dataset.catalog.by_title
        histories = [toy_dataset.train[row].history for row in rollouts.rows.tolist()]
        return sum(by_title[title] in own for (title,), own in zip(rollouts.titles, histories, strict=True))

    assert of_history() == 0
    assert of_history(negatives__exclude_history=False) > 0


def _log(folder: Path) -> list[str]:
    (file,) = folder.glob("stages/*-prefer-1/log.jsonl")
    return file.read_text().splitlines()


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives__source": "self-play", "negatives__redraw_equal": True},
        {"negatives__source": "popularity"},
        {"prefer__robust": True},
    ],
)
def test_the_variants_of_rosepo(settings: dict[str, Any], run: Run) -> None:
    folder = run("rosepo", **settings)
    assert load_results(folder)[-1].method == "rosepo"
    assert "01-sasrec" in stages(folder)


def test_the_official_rosepo_takes_the_least_similar_item_and_smooths_nothing(run: Run, toy_dataset: Dataset) -> None:
    folder = run("rosepo-official")
    assert load_results(folder)[-1].method == "rosepo-official"
    assert "01-sasrec" not in stages(folder)
    session, rollouts = open_run(folder), Rollouts.read(folder / "stages/03-rollout-1")
    unit = session.grounder(backbone_of(session)).item_embeddings
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    for row, (title,) in zip(rollouts.rows.tolist(), rollouts.titles, strict=True):
        similarity = (unit[list(toy_dataset.train[row].history)] @ unit.T).mean(0)
        assert similarity[toy_dataset.catalog.by_title[title]] == pytest.approx(similarity.min(), abs=1e-5)


def test_other_protocols_evaluate_a_finished_run(run: Run, toy_dataset: Dataset) -> None:
    folder = run("bigrec")
    for settings in (
        ["recommend.protocol=d3", "sasrec.epochs=2"],
        ["recommend.protocol=exact", f"recommend.top_k={len(toy_dataset.catalog)}", "cases=3"],
    ):
        asked = [part for setting in settings for part in ("--set", setting)]
        assert "HR@5" in json.loads(invoke("evaluate", folder, "--json", *asked).stdout)
    assert stages(folder) == stages(run("bigrec"))


def test_an_exact_recommender_gives_as_many_items_as_there_are(run: Run, toy_dataset: Dataset) -> None:
    recommender = Recommender.load(run("bigrec", recommend__protocol="exact"))
    k = len(toy_dataset.catalog)
    (items,) = recommender.recommend([[1, 2]], k=k)
    assert sorted(items) == list(range(k))


def test_runs_of_all_kinds_compare(run: Run) -> None:
    done = invoke("compare", run("bigrec"), run("d3"), run("sasrec"), run("popularity"), "--resamples", "100")
    assert done.exit_code == 0, done.exception
    assert all(name in done.output for name in ("bigrec", "d3", "sasrec", "popularity"))


def test_mistakes_are_one_clear_line(toy_dataset: Dataset, tmp_path: Path) -> None:
    def saved(name: str, **parts: Any) -> Path:
        own = {"catalog": toy_dataset.catalog, "splits": toy_dataset.splits, "genres": toy_dataset.genres, **parts}
        Dataset(name, wording=toy_dataset.wording, **own).save(tmp_path / name)
        return tmp_path / name

    items = len(toy_dataset.catalog)
    plain = saved("plain")
    no_valid = saved("no-valid", splits={**toy_dataset.splits, "valid": Split.of([])})
    no_genres = saved("no-genres", catalog=Catalog.of(toy_dataset.catalog.titles), genres=())
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (plain, "d3", {"recommend__top_k": items + 1}, f"recommend.top_k={items + 1}, but the catalog of plain has"),
        (plain, "sasrec", {"recommend__top_k": items + 1}, "lower it"),
        (plain, "d3", {"recommend__beams": items + 1}, f"recommend.beams={items + 1}, but the catalog of plain has"),
        (
            plain,
            "random",
            {"recommend__top_k": items, "recommend__exclude_history": True},
            f"cannot find {items} different items",
        ),
        (no_valid, "sasrec", {}, "SASRec needs a validation split to stop, and that of no-valid is empty"),
        (no_valid, "d3", {}, "SASRec needs a validation split to stop"),
        (
            no_valid,
            "bigrec",
            {},
            "the SFT keeps the epoch with the best validation loss, and the valid split of no-valid",
        ),
        (no_valid, "rosepo", {}, "SASRec needs a validation split to stop"),
        (
            plain,
            "dpo",
            {"prefer__objective": "sdpo", "negatives__count": items - 3},
            f"negatives.count={items - 3}: cannot find {items - 3} different items",
        ),
        (
            plain,
            "rosepo",
            {"negatives__top": items - 3},
            f"negatives.top={items - 3}: cannot find {items - 3} different",
        ),
        (no_genres, "rw", {}, "method rw weighs samples by genre, but no-genres has no genres"),
    ]
    for data, method, settings, message in cases:
        out = tmp_path / "run"
        assert message in mistake("run", "demo", "--data", data, "-o", out, *changes(method, **settings))
        assert not list(out.rglob("MANIFEST.json"))
    done = invoke("run", "demo", "--data", no_genres, "-o", tmp_path / "x", *changes("sasrec"))
    assert done.exit_code == 0
    assert done.stderr.count("! MGU and DGU are undefined (NaN): no selected genre on one side\n") == 1
