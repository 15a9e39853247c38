from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sprec.data import Dataset, Split
from sprec.data.demo import demo
from sprec.data.stats import popularity
from sprec.system.errors import UserError


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return demo()


def rows(split: Split, length: int = 10) -> np.ndarray:
    return np.column_stack([split.items.reshape(-1, length), split.targets])


def test_sizes_and_labels(dataset: Dataset) -> None:
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 2000,
        "valid": 200,
        "test": 400,
        "extra": 2000,
    }
    assert "simulated" in dataset.name
    assert dataset.meta["simulated"] is True
    assert len(dataset.catalog) == len(dataset.catalog.by_title) == 365
    assert len(dataset.genres) == 10


def test_the_same_seed_gives_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    again = demo().save(tmp_path / "again")
    assert again.hash == dataset.save(tmp_path / "first").hash
    assert again.hash != demo(seed=1).save(tmp_path / "other").hash


def test_nobody_watches_a_film_twice(dataset: Dataset) -> None:
    for split in dataset.splits.values():
        assert all(len(set(row)) == 11 for row in rows(split).tolist())


def test_a_few_hits_carry_the_targets(dataset: Dataset) -> None:
    skew = popularity(dataset.train.targets, len(dataset.catalog))
    assert skew["gini"] > 0.5  # 0 if all films were watched alike
    assert skew["distinct"] > 300  # and yet nearly all films occur
    top = Counter(dataset.train.targets.tolist()).most_common(2)
    assert all("Star Wars" in dataset.catalog.titles[item] for item, _ in top)


def test_franchises_go_on(dataset: Dataset) -> None:
    """The second part of the Lord of the Rings follows the first far more often than its popularity explains."""
    first = dataset.catalog.find("Lord of the Rings: The Fellowship of the Ring, The (2001)")
    second = dataset.catalog.find("Lord of the Rings: The Two Towers, The (2002)")
    steps = np.concatenate([rows(dataset.train), rows(dataset.extra)])
    before, after = steps[:, :-1].ravel(), steps[:, 1:].ravel()
    assert (after[before == first] == second).mean() > 5 * (after == second).mean()


def test_greedy_recommendations_over_recommend(dataset: Dataset) -> None:
    """What self-play must repair: the most likely next films repeat the hits, although the targets do not."""
    n = len(dataset.catalog)
    steps = np.concatenate([rows(dataset.train), rows(dataset.extra)])
    counts = np.zeros((n, n))
    np.add.at(counts, (steps[:, :-1].ravel(), steps[:, 1:].ravel()), 1)
    hits = counts.sum(axis=0) / counts.sum()
    following = (counts + 200 * hits) / (counts.sum(axis=1, keepdims=True) + 200)
    cases = rows(dataset.test)
    chances = following[cases[:, 9]]
    np.put_along_axis(chances, cases[:, :10], 0, axis=1)
    greedy = chances.argmax(axis=1)
    shown, wanted = popularity(greedy, n), popularity(cases[:, 10], n)
    assert shown["top3"] > 0.3 > 0.1 > wanted["top3"]
    assert shown["distinct"] < wanted["distinct"] / 2
    assert (greedy == cases[:, 10]).mean() > 0.1  # and is still right far more often than chance


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 0}, "at least one example"),
        ({"valid": -1}, "may be negative"),
        ({"history": 365}, "between 1 and 364"),
    ],
)
def test_impossible_sizes_are_one_line(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        demo(**sizes)


def test_small_ones_are_possible() -> None:
    small = demo(train=8, valid=0, test=4, extra=0, history=3)
    assert (len(small.train), len(small.valid), len(small.test)) == (8, 0, 4)
    assert all(len(row.history) == 3 for row in small.train)
