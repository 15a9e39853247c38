"""Completions equal those of a plain loop over whole sequences: greedy, sampled, beams; batches change nothing."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scoring import load

from sprec.engine.decode import generation
from sprec.engine.decode.generation import Decoding, _going, generate
from sprec.engine.layout.groups import common_prefix
from sprec.engine.model.policy import Policy
from toy_models import STYLES


def prompts(seed: int, count: int, shared: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    head = rng.integers(3, 300, shared).tolist()
    return [head + rng.integers(3, 300, rng.integers(1, 30)).tolist() for _ in range(count)]


def next_log_probs(policy: Policy, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = policy.model(input_ids=torch.tensor([tokens])).logits[0, -1].float()
    return logits.log_softmax(-1)


def greedy_by_hand(policy: Policy, prompt: list[int], limit: int) -> tuple[list[int], float]:
    tokens, total = list(prompt), 0.0
    for _ in range(limit):
        log_p = next_log_probs(policy, tokens)
        best = int(log_p.argmax())
        total += log_p[best].item()
        if best == policy.end:
            break
        tokens.append(best)
    return tokens[len(prompt) :], total


def likely_to_end(policy: Policy, bias: float = 3.0) -> Policy:
    """Random models seldom end; push the end token so that rows end at different steps."""
    head = policy.model.get_output_embeddings()
    old = head.weight.data[policy.end].clone()
    head.weight.data[policy.end] = old + bias * torch.randn(old.shape, generator=torch.Generator().manual_seed(3))
    return policy


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shared", [0, 12])
def test_greedy_equals_a_plain_loop(style: str, shared: int, checkpoint: Callable[[str], Path]) -> None:
    policy = likely_to_end(load(checkpoint(style)))
    asked = prompts(0, 9, shared)
    expected = [greedy_by_hand(policy, prompt, 10) for prompt in asked]
    assert len({len(tokens) for tokens, _ in expected}) > 1, "rows must end at different steps"
    for budget in (1, 150, 100_000):
        found = generate(policy, asked, Decoding(max_new_tokens=10), budget=budget)
        for (completion,), (tokens, total) in zip(found, expected, strict=True):
            assert list(completion.tokens) == tokens
            assert completion.log_prob == pytest.approx(total, abs=1e-4)


def test_samples_do_not_depend_on_the_batch(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = likely_to_end(load(checkpoint("llama")))
    decoding = Decoding(mode="sample", count=3, max_new_tokens=6, seed=5)
    asked = prompts(1, 7)
    together = generate(policy, asked, decoding, budget=100_000)
    monkeypatch.setattr(generation, "_DRAWN", 2)
    apart = generate(policy, asked, decoding, budget=1)
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in apart]
    assert len({one.tokens for row in together for one in row}) > 7


@pytest.mark.parametrize("count", [17, 35])
def test_many_draws_are_divided_among_copies_of_the_prompt(count: int, checkpoint: Callable[[str], Path]) -> None:
    policy = likely_to_end(load(checkpoint("qwen")))
    many, few = (
        generate(policy, prompts(4, 5), Decoding(mode="sample", count=number, max_new_tokens=6, seed=2))
        for number in (count, 9)
    )
    for one, two in zip(many, few, strict=True):
        assert len(one) == count
        assert [draw.tokens for draw in one[:9]] == [draw.tokens for draw in two], "a draw depends on its number only"
        assert [draw.log_prob for draw in one[:9]] == pytest.approx([draw.log_prob for draw in two], abs=1e-4)
    assert len({draw.tokens for row in many for draw in row[9:]}) > count


def test_samples_follow_the_model(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    prompt = [5, 6, 7]
    drawn = generate(policy, [prompt], Decoding(mode="sample", count=4000, max_new_tokens=1, temperature=0.5))[0]
    probabilities = (next_log_probs(policy, prompt) / 0.5).softmax(-1).numpy()
    first = [one.tokens[0] if one.tokens else policy.end for one in drawn]
    share = np.bincount(first, minlength=len(probabilities)) / 4000
    # Pearson's statistic against its mean and deviation for that many cells
    cells = len(probabilities)
    statistic = 4000 * ((share - probabilities) ** 2 / probabilities).sum()
    assert abs(statistic - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


def test_wide_beams_find_the_best_of_all_sequences(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    head = policy.model.get_output_embeddings()
    alphabet = [policy.end, 10, 11, 12]
    bias = torch.full((head.weight.shape[0],), -60.0)
    bias[alphabet] = 0.0
    head.bias = torch.nn.Parameter(bias)  # only four tokens are possible: all sequences can be listed
    prompt = [5, 9, 30]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(3):
        for body in product([10, 11, 12], repeat=length):
            tokens, total = list(prompt), 0.0
            for token in (*body, policy.end):
                total += next_log_probs(policy, tokens)[token].item()
                tokens.append(token)
            ended.append((total, body))
    for body in product([10, 11, 12], repeat=3):  # cut off by the limit
        tokens, total = list(prompt), 0.0
        for token in body:
            total += next_log_probs(policy, tokens)[token].item()
            tokens.append(token)
        ended.append((total, body))
    best = sorted(ended, reverse=True)[:6]
    decoding = Decoding(mode="beam", beams=40, count=6, max_new_tokens=3)
    found = generate(policy, [prompt, [5, 9]], decoding)[0]
    assert [one.tokens for one in found] == [body for _, body in best]
    assert [one.log_prob for one in found] == pytest.approx([total for total, _ in best], abs=1e-4)


def test_beams_of_a_batch_equal_beams_alone(checkpoint: Callable[[str], Path]) -> None:
    policy = likely_to_end(load(checkpoint("qwen")))
    decoding = Decoding(mode="beam", beams=4, count=4, max_new_tokens=6)
    asked = prompts(2, 6)
    together, apart = generate(policy, asked, decoding), generate(policy, asked, decoding, budget=1)
    for one, two in zip(together, apart, strict=True):
        assert [c.tokens for c in one] == [c.tokens for c in two]
        assert [c.log_prob for c in one] == pytest.approx([c.log_prob for c in two], abs=1e-4)


def test_common_prefix() -> None:
    head = list(range(10))
    assert common_prefix([[*head, 1, 2], [*head, 3]]) == 10
    assert common_prefix([head, [*head, 3]]) == 9  # something must be left to read
    assert common_prefix([[1, 2], [1, 3]]) == 0  # not worth it
    assert common_prefix([head]) == 0


def test_rows_that_leave_keep_the_unfinished_ones_of_every_prompt() -> None:
    rng = np.random.default_rng(3)
    shrunk = 0
    for share in (0.2, 0.5, 0.8, 0.95, 1.0):
        finished = torch.from_numpy(rng.random((40, 12)) < share)
        prompts, kept = _going(finished)
        if not len(prompts):
            assert finished.all()
            continue
        assert kept.shape[0] == len(prompts)
        numbers = (prompts[:, None] * 12 + kept).flatten().tolist()
        assert len(numbers) == len(set(numbers))
        assert (kept.diff(dim=1) > 0).all(), "the rows of a prompt stay in their order"
        unfinished = set(torch.nonzero(~finished.flatten())[:, 0].tolist())
        assert unfinished <= set(numbers)
        shrunk += kept.numel() < finished.numel()
    assert shrunk >= 2
