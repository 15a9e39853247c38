import math
from pathlib import Path

import numpy as np
import pytest

from sprec.data import Split
from sprec.data.readers.sprec import read
from sprec.methods import knn
from sprec.methods.exclusion import Excluded, excluded_items, nothing_excluded
from sprec.methods.histories import item_counts
from sprec.methods.knn import ItemKnn, Settings
from sprec.methods.trivial import popular_top_k

RANDOM = np.random.default_rng(0)


def random_split(items: int, examples: int) -> Split:
    rows = [
        (RANDOM.integers(0, items, RANDOM.integers(0, 7)).tolist(), int(RANDOM.integers(items)))
        for _ in range(examples)
    ]
    return Split.of(rows)


def by_the_formula(train: Split, items: int, settings: Settings, history: tuple[int, ...]) -> list[float]:
    """p of each item, place by place."""
    sequences = [[*example.history, example.target] for example in train]
    pop = [sum(sequence.count(item) for sequence in sequences) for item in range(items)]
    follows = np.zeros((items, items))
    for sequence in sequences:
        for i, a in enumerate(sequence):
            for j in range(i + 1, min(i + settings.window, len(sequence) - 1) + 1):
                follows[a, sequence[j]] += 1 / (j - i)
    scores = np.zeros(items)
    for age, a in enumerate(reversed(history)):
        scores += settings.decay**age * follows[a] / (math.sqrt(pop[a]) + 1)
    popular = (np.array(pop) + 1) / (sum(pop) + items)
    if not scores.sum():
        return list(popular)
    return list((1 - settings.popular) * scores / scores.sum() + settings.popular * popular)


def test_two_sequences_by_hand() -> None:
    """Sequences 0 1 2 and 0 2, window 2: C(0,1) = 1, C(0,2) = 1/2 + 1, C(1,2) = 1; pop 2, 1, 2, 0."""
    found = ItemKnn.count(Split.of([([0, 1], 2), ([0], 2)]), 4, Settings(decay=0.5, window=2, popular=0.1))
    p = np.exp(found.log_probs(Split.of([([0, 1], 3), ([3], 0), ([], 0)])))
    one = 0.5 * 1 / (math.sqrt(2) + 1)  # of item 1: item 0 has age 1
    two = 0.5 * 1.5 / (math.sqrt(2) + 1) + 1 / 2  # of item 2: items 0 and 1
    popular = np.array([3, 2, 3, 1]) / 9
    expected = 0.9 * np.array([0, one, two, 0]) / (one + two) + 0.1 * popular
    np.testing.assert_allclose(p, [expected, popular, popular])


@pytest.mark.parametrize("settings", [Settings(), Settings(0.5, 1), Settings(0.9, 9, 0.5)])
def test_equals_the_formula_place_by_place(settings: Settings) -> None:
    train, asked = random_split(8, 40), random_split(8, 600)
    p = np.exp(ItemKnn.count(train, 8, settings).log_probs(asked))
    expected = [by_the_formula(train, 8, settings, example.history) for example in asked]
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    np.testing.assert_allclose(p.sum(1), 1)


def test_a_window_wider_than_all_sequences_counts_all_pairs_at_once() -> None:
    train, asked = random_split(8, 40), random_split(8, 20)
    wide, widest = (ItemKnn.count(train, 8, Settings(window=window)) for window in (6, 10**9))
    assert wide.log_probs(asked).tolist() == widest.log_probs(asked).tolist()


def test_counted_in_parts_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train = random_split(8, 40)
    whole = ItemKnn.count(train, 8, Settings())
    monkeypatch.setattr(knn, "_ITEMS", 20)
    parts = ItemKnn.count(train, 8, Settings())
    assert parts.neighbour.tolist() == whole.neighbour.tolist()
    assert parts.start.tolist() == whole.start.tolist()
    np.testing.assert_allclose(parts.weight, whole.weight, rtol=1e-14)


def test_no_cases_and_no_training_data() -> None:
    neighbours = ItemKnn.count(random_split(5, 10), 5, Settings())
    assert neighbours.log_probs(Split.of([])).shape == (0, 5)
    empty = ItemKnn.count(Split.of([]), 5, Settings())
    np.testing.assert_allclose(np.exp(empty.log_probs(random_split(5, 3))), 0.2)


def test_saved_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    neighbours, asked = ItemKnn.count(random_split(9, 30), 9, Settings(window=3)), random_split(9, 20)
    neighbours.save(tmp_path / "knn")
    loaded = ItemKnn.load(tmp_path / "knn")
    assert loaded.settings == neighbours.settings
    assert loaded.log_probs(asked).tolist() == neighbours.log_probs(asked).tolist()


@pytest.mark.shared_data
def test_beats_popularity_on_movielens(shared_data: Path) -> None:
    data = read(shared_data / "sprec", "MovieLens")
    items = len(data.catalog)
    neighbours = ItemKnn.count(data.train, items, Settings())
    found = np.argsort(-neighbours.log_probs(data.valid), axis=1, kind="stable")[:, :5]
    popular = popular_top_k(
        item_counts(data.train, items), Excluded.of(nothing_excluded(len(data.valid), items), items), 5
    )
    hits = [(top == data.valid.targets[:, None]).any(1).mean() for top in (found, popular)]
    assert hits[0] > 2 * hits[1]


def test_top_k_equals_a_stable_sort_with_and_without_history() -> None:
    neighbours, asked = ItemKnn.count(random_split(20, 60), 20, Settings()), random_split(20, 300)
    everything = Excluded.of(excluded_items(asked, 20, history=False, target=False), 20)
    plain, log_probs = neighbours.top_k(asked, 4, everything)
    unseen, _ = neighbours.top_k(asked, 4, Excluded.of(excluded_items(asked, 20, history=True, target=False), 20))
    for row, (p, (history, _)) in enumerate(zip(neighbours.log_probs(asked), asked, strict=True)):
        order = np.argsort(-p, kind="stable").tolist()
        assert plain[row].tolist() == order[:4]
        assert log_probs[row].tolist() == p[order[:4]].tolist()
        assert unseen[row].tolist() == [item for item in order if item not in history][:4]
