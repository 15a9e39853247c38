"""Claims are decided by where an interval lies: on which side of zero, or within the margin of equivalence."""

from collections.abc import Mapping

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split
from sprec.data.about import Wording
from sprec.evaluation import PAPER_METRICS, bootstrap
from sprec.runs.recipes import resolve
from sprec.study.claims import CLAIMS, Check, Level, Relation, claims_table, decide
from sprec.study.plan import TABLE2, TABLE3, Job
from sprec.study.records import Record

CASES = 60


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    titles = [f"Item {i}" for i in range(80)]
    test = Split.of((rng.integers(80, size=3).tolist(), int(rng.integers(80))) for _ in range(CASES))
    splits = {"train": test[:2], "valid": test[:0], "test": test, "extra": test[:0]}
    genres = [["a", "b"][i % 2 : i % 2 + 1] for i in range(80)]
    return Dataset("Steam", Catalog.of(titles, genres), splits, ("a", "b"), Wording("", "", "", ""))


def records(dataset: Dataset, methods: Mapping[str, np.ndarray]) -> dict[Job, Record]:
    recipe = resolve("demo")
    return {
        Job(dataset.name, name, "paper", 0, recipe): Record("k", lists, [], 0.0, "fp32")
        for name, lists in methods.items()
    }


def lists(spread: int, seed: int) -> np.ndarray:
    """Five items a case, drawn from the first ``spread`` items."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(spread)[:5] for _ in range(CASES)])


def test_every_claim_speaks_of_rows_of_the_tables() -> None:
    names = set(TABLE2) | set(TABLE3)
    for claim in CLAIMS:
        assert claim.checks
        assert claim.methods <= names
        assert {check.metric for check in claim.checks} <= set(PAPER_METRICS)


def test_verdicts(dataset: Dataset) -> None:
    found = records(dataset, {"SPRec": lists(80, 1), "BIGRec": lists(8, 2), "RW": lists(8, 3)})
    samples = {job.variant: bootstrap([record.cases(dataset)]) for job, record in found.items()}
    assert Check("SPRec", ">", "BIGRec", "DivRatio@5").verdict(samples) == "holds"
    assert Check("SPRec", "<", "BIGRec", "DivRatio@5").verdict(samples) == "fails"
    assert Check("SPRec", "<", "BIGRec", "ORRatio@5").verdict(samples) == "holds"
    assert Check("SPRec", "=", "BIGRec", "DivRatio@5").verdict(samples) == "fails"
    assert Check("SPRec", "<=", "BIGRec", "DivRatio@5").verdict(samples) == "fails"
    assert Check("BIGRec", "<=", "SPRec", "DivRatio@5").verdict(samples) == "holds"
    assert Check("RW", "=", "BIGRec", "DivRatio@5").verdict(samples) == "holds", "8 items each: the same number"
    assert Check("RW", "=", "BIGRec", "HR@5").verdict(samples) == "open", "a wide interval proves nothing"
    assert Check("RW", ">", "BIGRec", "ORRatio@1").verdict(samples) == "open"
    (value,) = samples["BIGRec"].per_seed["DivRatio@5"]
    assert value == 8 / 300
    assert Level("BIGRec", "=", 8 / 300, "DivRatio@5").verdict(samples) == "holds"
    assert Level("BIGRec", ">", 0.14, "DivRatio@5").verdict(samples) == "fails"
    assert Level("SPRec", ">", 0.14, "DivRatio@5").verdict(samples) == "holds"


@pytest.mark.parametrize(
    ("relation", "low", "high", "verdict"),
    [
        (">", 0.01, 0.3, "holds"), (">", -0.3, -0.01, "fails"), (">", -0.01, 0.3, "open"),
        ("<", -0.3, -0.01, "holds"), ("<", 0.01, 0.3, "fails"), ("<", -0.3, 0.01, "open"),
        ("=", -0.1, 0.1, "holds"), ("=", 0.01, 0.09, "holds"), ("=", -0.3, 0.3, "open"), ("=", -0.05, 0.11, "open"),
        ("=", 0.01, 0.11, "fails"), ("=", -0.3, -0.2, "fails"),
        ("<=", -9, 0.1, "holds"), ("<=", -9, 0.11, "open"), ("<=", 0.01, 0.11, "fails"), ("<=", -9, -8, "holds"),
        (">=", -0.1, 9, "holds"), (">=", -0.11, 9, "open"), (">=", -0.11, -0.01, "fails"), (">=", 8, 9, "holds"),
        ("=", float("nan"), float("nan"), "open"), (">", float("nan"), float("nan"), "open"),
    ],
)  # fmt: skip
def test_decisions_with_a_margin_of_a_tenth(relation: Relation, low: float, high: float, verdict: str) -> None:
    assert decide(relation, low, high, 0.1) == verdict


def test_the_table_counts_the_checks(dataset: Dataset) -> None:
    found = records(dataset, {"SPRec": lists(80, 1), "BIGRec": lists(8, 2)})
    table = claims_table(found, [dataset])
    (labels, cells), (level, _) = table.rows  # the only claims about these two
    assert level[:2] == ("The three most recommended items take more than 39% of BIGRec's recommendations", "Steam")
    assert "BIGRec > 0.39: ORRatio@1" in level
    assert labels[:2] == ("SPRec is better than BIGRec in all eight metrics", "Steam")
    assert "SPRec > BIGRec: DivRatio@1; SPRec > BIGRec: DivRatio@5" in labels[2]
    assert sum(cell.value for cell in cells.values()) == len(PAPER_METRICS)
    assert cells["holds"].value >= 4, "both DivRatios, both ORRatios"


def test_without_a_common_seed_a_claim_is_open(dataset: Dataset) -> None:
    record = Record("k", lists(80, 1), [], 0.0, "fp32")
    samples = {
        name: bootstrap([record.cases(dataset)], training_seeds=[seed]) for name, seed in (("SPRec", 0), ("BIGRec", 1))
    }
    assert Check("SPRec", "<=", "BIGRec", "DivRatio@5").verdict(samples) == "open"
