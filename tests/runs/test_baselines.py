"""Every baseline of the paper at toy size through the command line, sharing backbone, SFT and SASRec."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner, Result

from runs.conftest import toy_changes
from sprec.cli import app
from sprec.data import Catalog, Dataset, Split
from sprec.engine.groups import PromptGroup
from sprec.engine.scoring import score
from sprec.errors import UserError
from sprec.methods.sasrec import SASRec
from sprec.runs import Recommender, load_results
from sprec.runs.examples import pretraining_examples, prompts
from sprec.runs.oracle import load_oracle, smoothing
from sprec.runs.recommender import open_run
from sprec.runs.store import Stage

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
    none = {} if method in ("rosepo", "dpo") else {"loop__iterations": 0}
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
    assert [result.method for result in load_results(d3)] == ["d3"]
    assert [result.method for result in load_results(rosepo)] == ["bigrec", "rosepo"]


@pytest.mark.parametrize("method", ["sasrec", "popularity", "random"])
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
    assert set(json.loads(invoke("recommend", run("bigrec"), *asked).stdout)[0]) == {"item", "title"}
    other = invoke("recommend", run("bigrec"), *asked, "--set", "recommend.protocol=exact")
    assert set(json.loads(other.stdout)[0]) == {"item", "title", "log_prob"}


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


def test_smoothing_is_what_the_oracle_says(run: Run, toy_dataset: Dataset) -> None:
    session, titles = open_run(run("rosepo")), toy_dataset.catalog.titles
    examples = toy_dataset.train[:3]
    scores = load_oracle(session).scores(examples)
    found = smoothing(session, examples, [[titles[7]], ["No such film"], [titles[examples[2].target]]])
    margin = scores[0, 7] - scores[0, examples[0].target]
    assert found[0].item() == pytest.approx(min(0.499, torch.sigmoid(margin).item()), abs=1e-5)
    assert found[1:].tolist() == [0, pytest.approx(0.499)]
    plain = [json.loads(line)["loss"] for line in _log(run("rosepo", prefer__smoothing=False))]
    smooth = [json.loads(line)["loss"] for line in _log(run("rosepo"))]
    assert plain[0] == pytest.approx(smooth[0], abs=1e-5)  # ln 2 whatever the smoothing, while the margin is 0
    assert plain[1:] != smooth[1:]


def _log(folder: Path) -> list[str]:
    (file,) = folder.glob("stages/*-prefer-1/log.jsonl")
    return file.read_text().splitlines()


@pytest.mark.parametrize(
    "settings",
    [
        {"negatives__least_similar": True, "prefer__smoothing": False},
        {"negatives__source": "self-play"},
        {"negatives__source": "popularity"},
    ],
)
def test_the_variants_of_rosepo(settings: dict[str, Any], run: Run) -> None:
    folder = run("rosepo", **settings)
    assert load_results(folder)[-1].method == "rosepo"
    assert ("01-sasrec" in stages(folder)) == settings.get("prefer__smoothing", True)


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
    for data, method, settings, message in [
        (plain, "d3", {"recommend__top_k": items + 1}, f"recommend.top_k={items + 1}, but the catalog of plain has"),
        (plain, "sasrec", {"recommend__top_k": items + 1}, "lower it"),
        (plain, "d3", {"recommend__beams": items + 1}, f"recommend.beams={items + 1}, but the catalog of plain has"),
        (
            plain,
            "random",
            {"recommend__top_k": items, "recommend__exclude_history": True},
            f"cannot draw {items} different items",
        ),
        (no_valid, "sasrec", {}, "SASRec stops by validation, and the valid split of no-valid is empty"),
        (no_valid, "d3", {}, "SASRec stops by validation"),
        (no_valid, "rosepo", {}, "SASRec stops by validation"),
        (no_genres, "rw", {}, "method rw weighs samples by genre, but no-genres has no genres"),
    ]:
        out = tmp_path / "run"
        assert message in mistake("run", "demo", "--data", data, "-o", out, *changes(method, **settings))
        assert not list(out.rglob("MANIFEST.json"))
    with pytest.warns(UserWarning, match="MGU and DGU are undefined"):
        done = invoke("run", "demo", "--data", no_genres, "-o", tmp_path / "x", *changes("sasrec"))
    assert done.exit_code == 0
