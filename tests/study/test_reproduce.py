"""The paper's experiments at toy size through the command line: plans, files, numbers. Targets share stages."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from sprec.cli import app
from sprec.data import Dataset, Split
from sprec.data.demo import demo
from sprec.evaluation import PAPER_METRICS
from sprec.methods.table import METHODS
from sprec.runs import load_results
from sprec.study.plan import (
    EXPERIMENTS,
    FIGURE5,
    FIGURE6,
    FLOOR,
    TABLE2,
    TABLE3,
    by_name,
    check_fits,
    default_protocols,
    of_row,
    plan,
    recipe_for,
)
from sprec.study.published import published, published_sizes
from sprec.study.rates import plan_search
from sprec.study.records import Record
from sprec.study.tables import table1
from sprec.system.errors import UserError
from toy_runs import toy_changes

Reproduce = Callable[..., Result]
ROWS = ("BIGRec", "SPRec", "Popularity", "Random", "D3")


@pytest.fixture(scope="module")
def steam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy data under the name of one of the paper's datasets, so that the paper's numbers stand beside it."""
    folder = tmp_path_factory.mktemp("steam") / "data"
    replace(demo(0, train=120, valid=12, test=20, extra=8, history=4), name="Steam").save(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def reproduce(steam: Path, out: Path) -> Reproduce:
    """``sprec reproduce``, all calls into one folder with the same toy settings, so that they share their stages."""
    settings = toy_changes(backbone__epochs=1, sft__samples=48, loop__samples=16, sasrec__epochs=1)
    changes = [value for value in settings[1::2] if not value.startswith("seed=")] + ["recommend.samples=3"]

    def call(what: str, *more: object) -> Result:
        always = ["--datasets", steam, "-o", out, "--backbone", "demo"]
        arguments = ["reproduce", what, *always, *more, *(part for c in changes for part in ("--set", c))]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def only(*rows: str) -> list[str]:
    return [part for row in rows for part in ("--only", row)]


def fine(done: Result) -> Result:
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def refused(done: Result) -> str:
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_every_row_of_the_paper_is_planned(toy_dataset: Dataset) -> None:
    printed = published()
    for table, rows in (("table2", TABLE2), ("table3", TABLE3)):
        methods = {method for t, _, method in printed if t == table}
        assert methods == set(rows)
    jobs = plan("table2", [toy_dataset], [0, 1, 2], backbone="demo", protocols=["paper", "exact"])
    models = [job for job in jobs if job.variant not in ("SASRec", "D3", *FLOOR)]
    assert len(models) == 6 * 2 * 3
    assert len(jobs) == len(models) + 4 * 3  # SASRec, D3, popularity and chance have one way to recommend
    assert {job.recipe.seed for job in jobs} == {0, 1, 2}
    assert len({job.folder(Path()) for job in jobs}) == len(jobs)
    claims = plan("claims", [toy_dataset], [0], backbone="demo")
    assert [job.variant for job in claims] == list(dict.fromkeys([*TABLE2, *TABLE3])), "each method once"


def test_rows_say_how_they_recommend_and_records_stay_where_they_are(toy_dataset: Dataset) -> None:
    for asked in (["paper", "exact"], ["exact"]):
        jobs = plan("table2", [toy_dataset], [0], backbone="demo", protocols=asked)
        found = {(job.variant, job.how): str(job.place) for job in jobs if job.variant in ("SASRec", "D3", "Random")}
        assert found == {
            ("SASRec", "ranks items"): f"{toy_dataset.name}/sasrec/paper/seed0",
            ("D3", "SASRec-guided beams"): f"{toy_dataset.name}/d3/paper/seed0",
            ("Random", "ranks items"): f"{toy_dataset.name}/random/paper/seed0",
        }
    alone = plan("table2", [toy_dataset], [0], backbone="demo", variants=["D3"], changes=["recommend.alpha=1"])
    assert [job.how for job in alone] == ["unguided beams"]


def test_variants_are_the_baselines_of_the_papers_and_those_of_the_research_code(toy_dataset: Dataset) -> None:
    jobs = {job.variant: job for job in plan("variants", [toy_dataset], [0], backbone="demo")}
    for name in (row for row in TABLE2 if row not in ("SASRec", "SDPO")):
        (alone,) = plan("table2", [toy_dataset], [0], backbone="demo", protocols=["paper"], variants=[name])
        assert alone == jobs[name], "the rows of Table 2 are the same runs"
    assert jobs["D3 official"].how == "unguided beams, grounded"
    assert jobs["D3 official"].recipe.recommend.beams == 1
    assert jobs["RosePO official"].recipe.negatives.least_similar
    assert jobs["RosePO official"].recipe.prefer.objective == "dpo"
    assert jobs["DMPO official"].recipe.prefer.reduction == "sum"
    assert {jobs[f"RW{more}"].recipe.sft.weights for more in ("", " official", " equal")} == {
        "correct", "official", "equal",
    }  # fmt: skip
    assert len({job.place for job in jobs.values()}) == len(jobs)


def test_tables_show_all_protocols_unless_asked_otherwise(toy_dataset: Dataset) -> None:
    for experiment in EXPERIMENTS:
        jobs = plan(experiment, [toy_dataset], [0], backbone="demo")
        wanted = {"paper", "exact", "consensus"} if experiment in ("table2", "table3", "tradeoff") else {"paper"}
        assert {job.protocol for job in jobs} == set(default_protocols(experiment)) == wanted


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


def test_published_sizes_are_the_paper_s() -> None:
    assert published_sizes()["MovieLens"] == {"items": 10_682, "interactions": 10_000_054, "sequences": 9_301_274}
    assert published_sizes()["Steam"] == {"items": 32_094, "interactions": 178_961, "sequences": 29_876}
    assert set(published_sizes()) == {dataset for _, dataset, _ in published()}


def test_mistakes_are_named(toy_dataset: Dataset) -> None:
    with pytest.raises(UserError, match="no recipe demo-scratch is shipped for demo"):
        plan("table2", [toy_dataset], [0])
    with pytest.raises(UserError, match="table3 has no rows SPREC; it has BIGRec, SPRec"):
        plan("table3", [toy_dataset], [0], backbone="demo", variants=["SPREC"])
    with pytest.raises(UserError, match="unknown experiment table9"):
        plan("table9", [toy_dataset], [0], backbone="demo")
    with pytest.raises(UserError, match=r"figure5 shows iterations, and loop\.iterations=0 leaves none"):
        plan("figure5", [toy_dataset], [0], backbone="demo", changes=["loop.iterations=0"])
    with pytest.raises(UserError, match="two datasets are called demo"):
        by_name([toy_dataset, toy_dataset])


def test_a_change_of_all_rows_leaves_methods_what_they_are(toy_dataset: Dataset) -> None:
    changes = ["loop.iterations=3", "loop.sft_step=true", "prefer.objective=dpo", "sft.samples=7"]
    for method, row in METHODS.items():
        plain, other = (of_row("demo", [f"method={method}"], some) for some in ([], changes))
        for section, own in row.items():
            for name in own:
                assert getattr(getattr(other, section), name) == getattr(getattr(plain, section), name), (method, name)
        assert other.sft.samples == 7
    planned = plan("table2", [toy_dataset], [0], backbone="demo", changes=changes[:1], protocols=["paper"])
    iterations = {job.variant: job.recipe.loop.iterations for job in planned}
    assert (iterations["BIGRec"], iterations["DMPO"], iterations["SPRec"]) == (0, 1, 3)
    assert of_row("demo", ["method=rw", "sft.weights=equal"]).sft.weights == "equal", "a row's own setting wins"
    searched = plan_search([toy_dataset], backbone="demo", changes=changes[:1], variants=["BIGRec"])
    assert {job.recipe.loop.iterations for job in searched} == {0}


def test_what_fits_no_dataset_is_refused_before_the_first_run(toy_dataset: Dataset) -> None:
    """The last job of all is the one that cannot work."""
    no_valid = replace(toy_dataset, name="B", splits={**toy_dataset.splits, "valid": Split.of([])})
    no_genres = replace(toy_dataset, name="C", genres=())
    many = len(toy_dataset.catalog) + 1
    for other, variant, changes, message in (
        (no_valid, "RosePO", ["sft.valid=0"], "SASRec needs a validation split to stop, and that of B is empty"),
        (no_genres, "RW", [], "method rw weighs samples by genre, but C has no genres"),
        (no_genres, "BIGRec", [f"recommend.top_k={many}"], f"recommend.top_k={many}, but the catalog of"),
        (no_genres, "BIGRec", ["recommend.top_k=4"], "tables and figures measure lists of 5; recommend.top_k=4"),
    ):
        both = [toy_dataset, other]
        jobs = plan("table2", both, [0], backbone="demo", variants=["BIGRec", variant], changes=changes)
        with pytest.raises(UserError, match=message):
            check_fits(jobs, both)
    with pytest.raises(UserError, match="figure3 shows unfairness per genre, but C has no genres"):
        plan("figure3", [no_genres], [0], backbone="demo")


def test_variants_stand_beside_the_rows_that_the_paper_printed(reproduce: Reproduce, out: Path, table2: Result) -> None:
    done = fine(reproduce("variants", "--seeds", 0, *only("BIGRec", "RW equal", "D3 official")))
    assert "✓ 00-backbone" not in done.stderr, "of the same backbone as Table 2"
    ours = sources(out, "variants")
    assert {(name, source) for name, source in ours if source != "paper"} == {
        ("BIGRec", "ours, paper's protocol, 1 seed"),
        ("RW equal", "ours, paper's protocol, 1 seed"),
        ("D3 official", "ours, unguided beams, grounded, 1 seed"),
    }
    assert ours["D3", "paper"]["HR@5"]["value"] == published()["table2", "Steam", "D3"]["HR@5"]
    assert {row for row, _ in sources(out, "variants-changes")} > {"RW equal", "D3 official", "RosePO"}


def sources(out: Path, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads((out / f"{name}.json").read_text())["rows"]
    return {(row["method"], row["source"]): row["metrics"] for row in rows}


SEEDS = ("--seeds", "0", "--seeds", "1")


@pytest.fixture(scope="module")
def table2(reproduce: Reproduce) -> Result:
    return fine(reproduce("table2", *SEEDS, *only(*ROWS)))


def test_table2(table2: Result, reproduce: Reproduce, out: Path) -> None:
    assert table2.stderr.count("made with other settings") == 0
    assert table2.stderr.count("✓ 00-backbone") == 1, "one backbone for all runs"
    assert table2.stderr.count("✓ 01-sft") == 2, "one SFT per seed"
    assert "✓ 02-sft" not in table2.stderr, "D3, whose SFT comes after SASRec, has the same one"
    ours = sources(out, "table2")
    ways = {(name, source) for name, source in ours if source != "paper"}
    protocols = ("paper's protocol", "exact", "consensus")
    assert ways == {
        *(("BIGRec", f"ours, {how}, 2 seeds") for how in protocols),
        *(("SPRec", f"ours, {how}, 2 seeds") for how in protocols),
        ("D3", "ours, SASRec-guided beams, 2 seeds"),
        ("Popularity", "ours, ranks items, 2 seeds"),
        ("Random", "ours, ranks items, 2 seeds"),
    }
    assert ours["SPRec", "paper"]["HR@5"]["value"] == published()["table2", "Steam", "SPRec"]["HR@5"]
    finished = [load_results(out / f"runs/Steam/sprec/paper/seed{seed}")[-1].metrics for seed in (0, 1)]
    found = ours["SPRec", "ours, paper's protocol, 2 seeds"]
    for metric in PAPER_METRICS:
        assert found[metric]["value"] == pytest.approx(np.mean([metrics[metric] for metrics in finished]))
    for suffix in ("csv", "json", "md", "tex"):
        assert all((out / f"table2{part}.{suffix}").is_file() for part in ("", "-changes", "-differences"))
    with (out / "table2-differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["reference"]) for row in rows} == {
        *(("SPRec", f"BIGRec, {how}") for how in protocols),
        *((name, "BIGRec, paper's protocol") for name in ("D3", "Popularity", "Random")),
    }
    again = fine(reproduce("table2", *SEEDS, *only(*ROWS)))
    assert again.stderr == "", "all are on record"


@pytest.mark.usefixtures("table2")
def test_a_table_of_what_is_on_record_runs_nothing(reproduce: Reproduce, out: Path, tmp_path: Path) -> None:
    """Datasets, methods and seeds that are not there yet are left out."""
    shutil.copytree(out / "records", tmp_path / "records")
    (tmp_path / "records/Steam/sprec/paper/seed1.json").unlink()
    asked = (*only("BIGRec", "SPRec", "RW"), "--protocols", "paper", "-o", tmp_path, "--recorded")
    done = fine(reproduce("table2", *asked))
    assert done.stderr == ""
    assert not (tmp_path / "runs").exists()
    ours = {key: metrics for key, metrics in sources(tmp_path, "table2").items() if key[1] != "paper"}
    how = "ours, paper's protocol"
    assert set(ours) == {("BIGRec", f"{how}, 2 seeds"), ("SPRec", f"{how}, 1 seed")}
    finished = load_results(out / "runs/Steam/sprec/paper/seed0")[-1].metrics
    assert ours["SPRec", f"{how}, 1 seed"]["HR@5"]["value"] == pytest.approx(finished["HR@5"])
    kept = tmp_path / "records/Steam/sprec/paper/seed0.json"
    trained = content_of(kept)["backbone"]
    replace(Record.read(kept), backbone="another").write(kept)
    told = fine(reproduce("table2", *asked)).stderr
    assert told.startswith("! Steam: these runs descend from 2 backbones, made at different times, so that")
    assert f"BIGRec from {trained}; SPRec from another. Remove" in told
    message = refused(reproduce("table2", *only("RW"), "-o", tmp_path, "--recorded"))
    assert message.startswith("none of these 9 runs is on record under")


def content_of(record: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(record.read_text())
    return {name: value for name, value in content.items() if name not in ("seconds", "digest")}


@pytest.mark.usefixtures("table2")
def test_two_processes_divide_the_runs_and_make_no_stage_twice(
    reproduce: Reproduce, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # sums of more threads are other sums
    protocols = ("--protocols", "paper", "--protocols", "exact")
    done = fine(reproduce("table2", *SEEDS, *only("SPRec", "Random"), *protocols, "-o", tmp_path, "--jobs", "2"))
    logs = [(tmp_path / f"worker-{number}.log").read_text() for number in (1, 2)]
    for stage, times in (("00-backbone", 1), ("01-sft", 2), ("05-prefer-1", 2)):
        assert sum(log.count(f"✓ {stage}") for log in logs) == times, stage
    records = sorted(file.relative_to(tmp_path) for file in tmp_path.glob("records/**/*.json"))
    assert len(records) == 2 * 2 + 2
    told = [line.split()[1] for line in done.stderr.splitlines() if "/6]" in line]  # slow machines say more
    assert sorted(told) == [f"[{n}/6]" for n in range(1, 7)]
    assert all("✓" in log for log in logs), "both have worked"
    assert not [line for log in logs for line in log.splitlines() if line[0] not in "[✓=!"]
    assert [content_of(tmp_path / file) for file in records] == [content_of(out / file) for file in records]


@pytest.mark.usefixtures("table2")
def test_table3(reproduce: Reproduce, out: Path) -> None:
    """The rows of the ablations beside the paper's; what Table 2 has run is not run again."""
    asked = ("--seeds", "0", *only("BIGRec", "SPRec", "SPRec-RN", "SPRec-noDPO"), "--protocols", "paper")
    done = fine(reproduce("table3", *asked))
    started = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert started == [
        "[3/4] Steam, SPRec-RN, paper's protocol, seed 0",
        "[4/4] Steam, SPRec-noDPO, paper's protocol, seed 0  about 1 min left",
    ]
    ours = sources(out, "table3")
    for row, place in (("SPRec", "sprec"), ("SPRec-RN", "sprec-rn"), ("SPRec-noDPO", "sprec-nodpo")):
        finished = load_results(out / f"runs/Steam/{place}/paper/seed0")[-1]
        found = ours[row, "ours, paper's protocol, 1 seed"]
        assert {m: found[m]["value"] for m in PAPER_METRICS} == pytest.approx(
            {m: finished.metrics[m] for m in PAPER_METRICS}
        )
        assert ours[row, "paper"]["NDCG@5"]["value"] == published()["table3", "Steam", row]["NDCG@5"]
        assert finished.stage == ("sft" if place == "sprec-nodpo" else "prefer")


def test_figure2_is_computed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = fine(CliRunner().invoke(app, ["reproduce", "figure2", "-o", str(tmp_path)]))
    assert {file.suffix for file in tmp_path.glob("*")} >= {".svg", ".png", ".json"}, done.stdout


@pytest.mark.usefixtures("table2")
def test_figures_and_claims_need_no_run_after_table2(reproduce: Reproduce, out: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = fine(reproduce("figure3", *SEEDS, *only("BIGRec", "SPRec", "D3")))
    assert figure.stderr == ""
    assert {file.suffix for file in out.glob("figure3-Steam.*")} == {".svg", ".png", ".json"}
    record = json.loads((out / "figure3-Steam.json").read_text())
    assert set(record) == {"BIGRec", "SPRec", "D3 (SASRec-guided beams)"}
    fine(reproduce("tradeoff", *SEEDS, *only("BIGRec", "SPRec", "D3"), "--recorded"))
    shown = json.loads((out / "tradeoff.json").read_text())["Steam"]
    assert set(shown["paper's protocol"]) == {"BIGRec", "SPRec"}
    assert set(shown["SASRec-guided beams"]) == {"D3"}
    claims = fine(reproduce("claims", *SEEDS, *only("BIGRec", "SPRec")))
    assert claims.stderr == ""
    rows = json.loads((out / "claims.json").read_text())["rows"]
    assert {row["claim"].partition(" ")[0] for row in rows} == {"SPRec", "The"}, "of the two that were run"
    first = rows[0]["metrics"]
    assert sum(first[kind]["value"] for kind in ("holds", "open", "fails")) == len(PAPER_METRICS)


def test_figure4(reproduce: Reproduce, out: Path) -> None:
    pytest.importorskip("matplotlib")
    fine(reproduce("figure4", "--seeds", "0", *only("SPRec-noSFT")))
    record = json.loads((out / "figure4-Steam.json").read_text())
    points = record["HR@5"]["SPRec-noSFT"]
    assert set(points) == {"0", "1"}
    last = load_results(out / "runs/Steam/sprec-nosft-stages/paper/seed0")[-1].metrics
    assert points["1"] == {"value": last["HR@5"], "low": None, "high": None}, "one seed has no interval"


@pytest.mark.parametrize(("what", "values"), [("figure5", ("0", "1")), ("figure6", ("1", "2"))])
def test_sweeps(reproduce: Reproduce, out: Path, what: str, values: tuple[str, str]) -> None:
    pytest.importorskip("matplotlib")
    fine(reproduce(what, "--seeds", "0", *only(*values)))
    assert {file.suffix for file in out.glob(f"{what}-Steam.*")} == {".svg", ".png", ".json"}
    record = json.loads((out / f"{what}-Steam.json").read_text())
    assert set(record["DivRatio@1"]["SPRec"]) == {f"{value}.0" for value in values}
    decode = "beam" if what == "figure6" else "greedy"
    last = load_results(out / f"runs/Steam/sprec-{values[1]}-{decode}-stages/paper/seed0")[-1].metrics
    assert record["HR@5"]["SPRec"][f"{values[1]}.0"]["value"] == last["HR@5"]


def test_nothing_that_took_hours_is_replaced(reproduce: Reproduce, out: Path) -> None:
    """Another backbone (or setting) in the same folder would overwrite the records of the first."""
    fine(reproduce("table2", "--seeds", "0", *only("Popularity")))
    file = out / "records/Steam/popularity/paper/seed0.json"
    before = file.read_bytes()
    for other in (["--backbone", "goodreads-scratch"], ["--set", "recommend.exclude_history=true"]):
        message = refused(reproduce("table2", *other, "--seeds", "0", *only("Popularity")))
        assert (
            "popularity/paper/seed0.json was made by another recipe (--backbone, --set) or from other data" in message
        )
    assert file.read_bytes() == before


def test_a_dry_run_prints_and_writes_nothing(steam: Path, tmp_path: Path) -> None:
    def dry(what: str, *more: str) -> str:
        arguments = ["reproduce", what, "--datasets", str(steam), "-o", str(tmp_path / "o"), "--dry-run", *more]
        return fine(CliRunner().invoke(app, arguments)).stdout

    assert dry("table1").startswith("table1 needs no runs")
    assert dry("figure2").startswith("figure2 needs no runs")
    rates = dry("rates", "--backbone", "demo", "--only", "SASRec", "--only", "DMPO").splitlines()
    assert len(rates) == 6
    assert rates[0].startswith("Steam, SASRec sasrec.lr=0.0005, ranks items, seed 0 -> ")
    table = dry("table2", "--backbone", "demo", "--only", "D3", "--only", "RW", "--seeds", "4").splitlines()
    assert [line.partition(" ->")[0] for line in table] == [
        "Steam, RW, paper's protocol, seed 4",
        "Steam, RW, exact, seed 4",
        "Steam, RW, consensus, seed 4",
        "Steam, D3, SASRec-guided beams, seed 4",
    ]
    assert not (tmp_path / "o").exists()


def test_options_that_cannot_be_are_refused(reproduce: Reproduce, steam: Path) -> None:
    assert refused(reproduce("table2", "--marks", "nonsense")) == "--marks is real or paper, not nonsense"
    assert refused(reproduce("table2", "--datasets", steam)).startswith("two datasets are called Steam")
    assert refused(reproduce("claims", "--protocols", "exact")).startswith("claims go by the paper's protocol")
    assert refused(reproduce("rates", "--seeds", "0", "--seeds", "1")).startswith("rates are searched with one seed")
    assert refused(reproduce("rates", *only("D3"))).startswith("no rates are searched for D3; methods: SASRec, BIGRec")
    for protocol in ("nonsense", "d3"):
        message = f"--protocols takes paper, exact, consensus, not {protocol}; D3 is a method of its own"
        assert refused(reproduce("table3", "--protocols", protocol)) == message


@pytest.mark.parametrize(
    ("what", "option"),
    [
        ("frontier", "--recorded"), ("frontier", "--protocols=exact"), ("frontier", "--jobs=2"),
        ("frontier", "--seeds=1"), ("frontier", "--set=cases=9"), ("table1", "--seeds=1"),
        ("table1", "--backbone=demo"), ("figure2", "--only=x"),
        ("table2", "--table2=x"), ("figure4", "--marks=paper"), ("rates", "--marks=paper"),
    ],
)  # fmt: skip
def test_an_option_that_would_be_ignored_is_refused(what: str, option: str, steam: Path, tmp_path: Path) -> None:
    arguments = ["reproduce", what, "--datasets", str(steam), "-o", str(tmp_path), option]
    name = option.partition("=")[0]
    assert refused(CliRunner().invoke(app, arguments)) == f"{what} has no {name}; leave it out"


def test_table1_stands_beside_the_paper_s(reproduce: Reproduce, steam: Path, out: Path, toy_dataset: Dataset) -> None:
    fine(CliRunner().invoke(app, ["reproduce", "table1", "--datasets", str(steam), "-o", str(out), "--recorded"]))
    ours, paper = json.loads((out / "table1.json").read_text())["rows"]
    stats = json.loads(CliRunner().invoke(app, ["data", "stats", str(steam), "--json"]).stdout)
    assert ours["source"] == "ours"
    assert {name: cell["value"] for name, cell in ours["metrics"].items()} == stats["table1"]
    assert paper["source"] == "paper"
    assert {name: cell["value"] for name, cell in paper["metrics"].items()} == published_sizes()["Steam"]
    assert [labels for labels, _ in table1([toy_dataset]).rows] == [(toy_dataset.name, "ours")], "not in the paper"


def test_rates_are_searched_on_the_validation_split(reproduce: Reproduce, out: Path) -> None:
    done = fine(reproduce("rates", *only("BIGRec", "RW", "DMPO")))
    rows = json.loads((out / "rates.json").read_text())["rows"]
    sft = [f"sft.lr={rate}" for rate in ("5e-05", "0.0001", "0.0002")]
    assert [(row["method"], row["rate"]) for row in rows] == [
        *(("BIGRec", rate) for rate in sft), *(("RW", rate) for rate in sft),
        *(("DMPO", f"prefer.lr={rate}") for rate in ("5e-06", "1e-05", "2e-05")),
    ]  # fmt: skip
    assert {(row["dataset"], row["protocol"]) for row in rows} == {("Steam", "paper's protocol")}
    best = {row["method"]: row for row in rows if row["metrics"]["NDCG@5"]["mark"] == "best"}
    assert len(best) == 3
    found = best["BIGRec"]["rate"]
    recipes = [json.loads(file.read_text())["recipe"] for file in out.glob("runs/*/dmpo-*/paper/seed0/recipe.json")]
    assert {recipe["split"] for recipe in recipes} == {"valid"}
    assert {f"sft.lr={recipe['sft']['lr']:g}" for recipe in recipes} == {found}, "DMPO starts from the chosen BIGRec"
    assert done.stderr.count("✓ 01-sft") == 3 + 3, "RW has an SFT of its own"
    again = fine(reproduce("rates", *only("BIGRec", "RW", "DMPO")))
    assert "✓" not in again.stderr
    assert "[" not in again.stderr, "all are on record"


def test_rates_are_judged_on_all_datasets_together(reproduce: Reproduce, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    replace(demo(1, train=120, valid=12, test=20, extra=8, history=4), name="MovieLens").save(other)
    fine(reproduce("rates", *only("SASRec"), "--datasets", other))
    together, alone = (json.loads((out / f"{name}.json").read_text())["rows"] for name in ("rates", "rates-by-dataset"))
    assert [row["dataset"] for row in together] == ["Steam, MovieLens"] * 3
    assert [row["dataset"] for row in alone] == ["Steam"] * 3 + ["MovieLens"] * 3
    for place, row in enumerate(together):
        assert {row["rate"]} == {other["rate"] for other in alone[place::3]}
        for metric in ("NDCG@5", "DivRatio@1"):
            single = [other["metrics"][metric]["value"] for other in alone[place::3]]
            assert row["metrics"][metric]["value"] == pytest.approx(sum(single) / 2), "datasets count alike"
    record = json.loads((out / "records/Steam/sasrec-sasrec.lr=0.001/paper/seed0.json").read_text())
    found = {row["rate"]: row["metrics"]["NDCG@5"]["value"] for row in alone[:3]}
    assert record["results"][-1]["metrics"]["NDCG@5"] == pytest.approx(found["sasrec.lr=0.001"])
    assert [row["metrics"]["NDCG@5"]["mark"] for row in together].count("best") == 1, "one rate for all"
    assert found[next(row["rate"] for row in alone[:3] if row["metrics"]["NDCG@5"]["mark"])] == max(found.values())


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("figure6", "negatives.count=3", "figure6 sets negatives.count itself"),
        ("figure5", "negatives={random_ratio: 0.3}", "figure5 sets negatives itself"),
        ("table3", "method=dmpo", "table3 sets method itself"),
        ("figure4", "evaluate=last", "figure4 sets evaluate itself"),
        ("table2", "recommend.protocol=exact", "table2 sets recommend.protocol itself"),
        ("rates", "split=test", "rates sets split itself"),
        ("rates", "prefer.lr=0.1", "rates sets prefer.lr itself"),
    ],
)
def test_what_an_experiment_varies_or_fixes_cannot_be_set(
    reproduce: Reproduce, what: str, change: str, message: str
) -> None:
    assert message in refused(reproduce(what, "--set", change))


def test_rates_have_no_recorded_form(reproduce: Reproduce) -> None:
    assert "leave out --recorded" in refused(reproduce("rates", "--recorded"))


@pytest.mark.parametrize("name", ["_orders", "_"])
def test_a_dataset_with_an_odd_name_has_no_recipe(name: str, toy_dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"no recipe .* is shipped"):
        recipe_for(replace(toy_dataset, name=name), None)
