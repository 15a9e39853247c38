"""Tables and figures from hand-made records: every number is derived here."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split
from sprec.data.about import Wording
from sprec.evaluation import PAPER_METRICS, Table
from sprec.runs.pipeline import Result
from sprec.runs.recipes import resolve
from sprec.study.figures import figure3, figure4, sweep, tradeoff
from sprec.study.plan import Job
from sprec.study.published import published
from sprec.study.records import Record
from sprec.study.tables import changes_table, compared, differences_table, left_out, paper_table, sampled
from sprec.system.errors import UserError

CASES = 100
METHODS = {"BIGRec": "bigrec", "SPRec": "sprec", "D3": "d3", "SASRec": "sasrec"}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """100 users who saw items 0 (genre a) and 10 (genre b) and want item 0; items 0 to 9 are a, 10 to 19 are b."""
    test = Split.of(([0, 10], 0) for _ in range(CASES))
    splits = {"train": test[:2], "valid": test[:0], "test": test, "extra": test[:0]}
    genres = [["a" if item < 10 else "b"] for item in range(20)]
    catalog = Catalog.of([f"Item {item}" for item in range(20)], genres)
    return Dataset("Steam", catalog, splits, ("a", "b"), Wording("", "", "", ""))


def job(variant: str, seed: int = 0, protocol: str = "paper", method: str = "") -> Job:
    changes = [f"method={method or METHODS[variant]}"]
    own = variant in ("D3", "SASRec")
    changes += [] if own else [f"recommend.protocol={protocol}"]
    return Job("Steam", variant, "paper" if own else protocol, seed, resolve("demo", changes))


def hits(count: int) -> Record:
    """The first so many users get item 0 first, the others item 1; items 2 to 5 fill the list."""
    first = np.where(np.arange(CASES) < count, 0, 1)
    return of(np.column_stack([first, *np.tile(np.arange(2, 6), (CASES, 1)).T]))


def of(lists: np.ndarray, results: Sequence[Result] = ()) -> Record:
    return Record("k", lists, results, 0.0, "fp32")


def cells(table: Table, source: str, method: str, metric: str) -> tuple[Any, str]:
    (found,) = (cells for labels, cells in table.rows if labels[1].startswith(source) and labels[2] == method)
    return found[metric].value, found[metric].mark


def test_rows_that_the_import_left_out_are_told_beside_the_paper(dataset: Dataset) -> None:
    assert left_out(dataset) == ""
    lost = {"test_rows_dropped_unknown_target": 3, "test_rows_dropped_junk_target": 22, "train_rows_dropped_x": 9}
    assert left_out(replace(dataset, warnings={**lost, "test_history_titles_dropped_junk": 7})) == (
        "Steam: 25 of 125 test rows have a target that is not in the catalog, and are left out; counted as misses they "
        "would lower HR and NDCG by 20.0%"
    )


def test_changes_and_differences_by_hand(dataset: Dataset) -> None:
    """HR@5 of the two seeds: BIGRec .2 and .4, SPRec .5 and .7, always .3 more; by the exact protocol the reverse."""
    found = {
        job("BIGRec", 0): hits(20), job("BIGRec", 1): hits(40), job("SPRec", 0): hits(50), job("SPRec", 1): hits(70),
        job("BIGRec", 0, "exact"): hits(50), job("BIGRec", 1, "exact"): hits(70),
        job("SPRec", 0, "exact"): hits(20), job("SPRec", 1, "exact"): hits(40),
        job("D3", 1): hits(90),
    }  # fmt: skip
    samples = {"Steam": sampled(found, dataset)}
    changes = changes_table("table2", samples, compared(samples))
    assert cells(changes, "ours, paper's protocol", "SPRec", "HR@5") == (pytest.approx(0.3 / 0.3), "better")
    assert cells(changes, "ours, exact", "SPRec", "HR@5") == (pytest.approx(-0.3 / 0.6), "worse")
    assert cells(changes, "ours, SASRec-guided beams", "D3", "HR@5") == (pytest.approx(0.5 / 0.4), "better"), "seed 1"
    assert cells(changes, "ours, paper's protocol", "SPRec", "ORRatio@5") == (pytest.approx(0, abs=1e-12), "")
    printed = published()["table2", "Steam", "SPRec"]["HR@5"] / published()["table2", "Steam", "BIGRec"]["HR@5"] - 1
    assert cells(changes, "paper", "SPRec", "HR@5") == (pytest.approx(printed), "")

    rows = {labels[1:]: row for labels, row in differences_table(compared(samples)).rows}
    assert len(rows) == 3 * len(PAPER_METRICS)
    row = rows["ours, paper's protocol", "SPRec", "BIGRec, paper's protocol", "HR@5 ↑"]
    assert row["value"].value == pytest.approx(0.6)
    assert row["difference"].value == pytest.approx(0.3)
    assert row["difference"].mark == "better"
    # gains per user, mean of the seeds: 10 users 1, 40 users .5, 50 users 0; mean .3, variance .2 - .09
    deviation = np.sqrt(0.11)
    assert row["effect"].value == pytest.approx(0.3 / deviation, rel=0.05)
    assert row["difference"].low == pytest.approx(0.3 - 1.96 * deviation / 10, abs=0.01)
    assert row["difference"].high == pytest.approx(0.3 + 1.96 * deviation / 10, abs=0.01)
    assert row["p"].value < 0.01
    exact = rows["ours, exact", "SPRec", "BIGRec, exact", "HR@5 ↑"]["difference"]
    assert exact.value == pytest.approx(-0.3)
    assert exact.mark == "worse"
    alone = rows["ours, SASRec-guided beams", "D3", "BIGRec, paper's protocol", "HR@5 ↑"]["difference"]
    assert alone.value == pytest.approx(0.9 - 0.4), "over the seed that both have"


def test_over_recommendation_that_grows_is_worse(dataset: Dataset) -> None:
    """First items: 20 different ones against a single one. Less diversity and more of the top three are both worse."""
    spread = np.column_stack([(np.arange(CASES) + shift) % 20 for shift in range(5)])
    narrow = np.tile(np.arange(5), (CASES, 1))
    samples = {"Steam": sampled({job("BIGRec"): of(spread), job("SPRec"): of(narrow)}, dataset)}
    changes = changes_table("table2", samples, compared(samples))
    assert cells(changes, "ours", "SPRec", "ORRatio@1") == (pytest.approx(1 / 0.15 - 1), "worse")
    assert cells(changes, "ours", "SPRec", "DivRatio@1") == (pytest.approx(0.01 / 0.2 - 1), "worse")
    assert cells(changes, "ours", "SPRec", "HR@5") == (pytest.approx(1 / 0.25 - 1), "better")


def test_tables_of_other_metrics(dataset: Dataset) -> None:
    """Items 0 to 5 of 20 in both: the same coverage, and more hits are more of item 0, the most popular one."""
    found = {job("BIGRec"): hits(20), job("SPRec"): hits(60)}
    samples = {"Steam": sampled(found, dataset, "Coverage@5,ARP@1,HR@1")}
    table = paper_table("table2", samples, "real")
    assert table.metrics == ("Coverage@5", "ARP@1", "HR@1")
    assert {labels[1].split(",")[0] for labels, _ in table.rows} == {"ours"}, "the paper has none of these"
    assert cells(table, "ours", "SPRec", "Coverage@5") == (6 / 20, "")
    # the training split: items 0 and 10 in two histories, item 0 as their targets
    assert cells(table, "ours", "SPRec", "ARP@1") == (pytest.approx(0.6 * 4), "")
    assert cells(table, "ours", "BIGRec", "ARP@1") == (pytest.approx(0.2 * 4), "best")
    changes = changes_table("table2", samples, compared(samples))
    assert changes.metrics == table.metrics
    assert cells(changes, "ours", "SPRec", "ARP@1") == (pytest.approx(2), "worse")
    assert len(differences_table(compared(samples)).rows) == 3
    with pytest.raises(UserError, match='there is no metric "HR@7"'):
        sampled(found, dataset, "HR@7")


def test_marks_compare_methods_that_recommend_alike(dataset: Dataset) -> None:
    found = {job("BIGRec"): hits(20), job("SPRec"): hits(21), job("D3"): hits(99), job("SASRec"): hits(98)}
    samples = {"Steam": sampled(found, dataset)}
    plain, real = (paper_table("table2", samples, mark) for mark in ("paper", "real"))
    assert cells(plain, "ours, paper's protocol, 1 seed", "SPRec", "HR@5") == (0.21, "best")
    assert cells(plain, "ours, paper's protocol, 1 seed", "BIGRec", "HR@5") == (0.2, "second")
    assert cells(real, "ours, paper's protocol, 1 seed", "SPRec", "HR@5") == (0.21, ""), "one user more is chance"
    for table in (plain, real):
        assert cells(table, "ours, SASRec-guided beams, 1 seed", "D3", "HR@5") == (0.99, ""), "alone is not best"
        assert cells(table, "ours, ranks items, 1 seed", "SASRec", "HR@5") == (0.98, "")
    far = sampled({job("BIGRec"): hits(20), job("SPRec"): hits(80)}, dataset)
    assert cells(paper_table("table2", {"Steam": far}, "real"), "ours", "SPRec", "HR@5") == (0.8, "best")


def firsts(share_of_a: float) -> Record:
    """First items: this share of genre a, the others of genre b."""
    first = np.where(np.arange(CASES) < share_of_a * CASES, 1, 11)
    return of(np.column_stack([first] * 5))


def test_figure3_by_hand(dataset: Dataset, tmp_path: Path) -> None:
    """Histories are half a: shares of 1, .75 and 1 are .5, .25 and .5 off. Mean .4167, s .1443, half width .3586."""
    pytest.importorskip("matplotlib")
    found = {job("SPRec", seed): firsts(share) for seed, share in enumerate((1, 0.75, 1))}
    found |= {job("SPRec", 0, "exact"): firsts(0.5), job("SASRec"): firsts(0)}
    figure3(found, dataset, tmp_path / "figure3-Steam")
    record = json.loads((tmp_path / "figure3-Steam.json").read_text())
    assert set(record) == {"SPRec", "SPRec (exact)", "SASRec (ranks items)"}
    for genre in ("a", "b"):
        own = record["SPRec"][genre]
        assert (own["value"], own["low"], own["high"]) == pytest.approx((0.4167, 0.0581, 0.7752), abs=1e-4)
        assert record["SPRec (exact)"][genre] == {"value": 0, "low": None, "high": None}
        assert record["SASRec (ranks items)"][genre]["value"] == 0.5
    assert "unfairness per genre at k=1, paper's protocol" in (tmp_path / "figure3-Steam.svg").read_text()


def test_a_trade_off_has_every_method_by_every_way_to_recommend(dataset: Dataset, tmp_path: Path) -> None:
    """Two first items among 100 users; NDCG@5 is HR@1, since whoever gets item 0 gets it first."""
    pytest.importorskip("matplotlib")
    found = {job("BIGRec"): hits(20), job("SPRec"): hits(30), job("SPRec", 0, "exact"): hits(40), job("D3"): hits(50)}
    files = tradeoff({"Steam": sampled(found, dataset)}, tmp_path / "tradeoff")
    record = json.loads((tmp_path / "tradeoff.json").read_text())["Steam"]
    plain = {how: {m: v["NDCG@5"]["value"] for m, v in own.items()} for how, own in record.items()}
    assert plain == {
        "paper's protocol": {"BIGRec": pytest.approx(0.2), "SPRec": pytest.approx(0.3)},
        "exact": {"SPRec": pytest.approx(0.4)},
        "SASRec-guided beams": {"D3": pytest.approx(0.5)},
    }
    own = record["exact"]["SPRec"]["NDCG@5"]
    assert own["low"] == pytest.approx(0.4 - 1.96 * np.sqrt(0.24 / CASES), abs=0.015)
    assert record["exact"]["SPRec"]["DivRatio@1"]["value"] == 0.02
    assert [file.suffix for file in files] == [".svg", ".png"]


def history(*values: float) -> list[Result]:
    """HR@5 after the SFT, then after both steps of each iteration; the SFT step's own value does not count."""
    results = [Result("sft", 0, "bigrec", {"HR@5": values[0]})]
    for iteration, value in enumerate(values[1:], start=1):
        results.append(Result("sft", iteration, "sprec", {"HR@5": 0.99}))
        results.append(Result("prefer", iteration, "sprec", {"HR@5": value}))
    return results


def swept(value: str, seed: int, results: Sequence[Result], protocol: str = "paper") -> dict[Job, Record]:
    return {job(value, seed, protocol, "sprec"): of(np.zeros((1, 5), int), results)}


def test_sweeps_take_the_mean_of_the_last_three_iterations(dataset: Dataset, tmp_path: Path) -> None:
    """Iteration 0 is the model before self-play: it never counts, with fewer than three iterations either."""
    pytest.importorskip("matplotlib")
    found = {
        **swept("0", 0, history(0.9, 0.8, 0.1, 0.2, 0.3)),  # .2
        **swept("0", 1, history(0.9, 0.8, 0.2, 0.4, 0.6)),  # .4
        **swept("0.25", 0, history(0.9, 0.1, 0.3)),  # .2
        **swept("0.25", 0, history(0.9, 0.5), "exact"),
    }
    sweep(found, dataset, tmp_path / "figure5-Steam", "ratio")
    lines = json.loads((tmp_path / "figure5-Steam.json").read_text())["HR@5"]
    assert set(lines) == {"SPRec", "SPRec (exact)"}, "protocols are not averaged"
    assert lines["SPRec"]["0.0"]["value"] == pytest.approx(0.3)
    assert lines["SPRec"]["0.0"] == {"value": pytest.approx(0.3), "low": 0, "high": 1}, ".3 +- 1.27, cut at 0 and 1"
    assert lines["SPRec"]["0.25"] == {"value": pytest.approx(0.2), "low": None, "high": None}
    assert lines["SPRec (exact)"]["0.25"]["value"] == 0.5


def test_figure4_has_an_interval_over_seeds(dataset: Dataset, tmp_path: Path) -> None:
    """Three seeds with .4, .5 and .6 after the first iteration: .5 +- 4.3027 * .1 / sqrt(3)."""
    pytest.importorskip("matplotlib")
    found = {
        job("SPRec", seed): of(np.zeros((1, 5), int), history(0.3, last)) for seed, last in enumerate((0.4, 0.5, 0.6))
    }
    files = figure4(found, dataset, tmp_path / "figure4-Steam")
    points = json.loads((tmp_path / "figure4-Steam.json").read_text())["HR@5"]["SPRec"]
    assert points["0"] == {"value": pytest.approx(0.3), "low": pytest.approx(0.3), "high": pytest.approx(0.3)}
    assert list(points["1"].values()) == pytest.approx([0.5, 0.5 - 0.24841, 0.5 + 0.24841], abs=1e-4)
    assert "FillBetween" in files[0].read_text()
