"""The whole run through the real command line at toy size: files, metrics, resume, use, mistakes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprec.data import Catalog, Dataset, Split
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.model.policy import load_saved
from sprec.evaluation import evaluate
from sprec.prompts import parse_negative
from sprec.runs import Recommender, load_results
from sprec.runs.examples import prompts
from sprec.runs.recipes import names
from sprec.runs.recommender import open_run
from toy_runs import Cli, toy_changes

STAGES = [
    "00-backbone",
    "01-sft",
    "02-evaluate-sft-0",
    "03-rollout-1",
    "04-sft-1",
    "05-evaluate-sft-1",
    "06-prefer-1",
    "07-evaluate-prefer-1",
]


def stage_times(run: Path) -> dict[str, int]:
    return {folder.name: (folder / "MANIFEST.json").stat().st_mtime_ns for folder in (run / "stages").iterdir()}


def test_files_of_a_run(toy_run: Path, toy_dataset: Dataset) -> None:
    assert sorted(stage_times(toy_run)) == STAGES
    recipe = json.loads((toy_run / "recipe.json").read_text())
    assert recipe["recipe"]["backbone"]["hidden"] == 64
    assert recipe["dataset"]["hash"] == toy_dataset.hash
    assert recipe["versions"]["torch"]
    results = load_results(toy_run)
    assert [(r.stage, r.iteration, r.method) for r in results] == [
        ("sft", 0, "bigrec"),
        ("sft", 1, "sprec"),
        ("prefer", 1, "sprec"),
    ]
    steps = [json.loads(line) for line in (toy_run / "stages/06-prefer-1/log.jsonl").read_text().splitlines()]
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # policy and reference start equal


def test_metrics_are_those_of_the_recommendations(toy_run: Path, toy_dataset: Dataset) -> None:
    frame = pl.read_parquet(toy_run / "stages/07-evaluate-prefer-1/recommendations.parquet")
    assert frame["case"].to_list() == list(range(20))
    test = toy_dataset.test[:20]
    genres = toy_dataset.catalog.genre_matrix(toy_dataset.genres)
    expected = evaluate(frame["items"].to_list(), test.targets, test.items, test.offsets, genres)
    found = load_results(toy_run)[-1].metrics
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True)


def test_rollouts_are_what_the_policy_answers(toy_run: Path, toy_dataset: Dataset) -> None:
    lines = (toy_run / "stages/03-rollout-1/rollouts.jsonl").read_text().splitlines()
    for pair in map(json.loads, lines):
        example = toy_dataset.train[pair["row"]]
        assert pair["target"] == example.target
        assert parse_negative(pair["chosen"]) == toy_dataset.catalog.titles[example.target]
        assert parse_negative(pair["rejected"]) == pair["title"]
        assert pair["rejected_item"] == toy_dataset.catalog.by_title.get(pair["title"])


def test_the_model_loads_with_transformers(toy_run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toy_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(toy_run / "model")
    assert model.config.hidden_size == 64
    assert tokenizer.decode(tokenizer("Alien (1979)", add_special_tokens=False)["input_ids"]) == "Alien (1979)"


def test_the_same_command_resumes_and_redoes_nothing(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    before = stage_times(run)
    weights = load_file(run / "stages/06-prefer-1/model/model.safetensors")
    shutil.rmtree(run / "stages/07-evaluate-prefer-1")
    shutil.rmtree(run / "stages/06-prefer-1")
    cli("run", "demo", "--data", toy_data, "-o", run, *toy_changes())
    after = stage_times(run)
    assert {name: after[name] for name in STAGES[:6]} == {name: before[name] for name in STAGES[:6]}
    again = load_file(run / "stages/06-prefer-1/model/model.safetensors")
    assert all((weights[name] == again[name]).all() for name in weights), "bit for bit"
    assert (run / "metrics.json").read_bytes() == (toy_run / "metrics.json").read_bytes()


def test_a_changed_setting_redoes_what_depends_on_it(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    before = stage_times(run)
    done = cli("run", "demo", "--data", toy_data, "-o", run, "--overwrite", *toy_changes(prefer__beta=0.2))
    assert "06-prefer-1 was made with other settings" in done.stderr
    after = stage_times(run)
    changed = {name for name in STAGES if after[name] != before[name]}
    assert changed == {"06-prefer-1", "07-evaluate-prefer-1"}


def test_settings_that_a_stage_does_not_read_do_not_redo_it(
    cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    before = stage_times(run)
    cli("run", "demo", "--data", toy_data, "-o", run, "--overwrite",
        *toy_changes(negatives__drop_equal=True, recommend__samples=3, recommend__beams=7))  # fmt: skip
    after = stage_times(run)
    assert {name for name in STAGES if after[name] != before[name]} == {"06-prefer-1", "07-evaluate-prefer-1"}


def test_a_damaged_stage_is_named_and_redone_or_refused(
    cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    file = run / "stages/01-sft/model/model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)
    command = ("run", "demo", "--data", toy_data, "-o", run, *toy_changes())
    refused = cli(*command, "--strict", code=2)
    assert "01-sft/model/model.safetensors is damaged or was edited" in refused.stderr
    assert "01-sft/model/model.safetensors is damaged" in cli(*command).stderr
    assert (run / "metrics.json").read_bytes() == (toy_run / "metrics.json").read_bytes()


def test_runs_share_the_stages_they_have_in_common(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first = ("run", "demo", "--data", toy_data, "--shared", shared, *toy_changes(method="bigrec", loop__iterations=0))
    cli(*first, "-o", tmp_path / "one")
    second = cli("run", "demo", "--data", toy_data, "--shared", shared, "-o", tmp_path / "two", *toy_changes())
    assert second.stderr.count("shared with another run") == 3
    assert (tmp_path / "two/stages/01-sft/log.jsonl").samefile(
        shared / _key(tmp_path / "one/stages/01-sft") / "log.jsonl"
    )


def _key(folder: Path) -> str:
    return str(json.loads((folder / "MANIFEST.json").read_text())["key"])


@pytest.mark.parametrize("method", ["dmpo", "sdpo", "sprec-rn", "sprec-nosft", "sprec-nodpo", "sprec-weighted", "rw"])
def test_every_method_runs(method: str, cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    changes = toy_changes(method=method, loop__iterations=0 if method == "rw" else 1)
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *changes)
    assert load_results(tmp_path / "run")[-1].method == method


def rollouts_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "stages/03-rollout-1/rollouts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_self_play_by_sampling_grounded_without_equal_pairs(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    options = {"decode": "sample", "temperature": 1.5, "ground": True, "drop_equal": True}
    changes = toy_changes(prefer__reference="iteration-start", **{f"negatives__{k}": v for k, v in options.items()})
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *changes)
    pairs = rollouts_of(tmp_path / "run")
    assert pairs
    assert all(pair["rejected_item"] is not None for pair in pairs), "grounded: every negative is an item"
    unequal = [pair for pair in pairs if pair["rejected_item"] != pair["target"]]
    steps = (tmp_path / "run/stages/06-prefer-1/log.jsonl").read_text().splitlines()
    assert len(steps) == -(-len(unequal) // 16)
    # the reference is the model before the SFT step, so that the first loss is not that of equal models
    assert abs(json.loads(steps[0])["loss"] - np.log(2)) > 1e-6


def titles_by_row(run: Path) -> dict[int, list[str]]:
    by_row: dict[int, list[str]] = {}
    for pair in rollouts_of(run):
        by_row.setdefault(pair["row"], []).append(pair["title"])
    return by_row


def asked_again(run: Path, rows: list[int], decoding: Decoding) -> list[list[str]]:
    """The distinct titles that the model after the SFT answers to the prompts of these rows."""
    session = open_run(run)
    policy = load_saved(run / "stages/01-sft/model", session.recipe.backbone, session.device, session.precision)
    examples = session.dataset.train.take(np.array(rows))
    asked = prompts(policy, session.builder, examples, "generate", session.recipe.prompt.max_tokens)
    answers = generate(policy, asked, decoding)
    titles = [map(parse_negative, policy.decode([one.tokens for one in own])) for own in answers]
    return [list(dict.fromkeys(title for title in own if title)) for own in titles]


def test_greedy_self_play_is_what_the_model_answers(toy_run: Path) -> None:
    found = titles_by_row(toy_run)
    assert asked_again(toy_run, list(found), Decoding(max_new_tokens=32)) == list(found.values())


def test_self_play_by_beams_takes_the_n_best_different_of_2n(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    changes = toy_changes(negatives__decode="beam", negatives__count=3, prefer__objective="sdpo")
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *changes)
    found = titles_by_row(tmp_path / "run")
    wide = asked_again(tmp_path / "run", list(found), Decoding("beam", max_new_tokens=32, count=6, beams=6))
    assert max(map(len, wide)) > 3
    assert [own[:3] for own in wide] == list(found.values())


def test_grounded_negatives_of_a_case_are_different_items(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    """Samples of a barely trained model: several invented titles are nearest to the same item."""
    options = {"decode": "sample", "temperature": 1.5, "count": 3, "ground": True}
    changes = toy_changes(prefer__objective="sdpo", **{f"negatives__{name}": value for name, value in options.items()})
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *changes)
    found = titles_by_row(tmp_path / "run")
    assert all(len(set(own)) == len(own) for own in found.values())
    assert min(map(len, found.values())) < 3 == max(map(len, found.values()))


def test_a_share_of_the_negatives_is_random(cli: Cli, toy_data: Path, tmp_path: Path, toy_run: Path) -> None:
    cli("run", "demo", "--data", toy_data, "-o", tmp_path / "run", *toy_changes(negatives__random_ratio=0.5))
    own = {pair["row"]: pair["title"] for pair in rollouts_of(toy_run)}
    mixed = {pair["row"]: pair["title"] for pair in rollouts_of(tmp_path / "run")}
    replaced = sum(own.get(row) != title for row, title in mixed.items())
    assert 8 <= replaced <= 12 + 24 - len(own)  # 12 of 24 cases; a uniform draw may hit the same title


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_dry_runs(name: str, cli: Cli) -> None:
    assert json.loads(cli("run", name, "--dry-run").stdout)["description"]


def test_consensus_and_other_encoders_evaluate(cli: Cli, toy_run: Path) -> None:
    for changes in (["recommend.protocol=consensus", "recommend.samples=4"], ["recommend.encoder=tfidf"]):
        done = cli("evaluate", toy_run, "--json", *(part for change in changes for part in ("--set", change)))
        found = json.loads(done.stdout)
        assert set(found) >= {"HR@5", "DivRatio@1", "ORRatio@1", "MGU@1"}
        assert 0 < found["ExactTitles"] <= 1  # of the sampled titles too


def test_evaluate_repeats_the_metrics_of_the_run(cli: Cli, toy_run: Path) -> None:
    found = json.loads(cli("evaluate", toy_run, "--json").stdout)
    for name, value in load_results(toy_run)[-1].metrics.items():
        assert found[name] == pytest.approx(value)


def test_score_agrees_with_the_run(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(toy_run / "stages/07-evaluate-prefer-1/recommendations.parquet")
    titles = Dataset.load(toy_data).catalog.titles
    file = tmp_path / "lists.jsonl"
    rows = zip(frame["case"].to_list(), frame["items"].to_list(), strict=True)
    file.write_text("".join(json.dumps({"case": c, "items": [titles[i] for i in items]}) + "\n" for c, items in rows))
    found = json.loads(cli("score", file, "--data", toy_data, "--json").stdout)
    for name in ("HR@5", "NDCG@5", "DivRatio@5", "ORRatio@1", "MGU@5"):
        assert found[name] == pytest.approx(load_results(toy_run)[-1].metrics[name])


@pytest.mark.shared_data
def test_a_raw_log_runs_by_its_recipe(cli: Cli, shared_data: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "ml", tmp_path / "run"
    sizes = ("--train", "500", "--valid", "50", "--test", "20", "--extra", "0")
    cli("data", "import", "movielens", shared_data / "raw" / "ml-latest-small", "-o", log, *sizes)
    small = toy_changes(backbone__epochs=1, backbone__hidden=32, sft__samples=64, method="sprec")
    cli("run", "movielens-scratch", "--data", log, "-o", out, *small)
    assert [result.stage for result in load_results(out)] == ["sft", "sft", "prefer"]
    assert all(result.metrics["DivRatio@5"] > 0 for result in load_results(out))


def test_compare_pools_and_prints_intervals(cli: Cli, toy_run: Path) -> None:
    done = cli("compare", toy_run, "--resamples", "200")
    assert "bigrec" in done.stdout
    assert "sprec" in done.stdout


def test_recommend_gives_k_different_items(cli: Cli, toy_run: Path) -> None:
    asked = ("recommend", toy_run, "--history", "Alien (1979)", "--history", "Blade Runner (1982)")
    found = json.loads(cli(*asked, "-k", "7", "--json").stdout)
    assert len({entry["item"] for entry in found}) == 7
    recommender = Recommender.load(toy_run)
    catalog: Catalog = recommender.catalog
    ids = [catalog.by_title["Alien (1979)"], catalog.by_title["Blade Runner (1982)"]]
    assert recommender.recommend([ids], k=7) == [[entry["item"] for entry in found]]
    assert recommender.recommend([], k=7) == []


def test_mistakes_end_in_one_line_and_exit_code_2(cli: Cli, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    no_test = tmp_path / "no-test"
    one_item = tmp_path / "one-item"
    dataset = Dataset.load(toy_data)
    splits = dict(dataset.splits) | {"test": Split.of([])}
    Dataset("none", dataset.catalog, splits, dataset.genres, dataset.wording).save(no_test)
    single = {name: Split.of([((0,), 0)]) for name in ("train", "valid", "test")}
    Dataset("one", Catalog.of(["Dune"]), single, (), dataset.wording).save(one_item)
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"case": 0, "items": ["Alien"]}\n')
    no_tokenizer = tmp_path / "model"
    shutil.copytree(toy_run / "model", no_tokenizer)
    for file in no_tokenizer.glob("tokenizer*"):
        file.unlink()
    run = tmp_path / "run"
    changes, alone = toy_changes(), toy_changes(method="sasrec", recommend__top_k=1, loop__iterations=0)
    hub = ["--set", f"backbone={{kind: huggingface, path: '{no_tokenizer}'}}"]
    for arguments, message in [
        (("run", "demo", "--data", tmp_path / "nothing", "-o", run), "is not a dataset"),
        (("run", "demo", "--data", no_test, "-o", run, *changes), "the test split of none is empty"),
        (("run", "demo", "--data", one_item, "-o", run, *changes), "recommend.top_k=5, but the catalog of one has 1"),
        (
            ("run", "demo", "--data", one_item, "-o", run, *alone),
            "SASRec needs at least two items, and the catalog of one has 1",
        ),
        (("run", "demo", "--data", toy_data, "-o", run, "--set", "prefer.betta=1"), "prefer.betta: unknown key"),
        (("run", "demo", "--data", toy_data, "-o", run, *hub), f"no tokenizer could be loaded from {no_tokenizer}"),
        (("run", "demo", "--data", toy_data, "-o", run, "--set", "device=cuda"), "PyTorch sees no CUDA device"),
        (("recommend", toy_run, "--history", "Alein (1979)"), 'is titled "Alein (1979)"; closest: "Alien (1979)"'),
        (("recommend", toy_run, "--history", "Alien (1979)", "-k", "100000"), "k=100000 is not between 1 and"),
        (
            ("recommend", toy_run, "--history", "Alien (1979)", "--set", "recommend.protocol=exact",
             "--set", "recommend.beams=366"),
            "recommend.beams=366, but the catalog of",
        ),
        (("recommend", tmp_path, "--history", "Alien (1979)"), "is not a run"),
        (("score", lists, "--data", toy_data), "lists.jsonl, line 1: no item is titled"),
    ]:  # fmt: skip
        if "cuda" in str(arguments) and os.path.exists("/dev/nvidia0"):  # noqa: PTH110
            continue
        done = cli(*arguments, code=2)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("✓")]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("sprec: ")
        assert message in lines[0]
        assert not list(run.rglob("MANIFEST.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("prefer.lr=0.1", "--set prefer.lr=0.1 would train another model; a finished run takes seed, device"),
        ("backbone.layers=8", "would train another model"),
        ("recommend.top_k=5000", "recommend.top_k=5000, but the catalog of"),
        ("recommend.encoder=tfdif", "recommend.encoder"),
    ],
)
def test_a_finished_run_takes_settings_of_recommending_only(cli: Cli, toy_run: Path, change: str, message: str) -> None:
    done = cli("evaluate", toy_run, "--set", change, code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
