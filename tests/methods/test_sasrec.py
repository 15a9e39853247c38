import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprec.config import Sasrec
from sprec.data import Split
from sprec.data.readers.sprec import read
from sprec.methods.exclusion import Excluded, excluded_items, nothing_excluded
from sprec.methods.histories import item_counts
from sprec.methods.sasrec import SASRec, Settings, _epoch, sampled_softmax, train_sasrec, training_loss, validation_ndcg
from sprec.methods.trivial import popular_top_k
from sprec.system.errors import UserError

SMALL = Settings(hidden=8, batch=16, epochs=5, lr=1e-2, history=4)
RANDOM = np.random.default_rng(0)


def circle(n: int, examples: int, length: int = 3) -> Split:
    """Everyone walks around a circle of n items: the next item is known for certain."""
    starts = RANDOM.integers(0, n, examples).tolist()
    return Split.of([([(s + i) % n for i in range(length)], (s + length) % n) for s in starts])


def random_split(n: int, examples: int) -> Split:
    rows = [(RANDOM.integers(0, n, RANDOM.integers(0, 6)).tolist(), int(RANDOM.integers(n))) for _ in range(examples)]
    return Split.of(rows)


def random_model(items: int, settings: Settings = SMALL) -> SASRec:
    torch.manual_seed(0)
    model = SASRec(items, settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def naive_logits(model: SASRec, history: list[int]) -> list[float]:
    """One history, one position at a time, straight from the formulas."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def layer_norm(x: np.ndarray, name: str) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    history = history[-model.settings.history :]
    x = np.stack([w["item.weight"][item] + w["position.weight"][place] for place, item in enumerate(history)])
    q = layer_norm(x, "blocks.0.before")
    query, key, value = (linear(part, f"blocks.0.{name}") for part, name in ((q, "query"), (x, "key"), (x, "value")))
    seen = np.zeros_like(x)
    for i in range(len(x)):
        p = np.exp([query[i] @ key[j] / math.sqrt(x.shape[1]) for j in range(i + 1)])
        seen[i] = (p / p.sum()) @ value[: i + 1]
    x = layer_norm(q + seen, "blocks.0.after")
    x = x + linear(np.maximum(linear(x, "blocks.0.inner"), 0), "blocks.0.outer")
    logits: list[float] = linear(layer_norm(x[-1], "norm"), "head").tolist()
    return logits


def test_logits_equal_the_formulas_whatever_the_padding() -> None:
    model = random_model(9)
    split = Split.of([([1, 2, 3], 0), ([5], 0), ([1, 2, 3, 4, 5, 6, 7], 0)])
    scores = model.scores(split)
    for row, (history, _) in zip(scores.tolist(), split, strict=True):
        assert row == pytest.approx(naive_logits(model, list(history)), abs=1e-5)


def test_user_without_history_gets_finite_logits() -> None:
    assert torch.isfinite(random_model(9).scores(Split.of([([], 0)]))).all()
    assert random_model(9).scores(Split.of([])).shape == (0, 9)


def test_more_heads_and_blocks_keep_the_future_out() -> None:
    model = random_model(9, Settings(hidden=8, heads=2, blocks=2, history=4))
    a, b = model.states(torch.tensor([[1, 2, 3, 4], [1, 2, 8, 9]]))
    torch.testing.assert_close(a[:2], b[:2])
    assert not torch.allclose(a[2], b[2])


def test_bce_against_the_only_other_item() -> None:
    """With two items the negative is certain."""
    model = random_model(2, Settings(hidden=8, history=2, dropout=0, augment=False))
    histories, targets = torch.tensor([[0, 2], [1, 0]]), torch.tensor([1, 0])
    logits = model.scores(Split.of([([0], 1), ([1, 0], 0)])).double()
    wanted = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    sigma = logits.sigmoid()
    expected = -(wanted * sigma.log() + (1 - wanted) * (1 - sigma).log()).mean()
    assert training_loss(model, histories, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives_of_bce_are_uniform_and_never_the_target() -> None:
    """A logit of 20 for the target only: drawing it as its own negative would cost 20."""
    model = random_model(5, Settings(hidden=8, history=2, dropout=0, augment=False))
    torch.nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-1.0, -2.0, 20.0, -3.0, -4.0]))
    histories, targets = torch.zeros(40_000, 2, dtype=torch.long), torch.full((40_000,), 2)
    softplus = torch.nn.functional.softplus(torch.tensor([-1.0, -2.0, -3.0, -4.0]))
    assert training_loss(model, histories, targets).item() == pytest.approx(softplus.mean().item() / 2, rel=0.02)


def test_ce_and_augmented_ce_equal_mean_log_softmax() -> None:
    for augment in (False, True):
        model = random_model(6, Settings(hidden=8, history=4, dropout=0, loss="ce", augment=augment))
        split = Split.of([([1, 2, 3], 4), ([5], 0)])
        steps = [((1, 2, 3), 4), ((5,), 0)] + ([((1,), 2), ((1, 2), 3)] if augment else [])
        expected = [-torch.tensor(naive_logits(model, list(h))).log_softmax(0)[t].item() for h, t in steps]
        histories = torch.tensor([[1, 2, 3, 6], [5, 6, 6, 6]])
        loss = training_loss(model, histories, torch.from_numpy(split.targets))
        assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_sampled_softmax_by_hand() -> None:
    """Five items, negatives 0, 2 and 4; the target 2 is no negative of itself, and two stand for four."""
    model = random_model(5)
    states, targets = torch.randn(2, 8), torch.tensor([2, 1])
    loss = sampled_softmax(model, states, targets, torch.tensor([0, 2, 4]))
    e = model.head(states).double().exp()
    for found, p in zip(
        loss.tolist(),
        (
            e[0, 2] / (e[0, 2] + 4 / 2 * (e[0, 0] + e[0, 4])),
            e[1, 1] / (e[1, 1] + 4 / 3 * (e[1, 0] + e[1, 2] + e[1, 4])),
        ),
        strict=True,
    ):
        assert found == pytest.approx(-math.log(p.item()), rel=1e-5)


@pytest.mark.parametrize("negatives", [7, 1024])
def test_sampled_softmax_with_the_whole_catalog_is_cross_entropy(negatives: int) -> None:
    """Loss and gradients, whatever the order of the draw."""
    gradients = {}
    for loss in ("ce", "sampled-softmax"):
        model = random_model(7, Settings(hidden=8, history=4, dropout=0, loss=loss, negatives=negatives))
        value = training_loss(model, torch.tensor([[1, 2, 3, 7], [5, 7, 7, 7]]), torch.tensor([4, 0]))
        value.backward()  # type: ignore[no-untyped-call]
        gradients[loss] = [value.detach(), *(parameter.grad for parameter in model.parameters())]
    torch.testing.assert_close(gradients["sampled-softmax"], gradients["ce"])


def test_scaled_negatives_estimate_the_sum_over_the_catalog_without_bias() -> None:
    model, states = random_model(50), torch.randn(1, 8)
    e = model.head(states)[0].double().exp()
    draws = torch.stack([torch.randperm(50)[:10] for _ in range(4000)])
    loss = torch.cat([sampled_softmax(model, states, torch.tensor([3]), drawn) for drawn in draws])
    sums = e[3] * loss.double().exp()  # of the target's own and of the estimated others
    error = sums.std() / math.sqrt(len(draws))
    assert abs(sums.mean() - e.sum()) < 4 * error
    assert error < 0.02 * e.sum()


@pytest.mark.parametrize("loss", ["bce", "ce", "sampled-softmax"])
def test_learns_what_can_be_known(loss: str) -> None:
    settings = Settings(hidden=16, batch=64, epochs=60, lr=1e-2, history=4, loss=loss, negatives=4)  # type: ignore[arg-type]
    model = train_sasrec(circle(12, 500), circle(12, 50), 12, settings, seed=0)
    test = circle(12, 50)
    assert model.top_k(test, 1)[:, 0].tolist() == test.targets.tolist()


def test_augmentation_learns_from_inside_the_histories() -> None:
    """All targets are item 0: only the histories tell how the circle goes on."""
    inside = Split.of([(history, 0) for history, _ in circle(8, 300, 4)])
    test = circle(8, 50, 2)
    hits = {}
    for augment in (False, True):
        settings = Settings(hidden=16, batch=64, epochs=40, lr=1e-2, history=4, loss="ce", augment=augment)
        model = train_sasrec(inside, test, 8, settings, seed=0)
        hits[augment] = (model.top_k(test, 1)[:, 0] == test.targets).mean()
    assert hits[True] == 1
    assert hits[False] < 0.5


def test_defaults_are_those_of_the_recipe() -> None:
    assert Settings(**Sasrec().model_dump()) == Settings()


def test_keeps_the_best_epoch_and_stops_when_patience_ends() -> None:
    train, valid = random_split(30, 60), random_split(30, 40)
    reached = []
    for epochs in range(1, 8):
        settings = Settings(hidden=8, batch=16, lr=3e-2, history=4, epochs=epochs)
        reached.append(validation_ndcg(train_sasrec(train, valid, 30, settings, seed=1), valid))
    assert reached == sorted(reached)
    endless = Settings(hidden=8, batch=16, lr=3e-2, history=4, epochs=10**9, patience=8)
    assert validation_ndcg(train_sasrec(train, valid, 30, endless, seed=1), valid) >= reached[-1]


def test_warm_up_raises_the_rate_step_by_step_and_patience_waits_for_its_end() -> None:
    """Two epochs of four steps: the rate of the first step is an eighth. All later epochs are as without warm-up."""
    train, valid = random_split(30, 60), random_split(30, 40)
    rates: list[float] = []

    class Watched(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    model = SASRec(30, Settings(hidden=8, batch=16, lr=0.08, history=4, warmup=2))
    optimizer = Watched(model.parameters())
    for epoch in range(3):
        _epoch(model, optimizer, train, epoch)
    assert rates == pytest.approx([0.01 * step for step in range(1, 9)] + [0.08] * 4)

    ended = {}
    for warmup in (0, 6):  # nothing can be learned: the first epoch may be the best one
        log = Path(tempfile.mkdtemp()) / "log.jsonl"
        settings = Settings(hidden=8, batch=16, lr=3e-2, history=4, epochs=50, patience=2, warmup=warmup)
        train_sasrec(train, valid, 30, settings, seed=1, log=log)
        ended[warmup] = len(log.read_text().splitlines())
    assert ended[0] < 8 <= ended[6]


def test_same_seed_same_model_and_the_callers_randomness_is_left_alone() -> None:
    train, valid = circle(10, 60), circle(10, 20)
    torch.manual_seed(5)
    untouched = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (train_sasrec(train, valid, 10, SMALL, seed) for seed in (0, 0, 1))
    assert torch.rand(3).tolist() == untouched.tolist()
    assert first.scores(valid).tolist() == again.scores(valid).tolist()
    assert first.scores(valid).tolist() != other.scores(valid).tolist()


def test_saved_and_loaded_model_gives_the_same_logits(tmp_path: Path) -> None:
    model, split = random_model(9), random_split(9, 20)
    model.save(tmp_path / "oracle")
    assert SASRec.load(tmp_path / "oracle").scores(split).tolist() == model.scores(split).tolist()
    assert SASRec.load(tmp_path / "oracle").settings == SMALL


def test_top_k_equals_a_stable_sort_with_and_without_history() -> None:
    model, split = random_model(20), random_split(20, 1100)
    with torch.no_grad():
        model.head.weight[7], model.head.bias[7] = model.head.weight[3], model.head.bias[3]
    scores = model.scores(split).numpy()
    seen = Excluded.of(excluded_items(split, 20, history=True, target=False), 20)
    plain, unseen = model.top_k(split, 4), model.top_k(split, 4, seen)
    for row, (history, _) in enumerate(split):
        order = np.argsort(-scores[row], kind="stable").tolist()
        assert plain[row].tolist() == order[:4]
        assert unseen[row].tolist() == [item for item in order if item not in history][:4]


def test_scores_of_some_items_are_those_of_all() -> None:
    model, split = random_model(20), random_split(20, 1100)
    items = RANDOM.integers(0, 20, (1100, 3))
    expected = np.take_along_axis(model.scores(split).numpy(), items, axis=1)
    np.testing.assert_allclose(model.scores_of(split, items).numpy(), expected, atol=1e-5)
    assert model.scores_of(split[:0], items[:0]).shape == (0, 3)


def test_validation_ndcg_by_brute_force() -> None:
    model, split = random_model(20), random_split(20, 1100)
    scores = model.scores(split).numpy()
    ranks = [
        int(np.where(np.argsort(-s, kind="stable") == t)[0][0]) for s, t in zip(scores, split.targets, strict=True)
    ]
    assert validation_ndcg(model, split) == pytest.approx(np.mean([1 / math.log2(rank + 2) for rank in ranks]))


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    train, valid = circle(9, 60), circle(9, 20)
    endless = Settings(hidden=8, batch=16, epochs=5, lr=1e36, history=4)
    with pytest.raises(UserError, match=r"the loss of SASRec is (nan|inf) at step 1 of epoch 0; lower sasrec.lr"):
        train_sasrec(train, valid, 9, endless, seed=0)
    with pytest.raises(UserError, match=r"the scores of SASRec are not finite; lower sasrec.lr"):
        train_sasrec(train, valid, 9, Settings(hidden=8, batch=60, epochs=1, lr=1e36, history=4), seed=0)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_no_hits(number: float) -> None:
    model, split = random_model(9), random_split(9, 20)
    with torch.no_grad():
        model.head.bias[3] = number
    for use in (lambda: validation_ndcg(model, split), lambda: model.top_k(split, 2), lambda: model.scores(split)):
        with pytest.raises(UserError, match=r"the scores of SASRec are not finite"):
            use()


def test_the_log_has_a_line_per_epoch(tmp_path: Path) -> None:
    train, valid, log = circle(10, 60), circle(10, 20), tmp_path / "logs" / "log.jsonl"
    for _ in range(2):  # a second training writes it anew
        model = train_sasrec(train, valid, 10, SMALL, seed=0, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    assert max(line["valid_ndcg"] for line in lines) == validation_ndcg(model, valid)
    assert all(0 < line["loss"] < 1 for line in lines)


def test_mistakes_are_one_clear_line() -> None:
    split = circle(5, 10)
    with pytest.raises(UserError, match="SASRec needs training and validation examples"):
        train_sasrec(split, Split.of([]), 5, SMALL, seed=0)


@pytest.mark.shared_data
def test_beats_popularity_on_goodreads(shared_data: Path) -> None:
    data = read(shared_data / "sprec", "Goodreads")
    items = len(data.catalog)
    model = train_sasrec(data.train, data.valid, items, Settings(epochs=20, loss="ce", augment=False), seed=0)
    popular = popular_top_k(
        item_counts(data.train, items), Excluded.of(nothing_excluded(len(data.valid), items), items), 5
    )
    hits = [(top == data.valid.targets[:, None]).any(1).mean() for top in (model.top_k(data.valid, 5), popular)]
    assert hits[0] > 1.3 * hits[1]
