"""Log-probabilities with the prompt read once equal those of each sequence scored alone, gradients too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sprec.config import HuggingFace
from sprec.engine.layout.groups import PromptGroup, collate, token_budget_batches
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.engine.train import scoring
from sprec.engine.train.scoring import completion_log_probs, own_columns, score
from toy_models import STYLES

CPU = torch.device("cpu")


def load(path: Path, precision: torch.dtype = torch.float32) -> Policy:
    return load_huggingface(HuggingFace(path=str(path), lora=None), CPU, precision)


def assert_same_gradients(fast: Policy, plain: Policy) -> None:
    for (name, one), (_, two) in zip(fast.trainable(), plain.trainable(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert (one.grad - two.grad).norm() <= 1e-4 * max(two.grad.norm().item(), 1e-3), name


def ragged_groups(seed: int, count: int, completions: int) -> list[PromptGroup]:
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> list[int]:
        drawn: list[int] = rng.integers(3, 300, rng.integers(low, high)).tolist()
        return drawn

    def answers(how_many: int) -> tuple[list[int], ...]:
        """Every other one begins as the one before."""
        found = [tokens(1, 9) for _ in range(how_many)]
        for one, two in zip(found[::2], found[1::2], strict=False):
            two[:0] = one[: rng.integers(1, len(one) + 1)]
        return tuple(found)

    return [PromptGroup(tokens(1, 40), answers(int(rng.integers(1, completions + 1)))) for _ in range(count)]


def alone(policy: Policy, group: PromptGroup, completion: int) -> Tensor:
    """The definition: one unpadded sequence through the model, no masks, no tricks."""
    tail = list(group.completions[completion])
    ids = torch.tensor([[*group.prompt, *tail]])
    logits = policy.model(input_ids=ids).logits[0, len(group.prompt) - 1 : -1].float()
    return logits.log_softmax(-1)[torch.arange(len(tail)), torch.tensor(tail)].sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("completions", [1, 5])
def test_shared_prompts_equal_unshared(style: str, completions: int, checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint(style))
    groups = ragged_groups(0, 12, completions)
    with torch.no_grad():
        expected = [[alone(policy, group, k).item() for k in range(len(group.completions))] for group in groups]
    for budget in (1, 200, 10_000):  # alone, in small batches, all at once
        for found, wanted in zip(score(policy, groups, budget=budget), expected, strict=True):
            assert found.tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_fused_and_plain_attention_agree(style: str, checkpoint: Callable[[str], Path]) -> None:
    plain, fused = load(checkpoint(style)), load(checkpoint(style))
    fused.model.set_attn_implementation("sdpa")
    groups = ragged_groups(1, 8, 4)
    for one, two in zip(score(plain, groups), score(fused, groups), strict=True):
        assert one.tolist() == pytest.approx(two.tolist(), abs=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_gradients_equal_unshared(style: str, checkpoint: Callable[[str], Path]) -> None:
    shared, single = load(checkpoint(style)), load(checkpoint(style))
    groups = ragged_groups(2, 6, 5)
    weights = torch.linspace(-1, 1, 6 * 5).view(6, 5)
    batch = collate(groups)
    (completion_log_probs(shared.model, batch, shared.head) * weights[:, : batch.mask.shape[1]]).sum().backward()  # type: ignore[no-untyped-call]
    for row, group in enumerate(groups):
        for k in range(len(group.completions)):
            (alone(single, group, k) * weights[row, k]).backward()  # type: ignore[no-untyped-call]
    for (name, one), (_, two) in zip(shared.trainable(), single.trainable(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        scale = max(two.grad.norm().item(), 1e-3)
        assert (one.grad - two.grad).norm().item() <= 1e-4 * scale, name


@pytest.mark.parametrize("style", STYLES)
def test_bf16_stays_within_its_tolerance(style: str, checkpoint: Callable[[str], Path]) -> None:
    exact, rough = load(checkpoint(style)), load(checkpoint(style), torch.bfloat16)
    groups = ragged_groups(3, 8, 3)
    for one, two in zip(score(exact, groups), score(rough, groups), strict=True):
        assert two.tolist() == pytest.approx(one.tolist(), rel=2e-2, abs=0.1)


def test_missing_completions_score_zero_and_are_masked() -> None:
    batch = collate([PromptGroup([5], ([6, 7], [6, 8, 9], [4, 9])), PromptGroup([5, 6], ([9],))], multiple=1)
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    # row 0: [5 | 4 | 6 8], the ends are not read and 6 only once; row 1: [pad pad 5 6], all four columns are kept
    assert batch.input_ids.tolist() == [[5, 4, 6, 8], [0, 0, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 1, 2], [0, 0, 0, 1]]
    assert batch.kept == 4
    assert batch.source.tolist() == [0, 1, 2, 3, 7]  # all of row 0 predict, of row 1 the prompt's last one
    assert batch.predictor.tolist() == [0, 2, 0, 2, 3, 0, 1, 4]
    assert batch.token.tolist() == [6, 7, 6, 8, 9, 4, 9, 9]
    assert batch.slot.tolist() == [0, 0, 1, 1, 1, 2, 2, 3]
    sees = batch.attention_mask[:, 0] == 0
    assert sees[0].tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, False, True, False],
        [True, False, True, True],
    ]
    assert sees[1].tolist() == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]


def test_what_all_prompts_begin_with_does_not_count_in_the_budget(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    groups = [PromptGroup([*range(3, 23), last], ([5, 6, 7, 2], [5, 6, 8, 2])) for last in (40, 41)]
    assert own_columns(policy.model, groups) == [5, 5]  # one token of the prompt, 5, 6, 7 and 8
    policy.model.set_attn_implementation("sdpa")
    assert own_columns(policy.model, groups) == [25, 25]


def test_token_budget_batches_keep_every_row_once_and_the_budget() -> None:
    sizes = np.random.default_rng(0).integers(1, 50, 200)
    batches = token_budget_batches(sizes, 100)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len(batch) * sizes[batch].max() <= 100 for batch in batches)
    assert token_budget_batches([500], 100) == [[0]]  # a row over the budget still gets a batch


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_log_probs_some_rows_at_a_time_are_those_written_out(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_ROWS", rows)
    torch.manual_seed(0)
    logits = torch.randn(7, 11, requires_grad=True)
    predictor, token = torch.tensor([0, 2, 2, 6, 3, 2]), torch.tensor([4, 10, 10, 0, 5, 1])  # one pair twice
    weights = torch.randn(6)
    plain = logits.log_softmax(-1)[predictor, token]
    (wanted,) = torch.autograd.grad((plain * weights).sum(), logits)
    fast: Tensor = scoring._LogProbs.apply(logits * 1, predictor, token)  # type: ignore[no-untyped-call]
    (found,) = torch.autograd.grad((fast * weights).sum(), logits)
    torch.testing.assert_close(fast, plain, rtol=0, atol=2e-6)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
