import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data import Catalog, Dataset, Split, Wording
from sprec.data.demo import demo
from sprec.data.readers.sprec import read
from sprec.data.stats import genre_coverage, leakage, popularity, stats, table


def test_popularity_by_hand() -> None:
    skew = popularity(np.array([0, 0, 0, 1, 1, 2, 3]), 200)
    assert skew["top3"] == 6 / 7
    assert skew["top1pct"] == 5 / 7  # two items are 1% of 200
    assert skew["distinct"] == 4


def test_gini_knows_its_extremes() -> None:
    assert popularity(np.arange(10), 10)["gini"] == pytest.approx(0)
    assert popularity(np.zeros(5, dtype=int), 10)["gini"] == pytest.approx(0.9)  # 1 - 1/n
    assert math.isnan(popularity(np.array([], dtype=int), 10)["gini"])


@given(st.lists(st.integers(0, 6), min_size=1))
def test_gini_is_the_mean_absolute_difference(targets: list[int]) -> None:
    counts = np.bincount(targets, minlength=7)
    expected = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert popularity(np.array(targets), 7)["gini"] == pytest.approx(expected, abs=1e-12)


def test_leakage_counts_test_rows_with_a_run_of_training_items() -> None:
    train = Split.of([([1, 2, 3, 4], 5), ([6, 7], 8)])
    test = Split.of(
        [
            ([9, 2, 3, 4], 5),  # history and target together
            ([1, 2, 3], 9),  # only three
            ([4, 5, 6, 7], 8),  # runs across two training rows do not count
            ([1, 2, 3, 4], 1),
            ([6, 7], 8),  # shorter than a run
        ]
    )
    assert leakage(train, test) == {"run": 4, "rows": 2, "share": 0.4}


rows = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=6), st.integers(0, 2)), max_size=6)


@given(rows, rows)
def test_leakage_equals_the_naive_search(train: list[tuple[list[int], int]], test: list[tuple[list[int], int]]) -> None:
    def runs(row: tuple[list[int], int]) -> set[tuple[int, ...]]:
        items = [*row[0], row[1]]
        return {tuple(items[i : i + 4]) for i in range(len(items) - 3)}

    known = set().union(*map(runs, train))
    assert leakage(Split.of(train), Split.of(test))["rows"] == sum(bool(runs(row) & known) for row in test)


def test_genre_coverage_by_hand() -> None:
    catalog = Catalog.of("abcd", [["x", "y"], ["x", "z"], ["z"], []])
    train = Split.of([([], 0), ([], 1), ([], 2), ([], 3)])
    coverage = genre_coverage(catalog, ("x", "y"), train)
    assert coverage == {"items": 0.5, "targets": 0.5, "shares": {"x": 0.75, "y": 0.25}}


def test_the_table_prints_what_the_dict_holds() -> None:
    facts = stats(demo(train=50, valid=5, test=10, extra=0))
    assert facts["table1"] == {"items": 365, "interactions": 65 * 11, "sequences": 65}
    assert json.loads(json.dumps(facts)) == facts
    lines = table(facts).splitlines()
    assert "simulated users" in lines[0]
    assert lines[2].split() == ["items", "interactions", "sequences"]
    assert lines[3].split() == ["365", "715", "65"]
    assert lines[6].split() == ["50", "5", "10", "0"]


def test_a_bare_dataset_can_be_described() -> None:
    empty = Dataset("bare", Catalog.of(["a"]), {"train": Split.of([])}, (), Wording("", "", ""))
    facts = stats(empty)
    assert facts["table1"] == {"items": 1, "interactions": 0, "sequences": 0}
    assert "genres       none" in table(facts)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "leaking", "test_rows"),
    [("MovieLens", 4, 1000), ("Goodreads", 44, 1000), ("CDs_and_Vinyl", 92, 990), ("Steam", 113, 1000)],
)
def test_leakage_of_the_papers_datasets(shared_data: Path, name: str, leaking: int, test_rows: int) -> None:
    """0.4%, 4.4%, 9.3% and 11.3%; on CDs 9.8% before the rows and titles of scraped junk are dropped."""
    dataset = read(shared_data / "sprec", name)
    assert len(dataset.test) == test_rows
    assert leakage(dataset.train, dataset.test)["rows"] == leaking
