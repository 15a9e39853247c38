"""Claims are decided by the side of zero on which an interval lies."""

from collections.abc import Mapping

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split
from sprec.data.dataset import Wording
from sprec.evaluation import PAPER_METRICS, bootstrap
from sprec.runs.claims import CLAIMS, Check, claims_table
from sprec.runs.recipes import resolve
from sprec.runs.records import Record
from sprec.runs.reproduce import TABLE2, TABLE3, Job

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
        assert {check.method for check in claim.checks} | {check.other for check in claim.checks} <= names
        assert {check.metric for check in claim.checks} <= set(PAPER_METRICS)


def test_verdicts(dataset: Dataset) -> None:
    found = records(dataset, {"SPRec": lists(80, 1), "BIGRec": lists(8, 2), "RW": lists(8, 3)})
    samples = {job.variant: bootstrap([record.cases(dataset)]) for job, record in found.items()}
    assert Check("SPRec", ">", "BIGRec", "DivRatio@5").verdict(samples) == "holds"
    assert Check("SPRec", "<", "BIGRec", "DivRatio@5").verdict(samples) == "fails"
    assert Check("SPRec", "<", "BIGRec", "ORRatio@5").verdict(samples) == "holds"
    assert Check("SPRec", "=", "BIGRec", "DivRatio@5").verdict(samples) == "fails"
    assert Check("RW", "=", "BIGRec", "DivRatio@5").verdict(samples) == "holds"
    assert Check("RW", ">", "BIGRec", "ORRatio@1").verdict(samples) == "open"


def test_the_table_counts_the_checks(dataset: Dataset) -> None:
    found = records(dataset, {"SPRec": lists(80, 1), "BIGRec": lists(8, 2)})
    table = claims_table(found, [dataset])
    ((labels, cells),) = table.rows  # the only claim about these two
    assert labels[:2] == ("SPRec is better than BIGRec in all eight metrics", "Steam")
    assert "SPRec > BIGRec: DivRatio@1; SPRec > BIGRec: DivRatio@5" in labels[2]
    assert sum(cell.value for cell in cells.values()) == len(PAPER_METRICS)
    assert cells["holds"].value >= 4, "both DivRatios, both ORRatios"
