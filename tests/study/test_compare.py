"""Runs side by side: paired by seed, never pooled over protocols or settings, in one line where they do not fit."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from sprec.cli import app
from sprec.data import Catalog, Dataset, Split
from sprec.evaluation import METRICS
from sprec.recommend.protocols import Recommendations
from sprec.runs import evaluate_run, load_results
from sprec.runs.stages import write_recommendations
from sprec.study.compare import compare_runs
from sprec.study.lists import score_lists
from sprec.system import storage
from sprec.system.errors import UserError
from toy_runs import toy_changes

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a method once and returns its folder; methods without a model take no time."""
    root = tmp_path_factory.mktemp("compared")

    def call(method: str, seed: int, **settings: Any) -> Path:
        out = root / "-".join([method, str(seed), *(f"{key}={value}" for key, value in settings.items())])
        if not out.exists():
            common = {"loop__iterations": 0, "backbone__epochs": 1, "loop__samples": 8, "sft__samples": 16}
            changes = toy_changes(method=method, seed=seed, **(common | settings))
            arguments = ["run", "demo", "--data", toy_data, "-o", out, "--shared", root / "shared", *changes]
            done = CliRunner().invoke(app, [str(argument) for argument in arguments])
            assert done.exit_code == 0, (done.output, done.exception)
        return out

    return call


def metric(run: Path, name: str) -> float:
    return load_results(run)[-1].metrics[name]


def test_runs_are_paired_by_seed_not_by_their_place_on_the_line(run: Run) -> None:
    """Per seed, by the runs' own metrics: chance minus popularity."""
    chance, popular = ({seed: run(method, seed) for seed in (0, 1, 2)} for method in ("random", "popularity"))
    metrics, differences = compare_runs([popular[0], popular[2], popular[1], chance[2], chance[0], chance[1]], 200)
    again = compare_runs([*popular.values(), *chance.values()], 200)
    assert (metrics, differences) == again
    rows = dict(differences.rows)
    for name, label in (("DivRatio@1", "DivRatio@1 ↑"), ("ORRatio@5", "ORRatio@5 ↓")):
        by_seed = [metric(chance[seed], name) - metric(popular[seed], name) for seed in (0, 1, 2)]
        found = rows["random", "popularity", label]["difference"]
        assert found.value == pytest.approx(sum(by_seed) / 3)
        assert found.mark == "better"
    assert "popularity 0, 1, 2; random 0, 1, 2" in metrics.title, "equal lists of three seeds are three seeds"
    assert metrics.title.startswith("ranks items; ")


def test_methods_are_compared_over_the_seeds_that_both_have(run: Run) -> None:
    runs = [run("popularity", 1), *(run("random", seed) for seed in (0, 1, 2))]
    rows = dict(compare_runs(runs, 200)[1].rows)
    found = rows["random", "popularity", "DivRatio@5 ↑"]
    one = metric(run("random", 1), "DivRatio@5") - metric(run("popularity", 1), "DivRatio@5")
    assert found["difference"].value == pytest.approx(one)
    assert found["value"].value == pytest.approx(sum(metric(run("random", s), "DivRatio@5") for s in (0, 1, 2)) / 3)
    with pytest.raises(UserError, match=r"^random \(seeds 0, 2\) and popularity \(seeds 1\) share no seed"):
        compare_runs([run("popularity", 1), run("random", 0), run("random", 2)], 200)


def test_protocols_are_never_pooled(run: Run) -> None:
    runs = [run("bigrec", seed, recommend__protocol=protocol) for seed in (0, 1) for protocol in ("paper", "exact")]
    arguments = ["compare", *map(str, [*runs, run("random", 0)]), "--resamples", "200", "--json"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    values = {row["method"]: row["metrics"]["HR@5"]["value"] for row in found["metrics"]["rows"]}
    assert list(values) == ["bigrec, paper's protocol", "bigrec, exact", "random, ranks items"]
    assert values["bigrec, exact"] == pytest.approx((metric(runs[1], "HR@5") + metric(runs[3], "HR@5")) / 2)
    references = {row["method"]: row["reference"] for row in found["differences"]["rows"]}
    assert references["bigrec, exact"] == "bigrec, exact"
    assert references["random, ranks items"] == "bigrec, paper's protocol"
    alone = compare_runs(runs[::2], 200)
    assert [labels for labels, _ in alone[0].rows] == [("bigrec",)]
    assert alone[0].title == "paper's protocol; mean and 95% interval (seeds of bigrec 0, 1)"


def test_other_settings_are_another_method(run: Run) -> None:
    without, other = run("random", 0, recommend__exclude_history=True), run("random", 1)
    with pytest.raises(UserError, match=r"differ in recommend\.exclude_history; runs of one method are pooled"):
        compare_runs([other, without], 200)
    first = run("random", 0)
    assert compare_runs([first, first], 200) == compare_runs([first], 200), "the same run twice is one seed"


def test_titles_say_the_protocol(run: Run, toy_data: Path) -> None:
    out = run("bigrec", 0, recommend__protocol="exact")
    settings = {"loop__iterations": 0, "backbone__epochs": 1, "loop__samples": 8, "sft__samples": 16}
    changes = toy_changes(method="bigrec", seed=0, recommend__protocol="exact", **settings)
    shown = CliRunner().invoke(app, ["run", "demo", "--data", str(toy_data), "-o", str(out), *changes])
    assert "demo (simulated users), exact, " in shown.stdout
    evaluated = CliRunner().invoke(
        app, ["evaluate", str(out), "--set", "recommend.protocol=d3", "--set", "sasrec.epochs=1"]
    )
    assert "SASRec-guided" in evaluated.stdout


def test_models_that_started_otherwise_are_not_pooled_as_bigrec(run: Run) -> None:
    """Self-play of two seeds with other SFT rates: both begin with a "bigrec", but not with seeds of one."""
    one = run("sprec", 0, loop__iterations=1, sft__lr=0.001)
    other = run("dpo", 1, loop__iterations=1, sft__lr=0.002)
    with pytest.raises(UserError, match=r"have bigrec .* in common but differ in sft\.lr"):
        compare_runs([one, other], 200)


def test_lists_shorter_than_five_are_compared_where_they_can_be(run: Run) -> None:
    table, differences = compare_runs(
        [run("random", 0, recommend__top_k=1), run("popularity", 0, recommend__top_k=1)], 200
    )
    assert set(table.metrics) == {"DivRatio@1", "ORRatio@1", "MGU@1"}
    assert {labels[2].split()[0] for labels, _ in differences.rows} == set(table.metrics)


def test_lists_longer_than_the_catalog_are_measured_as_far_as_it_goes(
    toy_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three items, no genres: HR@1 exists, HR@5 does not; items named twice and what is undefined take a line each."""
    splits = {name: Split.of([((0,), 1), ((1,), 2)]) for name in ("train", "test")}
    dataset = Dataset("three", Catalog.of(["Alien", "Dune", "Emma"]), splits, (), toy_dataset.wording)
    file = tmp_path / "lists.jsonl"
    file.write_text('{"case": 0, "items": [1, 1, 1, 0, 2]}\n{"case": 1, "items": [0, 1, 2]}\n')
    found = score_lists(file, dataset)
    assert found["HR@1"] == 0.5
    assert "HR@5" not in found
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "! lists.jsonl: 1 of 2 lists name an item more than once; each time counts as a recommendation"
    assert told[1] == "! MGU and DGU are undefined (NaN): no selected genre on one side"
    assert len(told) == 2


def test_lists_of_some_cases_say_so(toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, file = Dataset.load(toy_data), tmp_path / "lists.jsonl"
    file.write_text('{"case": 3, "items": [1]}\n')
    assert score_lists(file, dataset)["DivRatio@1"] == 1
    assert "1 of the 20 cases of test are covered" in capsys.readouterr().err
    file.write_text('{"case": 12, "items": [1]}\n')
    with pytest.raises(UserError, match=r"case 12 is not a row of the valid split \(0 to 11\)"):
        score_lists(file, dataset, "valid")


METHODS = ("popularity", "random")


def test_compare_shows_what_is_asked_for(run: Run, tmp_path: Path) -> None:
    """Names with and without cut-off, all, and the four files of each table; values are those of the runs."""
    runs = [str(run(method, 0)) for method in METHODS]
    asked = [
        *runs,
        "--resamples",
        "100",
        "--metrics",
        "Gini@1, GenreDiversity, HR@3",
        "-o",
        str(tmp_path / "out"),
        "--json",
    ]
    done = CliRunner().invoke(app, ["compare", *asked])
    found = json.loads(done.stdout)
    rows = {row["method"]: row["metrics"] for row in found["metrics"]["rows"]}
    assert list(rows["random"]) == ["Gini@1", "GenreDiversity@3", "GenreDiversity@5", "HR@3"]
    for method in METHODS:
        for name in ("Gini@1", "GenreDiversity@5"):
            cell = rows[method][name]
            assert cell["value"] == pytest.approx(metric(run(method, 0), name)), name
            assert cell["low"] - 1e-9 <= cell["value"] <= cell["high"] + 1e-9
    (gini,) = (row for row in found["differences"]["rows"] if row["metric"] == "Gini@1 ↓" and row["method"] == "random")
    assert gini["metrics"]["difference"]["mark"] == "better"
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {f"{name}.{kind}" for name in ("metrics", "differences") for kind in ("csv", "json", "md", "tex")}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found["metrics"]
    assert "| method | Gini@1 ↓ | GenreDiversity@3 ↑ |" in (tmp_path / "out" / "metrics.md").read_text()
    assert r"method & Gini@1 $\downarrow$" in (tmp_path / "out" / "metrics.tex").read_text()
    every = set(compare_runs([run("random", 0)], 100, "all")[0].metrics)
    assert every == set(load_results(run("random", 0))[0].metrics)


def test_score_shows_what_is_asked_for(toy_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text("".join(f'{{"case": {case}, "items": [{case}, 50, 51, 52, 53]}}\n' for case in range(20)))
    items = len(Dataset.load(toy_data).catalog)

    def score(*options: str) -> str:
        return CliRunner().invoke(app, ["score", str(file), "--data", str(toy_data), *options]).stdout

    asked = json.loads(score("--metrics", "Coverage@3,APLT", "--json"))
    assert list(asked) == ["Coverage@3", "APLT@1", "APLT@3", "APLT@5"]
    assert asked["Coverage@3"] == pytest.approx(22 / items)
    every = json.loads(score("--json"))
    assert {name.partition("@")[0] for name in every} == set(METRICS) - {"ExactTitles"}
    assert [name for name in METRICS if f"{name}@" in score()] == ["HR", "NDCG", "DivRatio", "ORRatio", "MGU"]


def test_a_metric_that_is_not_there_is_refused_in_one_line(run: Run) -> None:
    for name in ("HR@20", "GenreDiversity@1", "ExactTitles", "Recall", ""):
        with pytest.raises(
            UserError, match=f'^there is no metric "{name}" for these lists; there are HR, NDCG, .*; or all$'
        ):
            compare_runs([run("random", 0)], 100, name)


def rewritten(run: Path, items: list[list[int]], exist: int, copy: Path, samples: int = 0) -> Path:
    """A copy of a run whose last evaluation has these lists, and so many titles (or samples) that exist, first."""
    shutil.copytree(run, copy)
    folder = sorted((copy / "stages").glob("*-evaluate-*"))[-1]
    about = {"key": storage.read_manifest(folder)["key"]}
    titles = ["Alien (1979)"] * exist + ["Alien, and so on"] * (len(items) * max(samples, 1) - exist)
    found = Recommendations(np.array(items), [] if samples else titles, samples=titles if samples else [])
    (folder / storage.MANIFEST).unlink()
    write_recommendations(folder / "recommendations.parquet", found)
    storage.seal(folder, about)
    return copy


def test_a_model_that_forgot_the_titles_is_not_called_better(run: Run, tmp_path: Path) -> None:
    """38% of real titles looked like more diversity. 18 of 20 titles are enough, 17 are not."""
    narrow, wide = [[0, 1, 2, 3, 4]] * 20, [[5 * case % 60 + place for place in range(5)] for case in range(20)]
    base = rewritten(run("bigrec", 0), narrow, 20, tmp_path / "base")
    for exist, mark in ((18, "better"), (17, "")):
        other = rewritten(run("rw", 0), wide, exist, tmp_path / f"rw-{exist}")
        done = CliRunner().invoke(app, ["compare", str(base), str(other), "--resamples", "200"])
        lines = [line for line in done.stdout.splitlines() if "not a fair comparison" in line]
        metrics, differences = compare_runs([base, other], 200)
        found = dict(differences.rows)["rw", "bigrec", "DivRatio@5 ↑"]["difference"]
        assert found.low is not None
        assert found.low > 0, "real in both cases"
        assert found.mark == mark
        assert dict(metrics.rows)["rw",]["ExactTitles"].value == pytest.approx(exist / 20)
        assert dict(metrics.rows)["rw",]["DivRatio@5"].mark == ("best" if mark else "")
        assert bool(lines) == (exist < 18)
    assert lines == [
        "! not a fair comparison: only 85% of the titles that rw generates exist in the catalog; the others are "
        "matched to whatever is nearest, which passes for diversity"
    ]
    assert metrics.note == differences.note == lines[0].removeprefix("! ")
    assert metrics.markdown().endswith(f"|\n\n{metrics.note}\n")
    assert metrics.record()["note"] == metrics.note


def test_samples_tell_which_titles_exist(run: Run, tmp_path: Path) -> None:
    """By consensus every case has several titles: 50 of 80 are those of 12 cases, and half of another's."""
    own = rewritten(run("bigrec", 0), [[0, 1, 2, 3, 4]] * 20, 50, tmp_path / "run", samples=4)
    table, _ = compare_runs([own], 2000, "ExactTitles")
    cell = dict(table.rows)["bigrec",]["ExactTitles"]
    assert cell.value == pytest.approx(50 / 80)
    deviation = np.sqrt((12 * 0.375**2 + 0.125**2 + 7 * 0.625**2) / 20)
    assert (cell.low, cell.high) == pytest.approx(
        (cell.value - 1.96 * deviation / np.sqrt(20), cell.value + 1.96 * deviation / np.sqrt(20)), abs=0.03
    )


def lists(file: Path, items: Callable[[int], list[int]], cases: range = range(20), **more: Any) -> Path:
    """A file of lists, one JSON line per case."""
    file.write_text("".join(json.dumps({"case": case, "items": items(case), **more}) + "\n" for case in cases))
    return file


def test_lists_from_elsewhere_get_the_same_statistics(toy_data: Path, tmp_path: Path) -> None:
    """A names 20 items, B one of them, in all cases but the last: 19 different ones, against a single one."""
    a, b = lists(tmp_path / "a.jsonl", lambda case: [case]), tmp_path / "b.parquet"
    pl.DataFrame({"case": range(19), "items": [[7]] * 19}).write_parquet(b)
    done = CliRunner().invoke(
        app, ["compare", str(b), str(a), "--data", str(toy_data), "--json", "--metrics", "DivRatio@1,HR@1,Coverage@1"]
    )
    assert "19 cases are in all lists, 20 in the longest ones; these 19 are compared" in done.stderr
    found = json.loads(done.stdout)
    assert found["metrics"]["title"] == "mean and 95% interval (19 cases)"
    assert found["differences"]["title"] == "difference to b, over the same cases"
    rows = {(row["method"], row["metric"]): row["metrics"] for row in found["differences"]["rows"]}
    assert rows["a", "DivRatio@1 ↑"]["value"]["value"] == 1
    assert rows["a", "DivRatio@1 ↑"]["difference"]["value"] == pytest.approx(1 - 1 / 19)
    assert rows["a", "DivRatio@1 ↑"]["difference"]["mark"] == "better"
    targets = Dataset.load(toy_data).test.targets[:19]
    hits = (targets == range(19)).mean() - (targets == 7).mean()
    assert rows["a", "HR@1 ↑"]["difference"]["value"] == pytest.approx(hits)
    assert set(rows["b", "HR@1 ↑"]) == {"value"}


def test_lists_in_a_file_are_paired_with_every_seed_of_a_run(run: Run, tmp_path: Path) -> None:
    """Item 0 for all: its difference to chance is the mean over the three seeds of chance."""
    fixed = lists(tmp_path / "fixed.jsonl", lambda _: [0, 1, 2, 3, 4])
    metrics, differences = compare_runs([*(run("random", seed) for seed in (2, 0, 1)), fixed], 200)
    chance = sum(metric(run("random", seed), "DivRatio@5") for seed in (0, 1, 2)) / 3
    found = dict(differences.rows)["fixed", "random", "DivRatio@5 ↑"]["difference"]
    assert found.value == pytest.approx(5 / 100 - chance)
    assert found.mark == "worse"
    assert metrics.title == "ranks items; mean and 95% interval (seeds of random 0, 1, 2)"
    same = lists(tmp_path / "random.jsonl", lambda _: [0, 1, 2, 3, 4])
    assert [labels[0] for labels, _ in compare_runs([run("random", 0), same], 100)[0].rows] == ["random", str(same)]


def test_lists_that_cannot_be_compared(run: Run, toy_data: Path, tmp_path: Path) -> None:
    a, b = lists(tmp_path / "a.jsonl", lambda _: [0], range(3)), lists(tmp_path / "b.jsonl", lambda _: [0], range(3, 5))
    with pytest.raises(UserError, match=r"^lists in files are about the cases of a dataset: name it, --data DATASET$"):
        compare_runs([a], 100)
    with pytest.raises(UserError, match=r"^no case is in all of the lists$"):
        compare_runs([a, b], 100, dataset=Dataset.load(toy_data))
    other = replace(Dataset.load(toy_data), name="other").save(tmp_path / "other")
    with pytest.raises(UserError, match=r"random-0 is of other data than other; leave out --data$"):
        compare_runs([run("random", 0), a], 100, dataset=other)
    with pytest.raises(UserError, match=r"none\.jsonl does not exist$"):
        compare_runs([tmp_path / "none.jsonl"], 100)


def test_protocols_of_one_run_are_paired(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluations keep their lists, each with its settings; a second time they are read."""
    own = tmp_path / "run"
    shutil.copytree(run("bigrec", 0), own)
    values = {name: evaluate_run(own, [f"recommend.protocol={name}"]) for name in ("paper", "exact")}
    folders = {folder.name.partition("-")[0]: folder for folder in (own / "evaluations").iterdir()}
    assert set(folders) == {"paper", "exact"}
    assert f"lists kept in {folders['exact']}" in capsys.readouterr().err
    assert evaluate_run(own, ["recommend.protocol=exact"]) == values["exact"]
    assert capsys.readouterr().err.startswith(f"lists read from {folders['exact']}\n")
    assert evaluate_run(own, ["recommend.protocol=exact"], ks=[3])["HR@3"] >= values["exact"]["HR@1"]
    metrics, differences = compare_runs([folders["paper"], folders["exact"]], 200, "HR@5,DivRatio@5")
    rows = dict(metrics.rows)
    for name, words in (("paper", "bigrec, paper's protocol"), ("exact", "bigrec, exact")):
        for one in ("HR@5", "DivRatio@5"):
            assert rows[words,][one].value == pytest.approx(values[name][one])
    assert compare_runs([own, folders["paper"]], 100) == compare_runs([own], 100), "the run's own lists, once more"
    text = differences.markdown()
    assert "| bigrec, exact |" in text


def test_lists_that_the_model_had_no_part_in_are_not_called_its_own(run: Run, tmp_path: Path) -> None:
    """What ranks items does so whatever the run trained: lists of two of them, and of two runs, are told apart."""
    own, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(run("bigrec", 0), own)
    shutil.copytree(run("dpo", 1, loop__iterations=1, sft__lr=0.002), other)
    for place in (own, other):
        for name in ("popularity", "random"):
            evaluate_run(place, [f"recommend.protocol={name}"])
    kept = {name: [*own.glob(f"evaluations/{name}-*"), *other.glob(f"evaluations/{name}-*")] for name in METHODS}
    rows = dict(compare_runs([own, *kept["popularity"][:1], *kept["random"]], 200, "HR@5")[0].rows)
    assert list(rows) == [("bigrec, paper's protocol",), ("popularity, ranks items",), ("random, ranks items",)]
    each = [metric(run("random", seed), "HR@5") for seed in (0, 1)]
    assert rows["random, ranks items",]["HR@5"].value == pytest.approx(sum(each) / 2), "seeds of one way to recommend"
    assert rows["popularity, ranks items",]["HR@5"].value == pytest.approx(metric(run("popularity", 0), "HR@5"))


def test_what_was_kept_of_another_model_is_not_compared(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run("bigrec", 0), own)
    evaluate_run(own)
    (folder,) = (own / "evaluations").iterdir()
    manifest = storage.read_manifest(folder)
    (folder / storage.MANIFEST).unlink()
    stale = {"policy": "of before"}
    storage.seal(
        folder, {name: manifest[name] for name in ("key", "recipe")} | {"depends": manifest["depends"] | stale}
    )
    with pytest.raises(UserError, match=r"is of a model or of data that .*run had before; evaluate it again"):
        compare_runs([folder], 100)
    (folder / "recommendations.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="sprec evaluate makes it again"):
        compare_runs([folder], 100)
    assert evaluate_run(own)["HR@1"] == metric(own, "HR@1")
    compare_runs([folder], 100)
