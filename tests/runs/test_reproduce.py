"""The paper's experiments at toy size through the real command line: plans, files, numbers."""

import csv
import json
from pathlib import Path

import pytest

from runs.conftest import Cli, toy_changes
from sprec.data import Dataset
from sprec.errors import UserError
from sprec.evaluation import PAPER_METRICS
from sprec.report.paper import published
from sprec.runs import load_results
from sprec.runs.reproduce import FIGURE5, FIGURE6, TABLE2, TABLE3, plan

COMMON = ["--backbone", "demo", "--seeds", "0", "--seeds", "1"]


@pytest.fixture(scope="module")
def changes() -> list[str]:
    pairs = toy_changes()
    kept = [
        value
        for flag, value in zip(pairs[::2], pairs[1::2], strict=True)
        if not value.startswith(("seed=", "loop.iterations="))
    ]
    return [part for value in kept for part in ("--set", value)]


def test_every_row_of_the_paper_is_planned(toy_dataset: Dataset) -> None:
    printed = published()
    for table, rows in (("table2", TABLE2), ("table3", TABLE3)):
        methods = {method for t, _, method in printed if t == table}
        assert methods == set(rows)
    jobs = plan("table2", [toy_dataset], [0, 1, 2], backbone="demo", protocols=["paper", "exact"])
    models = [job for job in jobs if job.variant not in ("SASRec", "D3")]
    assert len(models) == 6 * 2 * 3
    assert len(jobs) == len(models) + 2 * 3  # SASRec and D3 have one way to recommend
    assert {job.recipe.seed for job in jobs} == {0, 1, 2}
    assert len({job.folder(Path()) for job in jobs}) == len(jobs)


def test_sweeps_follow_the_paper(toy_dataset: Dataset) -> None:
    ratios = plan("figure5", [toy_dataset], [0], backbone="demo")
    assert [job.recipe.negatives.random_ratio for job in ratios] == [0, 0.25, 0.5, 0.75, 1]
    counts = plan("figure6", [toy_dataset], [0], backbone="demo")
    assert [job.recipe.negatives.count for job in counts] == [1, 2, 3, 4, 5]
    assert {job.recipe.prefer.objective for job in counts} == {"sdpo"}
    assert {job.recipe.loop.samples for job in ratios + counts} == {1024}
    assert len(FIGURE5) == len(FIGURE6) == 5


def test_published_numbers_are_the_paper_s() -> None:
    printed = published()
    assert printed["table2", "MovieLens", "BIGRec"]["DivRatio@1"] == 0.1939
    assert printed["table3", "MovieLens", "SPRec"] == printed["table2", "MovieLens", "SPRec"]
    assert all(set(values) <= set(PAPER_METRICS) for values in printed.values())


def test_mistakes_are_named(toy_dataset: Dataset) -> None:
    with pytest.raises(UserError, match="no recipe demo-scratch is shipped for demo"):
        plan("table2", [toy_dataset], [0])
    with pytest.raises(UserError, match="table3 has no rows SPREC; it has BIGRec, SPRec"):
        plan("table3", [toy_dataset], [0], backbone="demo", variants=["SPREC"])
    with pytest.raises(UserError, match="unknown experiment table9"):
        plan("table9", [toy_dataset], [0], backbone="demo")


def test_table3_at_toy_size(cli: Cli, toy_data: Path, tmp_path: Path, changes: list[str]) -> None:
    rows = ["--only", "BIGRec", "--only", "SPRec"]
    protocols = ["--protocols", "paper", "--protocols", "consensus", "--set", "recommend.samples=3"]
    command = ("reproduce", "table3", "--datasets", toy_data, "-o", tmp_path, *COMMON, *rows, *protocols, *changes)
    done = cli(*command)
    assert done.stderr.count("made with other settings") == 0
    assert done.stderr.count("✓ 00-backbone") == 1, "one backbone for all runs"
    assert done.stderr.count("✓ 01-sft") == 2, "one SFT per seed"
    wanted = {"table3.csv", "table3.json", "table3.md", "table3.tex", "table3-changes.csv"}
    assert wanted <= {file.name for file in tmp_path.iterdir()}
    table = json.loads((tmp_path / "table3.json").read_text())["rows"]
    ours = {(row["method"], row["source"]): row["metrics"] for row in table}
    run = tmp_path / "runs" / Dataset.load(toy_data).name / "sprec" / "paper"
    mean = sum(load_results(run / f"seed{seed}")[-1].metrics["DivRatio@1"] for seed in (0, 1)) / 2
    assert ours["SPRec", "ours, paper's protocol, 2 seeds"]["DivRatio@1"]["value"] == pytest.approx(mean)
    assert ("BIGRec", "ours, consensus, 2 seeds") in ours
    with (tmp_path / "table3.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"BIGRec", "SPRec"}
    again = cli(*command)
    assert "✓" not in again.stderr, "everything was found again"


def test_figure4_at_toy_size(cli: Cli, toy_data: Path, tmp_path: Path, changes: list[str]) -> None:
    pytest.importorskip("matplotlib")
    only = ["--only", "SPRec-noSFT"]
    cli(
        "reproduce",
        "figure4",
        "--datasets",
        toy_data,
        "-o",
        tmp_path,
        "--backbone",
        "demo",
        "--seeds",
        "0",
        *only,
        *changes,
    )
    files = {file.suffix for file in tmp_path.glob("figure4-*")}
    assert files == {".svg", ".png", ".json"}
    record = json.loads(next(tmp_path.glob("figure4-*.json")).read_text())
    assert set(record["HR@5"]["SPRec-noSFT"]) == {"0", "1", "2", "3"}


def test_table1_is_what_stats_says(cli: Cli, toy_data: Path, tmp_path: Path) -> None:
    cli("reproduce", "table1", "--datasets", toy_data, "-o", tmp_path)
    row = json.loads((tmp_path / "table1.json").read_text())["rows"][0]["metrics"]
    stats = json.loads(cli("data", "stats", toy_data, "--json").stdout)
    assert {name: cell["value"] for name, cell in row.items()} == stats["table1"]


def test_rates_are_searched_on_the_validation_split(
    cli: Cli, toy_data: Path, tmp_path: Path, changes: list[str]
) -> None:
    only = ["--only", "BIGRec", "--only", "DMPO"]
    command = ("reproduce", "rates", "--datasets", toy_data, "-o", tmp_path, "--backbone", "demo", *only, *changes)
    done = cli(*command)
    rows = json.loads((tmp_path / "rates.json").read_text())["rows"]
    assert [(row["method"], row["rate"]) for row in rows] == [
        ("BIGRec", "sft.lr=0.0001"), ("BIGRec", "sft.lr=0.0002"), ("BIGRec", "sft.lr=0.0004"),
        ("DMPO", "prefer.lr=2e-06"), ("DMPO", "prefer.lr=5e-06"), ("DMPO", "prefer.lr=1e-05"),
    ]  # fmt: skip
    best = {row["method"]: row for row in rows if row["metrics"]["NDCG@5"]["mark"] == "best"}
    assert len(best) == 2
    sft = best["BIGRec"]["rate"]
    recipes = [json.loads(file.read_text())["recipe"] for file in tmp_path.glob("runs/*/dmpo*/paper/seed0/recipe.json")]
    assert {recipe["split"] for recipe in recipes} == {"valid"}
    assert {f"sft.lr={recipe['sft']['lr']:g}" for recipe in recipes} == {sft}, "DMPO starts from the chosen BIGRec"
    assert done.stderr.count("✓ 01-sft") == 3
    again = cli(*command)
    assert "✓" not in again.stderr
    assert "[" not in again.stderr, "all are on record"
    refused = cli(*command, "--only", "D3", code=2)
    assert "no rates are searched for D3; methods: SASRec, BIGRec" in refused.stderr
