import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from sprec.methods import objectives

Naive = Callable[[float, list[float]], float]


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def inputs(D_w: float, *D_l: float) -> tuple[Tensor, Tensor, Tensor]:
    """A single group with these log-ratios."""
    policy = torch.tensor([[D_w, *D_l]], dtype=torch.float64) - 3
    return policy, torch.full_like(policy, -3), torch.ones_like(policy, dtype=torch.bool)


def ragged(B: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random groups of 0..K negatives; missing ones are NaN, so that reading them shows."""
    g = torch.Generator().manual_seed(seed)
    policy, reference = (-20 * torch.rand(B, 1 + K, generator=g, dtype=torch.float64) for _ in range(2))
    sizes = torch.arange(B) % (K + 1)
    mask = torch.arange(1 + K) <= sizes[:, None]
    return policy.masked_fill(~mask, math.nan), reference.masked_fill(~mask, math.nan), mask


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


def naive_dpo(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    return -log_sigma(beta * (D_w - D_l[0]))


def naive_sdpo(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    return -log_sigma(-math.log(sum(math.exp(beta * (d - D_w)) for d in D_l)))


def naive_dmpo(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    return -log_sigma(beta * D_w - sum(beta * d for d in D_l) / len(D_l))


def naive_dmpo_sum(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    return -log_sigma(beta * sum(D_w - d for d in D_l))


def naive_weighted(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    return sum(-log_sigma(beta * (D_w - d)) * 0.7 * (k + 1) for k, d in enumerate(D_l)) / len(D_l)


def naive_smoothed(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    m = beta * (D_w - D_l[0])
    return -0.8 * log_sigma(m) - 0.2 * log_sigma(-m)


def naive_robust(D_w: float, D_l: list[float], beta: float = 0.3) -> float:
    m = beta * (D_w - D_l[0])
    return (-0.8 * log_sigma(m) + 0.2 * log_sigma(-m)) / 0.6


def with_weights(policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    log_weights = (0.7 * torch.arange(1, policy.shape[1], dtype=policy.dtype)).log().expand(len(policy), -1)
    return objectives.importance_weighted_dpo(policy, reference, mask, beta=beta, log_weights=log_weights)


def with_smoothing(policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float, robust: bool = False) -> Tensor:
    smoothing = torch.full((len(policy),), 0.2, dtype=policy.dtype)
    return objectives.smoothed_dpo(policy, reference, mask, beta=beta, smoothing=smoothing, robust=robust)


PAIRS = [
    (objectives.dpo, naive_dpo, 1),
    (with_smoothing, naive_smoothed, 1),
    (partial(with_smoothing, robust=True), naive_robust, 1),
    (objectives.sdpo, naive_sdpo, 4),
    (objectives.dmpo, naive_dmpo, 4),
    (partial(objectives.dmpo, reduction="sum"), naive_dmpo_sum, 4),
    (with_weights, naive_weighted, 4),
]


@pytest.mark.parametrize(("objective", "naive", "K"), PAIRS)
def test_equals_the_naive_formula(objective: Callable[..., Tensor], naive: Naive, K: int) -> None:
    policy, reference, mask = ragged(12, K)
    ratios = [[d for d in row if not math.isnan(d)] for row in (policy - reference).tolist()]
    expected = [naive(D[0], D[1:]) if len(D) > 1 else 0.0 for D in ratios]
    assert objective(policy, reference, mask, beta=0.3).tolist() == pytest.approx(expected, rel=1e-12)


LENGTHS, WEIGHTS = torch.tensor([3, 1, 4, 2, 7, 5]), torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5, 0.7]).double()
SUPERVISED: list[tuple[Callable[[Tensor], Tensor], Callable[[float, int], float]]] = [
    (objectives.sft, lambda log_p, row: -log_p),
    (
        lambda policy: objectives.weighted_sft(policy, LENGTHS, WEIGHTS),
        lambda log_p, row: WEIGHTS[row].item() * -log_p / LENGTHS[row].item(),
    ),
]


def assert_gradient_is_the_slope(loss: Callable[[Tensor], Tensor], policy: Tensor) -> None:
    """Central differences, entry by entry; a loss must not depend on the other rows."""
    at = policy.clone().requires_grad_()
    slopes = gradient(loss(at), at)
    h = 1e-6
    for row, column in torch.cartesian_prod(torch.arange(len(policy)), torch.arange(policy.shape[1])).tolist():
        step = torch.zeros_like(policy)
        step[row, column] = h
        up, down = (loss(policy + s)[row] for s in (step, -step))
        assert slopes[row, column].item() == pytest.approx(((up - down) / (2 * h)).item(), abs=1e-8)


@pytest.mark.parametrize(("objective", "K"), [(objective, K) for objective, _, K in PAIRS])
def test_gradient_equals_finite_differences(objective: Callable[..., Tensor], K: int) -> None:
    policy, reference, mask = ragged(6, K)
    assert_gradient_is_the_slope(lambda at: objective(at, reference, mask, beta=0.3), policy)


@pytest.mark.parametrize(("objective", "naive"), SUPERVISED)
def test_supervised_losses_equal_the_naive_formula_and_its_slope(
    objective: Callable[[Tensor], Tensor], naive: Callable[[float, int], float]
) -> None:
    policy = -20 * torch.rand(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = [naive(log_p, row) for row, log_p in enumerate(policy[:, 0].tolist())]
    assert objective(policy).tolist() == pytest.approx(expected, rel=1e-12)
    assert_gradient_is_the_slope(objective, policy)


@pytest.mark.parametrize(("objective", "K"), [(objective, K) for objective, _, K in PAIRS])
def test_group_without_negatives_is_silent(objective: Callable[..., Tensor], K: int) -> None:
    policy, reference, mask = ragged(1, K)
    policy.requires_grad_()
    loss = objective(policy, reference, mask, beta=0.3)
    assert loss.tolist() == [0.0]
    assert gradient(loss, policy).tolist() == [[0.0] * (1 + K)]


def test_dpo_golden_values() -> None:
    assert objectives.dpo(*inputs(0.5, -0.5), beta=0.1).item() == pytest.approx(0.644397, abs=5e-7)
    assert objectives.dpo(*inputs(2.0, 2.0), beta=0.1).item() == pytest.approx(math.log(2))


def test_sdpo_golden_values() -> None:
    assert objectives.sdpo(*inputs(0, 0, 0, 0), beta=1).item() == pytest.approx(math.log(4))
    policy, reference, mask = ragged(20, 1)
    torch.testing.assert_close(
        objectives.sdpo(policy, reference, mask, beta=0.1), objectives.dpo(policy, reference, mask, beta=0.1)
    )


def test_dmpo_golden_values() -> None:
    assert objectives.dmpo(*inputs(1, 0, 0.5), beta=1).item() == pytest.approx(0.386871, abs=5e-7)
    assert objectives.dmpo(*inputs(1, 0, 0.5), beta=1, reduction="sum").item() == pytest.approx(0.201413, abs=5e-7)


def test_smoothed_dpo_golden_value() -> None:
    smoothing = torch.tensor([0.2], dtype=torch.float64)
    loss = objectives.smoothed_dpo(*inputs(0.5, -0.5), beta=0.1, smoothing=smoothing)
    assert loss.item() == pytest.approx(0.664397, abs=5e-7)


def test_smoothing_of_zero_is_dpo_in_both_forms() -> None:
    policy, reference, mask = ragged(8, 1)
    zero = torch.zeros(8, dtype=torch.float64)
    for robust in (False, True):
        smoothed = objectives.smoothed_dpo(policy, reference, mask, beta=0.1, smoothing=zero, robust=robust)
        torch.testing.assert_close(smoothed, objectives.dpo(policy, reference, mask, beta=0.1))


def test_robust_form_is_unbiased_under_flipped_pairs() -> None:
    policy, reference, mask = inputs(1.5, -0.5)
    eps = torch.tensor([0.3], dtype=torch.float64)
    kept, flipped = (
        objectives.smoothed_dpo(p, r, mask, beta=1, smoothing=eps, robust=True)
        for p, r in ((policy, reference), (policy.flip(1), reference.flip(1)))
    )
    torch.testing.assert_close(0.7 * kept + 0.3 * flipped, objectives.dpo(policy, reference, mask, beta=1))


def test_importance_weights_turn_uniform_negatives_into_the_policys_own() -> None:
    """Summed over a whole small catalogue, E_q[(pi/q) loss] = E_pi[loss] (SPRec, Eq. 8)."""
    n = 6
    g = torch.Generator().manual_seed(1)
    log_pi = torch.log_softmax(torch.randn(n, generator=g, dtype=torch.float64), 0)
    ratios = torch.randn(1 + n, generator=g, dtype=torch.float64)
    policy, reference, mask = inputs(*ratios.tolist())
    weighted = objectives.importance_weighted_dpo(
        policy, reference, mask, beta=0.5, log_weights=(log_pi + math.log(n))[None]
    )
    split = [[tensor[:, [0, k]] for tensor in (policy, reference, mask)] for k in range(1, 1 + n)]
    pairs = [objectives.dpo(*pair, beta=0.5) for pair in split]
    torch.testing.assert_close(weighted, (log_pi.exp() * torch.cat(pairs)).sum(0, keepdim=True))


def test_no_gradient_flows_through_the_importance_weights() -> None:
    log_weights = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    policy, reference, mask = inputs(0.5, -0.5)
    loss = objectives.importance_weighted_dpo(policy, reference, mask, beta=1, log_weights=log_weights)
    assert not loss.requires_grad


def test_extreme_margins_stay_finite_in_float32() -> None:
    policy = torch.tensor([[0.0, 4000.0, -4000.0], [0.0, -4000.0, -4000.0]], requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss = objectives.sdpo(policy, torch.zeros(2, 3), mask, beta=1)
    assert loss.tolist() == [4000.0, 0.0]
    assert gradient(loss, policy).tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("objective", [objectives.dpo, with_smoothing])
def test_pairwise_objectives_refuse_several_negatives(objective: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="one negative per group, got 2"):
        objective(*inputs(1, 0, 0), beta=1)


def test_sft_sums_and_weighted_sft_averages_tokens() -> None:
    policy = torch.tensor([[-6.0, -1.0], [-8.0, -1.0]])
    assert objectives.sft(policy).tolist() == [6.0, 8.0]
    weighted = objectives.weighted_sft(policy, torch.tensor([3, 4]), torch.tensor([0.5, 2.0]))
    assert weighted.tolist() == [1.0, 4.0]


def test_oracle_smoothing_follows_the_scores_and_stays_below_a_half() -> None:
    eps = objectives.oracle_smoothing(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 5.0]), temperature=2.0)
    assert eps.tolist() == pytest.approx([1 / (1 + math.e), 0.499, 0.499])


TITLES = ["aab", "aac", "ab", "b", "ca"]
"""Five titles over the letters a, b, c and e, the end: first comes a, b or c; after a, a or b; after aa, b or c."""


def trie_steps(title: str) -> list[tuple[str, str]]:
    """The token at each place of a title, and all that may stand there."""
    steps = []
    for place in range(len(title) + 1):
        next_tokens = {(other + "e")[place] for other in TITLES if other[:place] == title[:place]}
        steps.append(((title + "e")[place], "".join(sorted(next_tokens))))
    return steps


def test_catalog_softmax_on_a_trie_of_five_titles_by_hand() -> None:
    """Logits of a, b, c, e are the logarithms of 1, 2, 3, 4 at every place, so that shares can be counted.

    "aab": a of a, b, c is 1/6; a of a, b is 1/3; b of b, c is 2/5; the end is forced. "ca": c is 3/6, the rest forced.
    """
    z = {letter: math.log(number) for number, letter in enumerate("abce", start=1)}
    expected = {"aab": [1 / 6, 1 / 3, 2 / 5, 1], "aac": [1 / 6, 1 / 3, 3 / 5, 1], "ab": [1 / 6, 2 / 3, 1],
                "b": [2 / 6, 1], "ca": [3 / 6, 1, 1]}  # fmt: skip
    squared = {"aab": [1 / 14, 1 / 5, 4 / 13, 1], "ca": [9 / 14, 1, 1]}
    for shares, temperature in ((expected, 1.0), (squared, 0.5)):
        for title, values in shares.items():
            steps = trie_steps(title)
            width = max(len(allowed) for _, allowed in steps)
            children = torch.tensor([["abce".index(c) for c in allowed.ljust(width, "a")] for _, allowed in steps])
            mask = torch.tensor([[place < len(allowed) for place in range(width)] for _, allowed in steps])
            logits = torch.tensor([list(z.values())] * len(steps), dtype=torch.float64)
            tokens = torch.tensor(["abce".index(token) for token, _ in steps])
            loss = objectives.catalog_softmax(logits, tokens, children, mask, temperature=temperature)
            assert loss.tolist() == pytest.approx([-math.log(value) for value in values], abs=1e-12)


def test_catalog_softmax_is_the_softmax_where_all_tokens_go_on_and_forced_tokens_teach_nothing() -> None:
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([0, 3, 8, 2, 2, 1])
    every = torch.arange(9).expand(6, 9)
    loss = objectives.catalog_softmax(logits, tokens, every, torch.ones(6, 9, dtype=torch.bool), temperature=2.0)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits / 2, tokens, reduction="none"))
    only = torch.stack([tokens, torch.zeros_like(tokens)], 1)
    forced = objectives.catalog_softmax(
        logits, tokens, only, torch.tensor([[True, False]]).expand(6, 2), temperature=1.0
    )
    assert forced.tolist() == [0] * 6
    assert gradient(forced, logits).abs().max() == 0
