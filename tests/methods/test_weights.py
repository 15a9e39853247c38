from pathlib import Path

import numpy as np
import pytest
import torch

from sprec.data import Catalog, Split
from sprec.data.readers.sprec import read
from sprec.methods.objectives import weighted_sft
from sprec.methods.weights import Variant, genre_weights, micro_batch_means, reweighting
from sprec.system.errors import UserError

CATALOG = Catalog.of(["a", "b", "c", "d", "e"], [["x"], ["x", "y"], ["y"], ["z"], ["x", "z", "w"]])
GENRES = ["x", "y"]
SPLIT = Split.of([([0, 1, 2], 0), ([1, 4, 3], 2), ([2, 2], 3), ([0], 1)])
# History items: a twice, b twice, c three times, d once, e once. Targets: a, c, d, b once each.
# correct:  x = 2 + 2/2 + 1 = 4,       y = 2/2 + 3 = 4;     targets x = 1 + 1/2, y = 1 + 1/2
# ifairlrs: x = 2 + 2 + 1 = 5,         y = 2 + 3 = 5;       targets x = 2, y = 2
# official: x = 2 + 2/2 + 1/3 = 10/3, y = 2/2 + 3 = 4;  accumulated x = 10/3 + 3/2, y = 4 + 3/2
UNEVEN = Split.of([([0, 1, 2], 0), ([1, 4, 3], 0), ([2, 2], 3), ([0], 1)])
# Targets: a twice, d, b: correct x = 5/2, y = 1/2; ifairlrs x = 3, y = 1; official x = 10/3 + 5/2, y = 9/2


@pytest.mark.parametrize(
    ("split", "variant", "expected"),
    [
        (SPLIT, "correct", [1, 1]),
        (SPLIT, "ifairlrs", [1, 1]),
        (SPLIT, "official", [(10 / 22) / (29 / 62), (12 / 22) / (33 / 62)]),
        (UNEVEN, "correct", [(1 / 2) / (5 / 6), (1 / 2) / (1 / 6)]),
        (UNEVEN, "ifairlrs", [(1 / 2) / (3 / 4), (1 / 2) / (1 / 4)]),
        (UNEVEN, "official", [(10 / 22) / (35 / 62), (12 / 22) / (27 / 62)]),
    ],
)
def test_genre_weights_by_hand(split: Split, variant: Variant, expected: list[float]) -> None:
    assert genre_weights(split, CATALOG, GENRES, variant).tolist() == pytest.approx(expected)


def test_sample_weight_is_the_mean_over_the_targets_selected_genres() -> None:
    assert reweighting(UNEVEN, CATALOG, GENRES).tolist() == pytest.approx([0.6, 0.6, 1, (0.6 + 3) / 2])


def test_equal_weights_are_one_and_need_no_genres() -> None:
    assert reweighting(UNEVEN, CATALOG, [], "equal").tolist() == [1, 1, 1, 1]


def test_genres_are_counted_in_all_training_examples_not_in_those_that_were_drawn() -> None:
    drawn = UNEVEN.take(np.array([3, 0]))
    assert reweighting(drawn, CATALOG, GENRES, counted=UNEVEN).tolist() == pytest.approx([(0.6 + 3) / 2, 0.6])


def test_normalised_weights_have_mean_one_and_the_same_ratios() -> None:
    plain, scaled = (reweighting(UNEVEN, CATALOG, GENRES, normalise=n) for n in (False, True))
    assert scaled.mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled / plain, scaled[0] / plain[0])


def test_official_weights_act_on_micro_batches_by_hand() -> None:
    """Two micro-batches, of four samples and of one: mean(w) times the mean over all positions, padding as zeros."""
    weights = torch.tensor([0.5, 1.0, 2.0, 0.5, 3.0])
    lengths = torch.tensor([2, 4, 1, 3, 2])
    nll = torch.tensor([6.0, 2.0, 3.0, 9.0, 8.0])
    means, widths = micro_batch_means(weights, lengths)
    assert means.tolist() == [1.0, 1.0, 1.0, 1.0, 3.0]
    assert widths.tolist() == [4, 4, 4, 4, 2]
    losses = weighted_sft(-nll[:, None], widths, means)
    # mean(w) times (6 + 2 + 3 + 9) / (4 samples of 4 tokens)
    assert losses[:4].mean().item() == pytest.approx(1.0 * 20 / 16)
    assert losses[4:].mean().item() == pytest.approx(3.0 * 8 / 2)


def test_genre_without_targets_weighs_one() -> None:
    split = Split.of([([0, 2], 0)])
    assert genre_weights(split, CATALOG, GENRES).tolist() == pytest.approx([0.5, 1])


def test_weighted_targets_have_the_genre_mix_of_the_histories() -> None:
    """The purpose of the weights: with one genre per item, the weighted target mix equals the history mix."""
    g = np.random.default_rng(0)
    catalog = Catalog.of([str(i) for i in range(30)], [["uvw"[i % 3]] for i in range(30)])
    split = Split.of([(g.integers(0, 30, 5).tolist(), int(30 * g.random() ** 2)) for _ in range(200)])
    weights = reweighting(split, catalog, ["u", "v", "w"])
    targets = np.bincount(split.targets % 3, weights=weights)
    histories = np.bincount(split.items % 3)
    np.testing.assert_allclose(targets / targets.sum(), histories / histories.sum())


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("variant", "printed"),
    [
        ("correct", "0.9868 0.9853 1.0127 1.0057 1.0238 1.0261 1.0336"),
        ("official", "0.9987 0.9987 1.0012 1.0008 1.0023 1.0015 1.0034"),
        ("ifairlrs", "0.9865 0.9911 1.0079 1.0033 1.0176 1.0088 1.0534"),
    ],
)
def test_genre_weights_of_goodreads(shared_data: Path, variant: Variant, printed: str) -> None:
    """The 4,090 rows that are distributed as training file and have a known target.

    The specification prints the weights of the 5,000 rows of the authors' repository (correct: .9888 .9844 1.0144
    1.0210 1.0307 .9502 1.0353), which are not among the data here: other rows, other digits (history falls on the
    other side of 1). These were checked by counting titles of the JSON files with dictionaries, apart from the package.
    """
    data = read(shared_data / "sprec", "Goodreads")
    assert len(data.train) == 4090
    assert data.genres[0] == "fiction"
    assert data.genres[-1] == "children"
    weights = genre_weights(data.train, data.catalog, data.genres, variant)
    assert [f"{weight:.4f}" for weight in weights] == printed.split()


@pytest.mark.parametrize("genres", [[], ["unknown"]])
def test_dataset_without_genres_is_one_clear_line(genres: list[str]) -> None:
    with pytest.raises(UserError, match="re-weighting needs genres"):
        reweighting(SPLIT, CATALOG, genres)
