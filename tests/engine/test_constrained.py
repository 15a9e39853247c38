"""The search against brute force: all 200 titles of a catalog are scored and sorted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_generation import prompts
from test_scoring import load
from torch import Tensor

from sprec.engine.decode.constrained import Adjust, Leaves, Search, best_leaves
from sprec.engine.decode.trie import Children, Closed, Trie
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import Policy
from sprec.engine.train.scoring import score

EXACT = 10_000
"""A pool that drops nothing."""


def titles(policy: Policy, count: int = 200, distinct: int = 9) -> list[list[int]]:
    """Different sequences of one to five tokens with many common beginnings, some the beginning of another one."""
    rng = np.random.default_rng(4)
    drawn = (tuple(rng.integers(10, 10 + distinct, rng.integers(1, 6)).tolist()) for _ in range(10 * count))
    return [[*title, policy.end] for title in list(dict.fromkeys(drawn))[:count]]


def sharpened(policy: Policy, factor: float = 12.0) -> Policy:
    """A random model with clear preferences; plain ones are nearly uniform over titles."""
    weight = policy.model.get_output_embeddings().weight
    weight.data *= factor
    return policy


def brute_force(policy: Policy, asked: list[list[int]], sequences: list[list[int]]) -> np.ndarray:
    """Log-probability of every title under every prompt, (prompts, titles)."""
    groups = [PromptGroup(prompt, tuple(sequences)) for prompt in asked]
    return torch.stack(score(policy, groups)).double().numpy()


def check(found: Leaves, trie: Trie, scores: np.ndarray, count: int) -> None:
    """The found leaves are the best ones, with their scores."""
    leaf = trie.leaf.numpy()
    for nodes, values, row in zip(found.nodes.tolist(), found.scores.tolist(), scores, strict=True):
        order = np.argsort(-row, kind="stable")[:count]
        assert nodes == leaf[order].tolist()
        assert values == pytest.approx(row[order].tolist(), abs=1e-5, rel=0)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
@pytest.mark.parametrize("factor", [1.0, 12.0])
def test_equals_brute_force(style: str, factor: float, checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint(style)), factor)
    sequences, asked = titles(policy), prompts(0, 6, 9)
    trie, scores = Trie.of(sequences), brute_force(policy, asked, sequences)
    for width, budget in ((1, 100_000), (7, 100_000), (50, 100_000), (7, 1), (7, 150)):
        found = best_leaves(policy, asked, trie, Search(10, width, EXACT), budget=budget)
        check(found, trie, scores, 10)
        assert found.certain.all()


def test_finds_all_leaves_in_order_and_no_more(checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("llama")))
    sequences, asked = titles(policy, 30), prompts(1, 3)
    trie = Trie.of(sequences)
    found = best_leaves(policy, asked, trie, Search(33, 500, EXACT))
    assert (found.nodes[:, 30:] == -1).all()
    assert (found.scores[:, 30:] == -torch.inf).all()
    head = found._replace(nodes=found.nodes[:, :30], scores=found.scores[:, :30])
    check(head, trie, brute_force(policy, asked, sequences), 30)
    assert found.certain.all()


@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_leaves_asked_for_are_scored_beside_the_search(style: str, checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint(style)))
    sequences, asked = titles(policy), prompts(0, 6, 9)
    sequences[3] = [policy.end]  # nothing to read
    trie, scores = Trie.of(sequences), brute_force(policy, asked, sequences)
    rng = np.random.default_rng(0)
    items = np.array([rng.permutation(200)[:40] for _ in asked])
    items[:, 0] = 3
    wanted = trie.leaf[items]
    wanted[1, 5:] = wanted[2] = -1
    for width, budget in ((7, 100_000), (50, 1), (1, 150)):
        found = best_leaves(policy, asked, trie, Search(10, width, EXACT), wanted=wanted, budget=budget)
        check(found, trie, scores, 10)
        expected = np.where(wanted < 0, -np.inf, np.take_along_axis(scores, items, axis=1))
        assert found.wanted.numpy() == pytest.approx(expected, abs=1e-5, rel=0)
    single = trie.leaf[items[:, :1]]  # a title without a token to read, alone
    found = best_leaves(policy, asked, trie, Search(3, 3, EXACT), wanted=single)
    assert found.wanted.numpy() == pytest.approx(scores[:, [3]], abs=1e-5, rel=0)


def test_equal_sequences_are_one_leaf(checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("llama")))
    trie = Trie.of([[10, 11, policy.end], [10, policy.end], [10, 11, policy.end]])
    found = best_leaves(policy, [[5, 6, 7]], trie, Search(3, 3, EXACT))
    best = found.nodes[0, :2].tolist()
    assert sorted(trie.ids_below(node).tolist() for node in best) == [[0, 2], [1]]
    assert found.nodes[0, 2] == -1


def beam_by_hand(policy: Policy, prompt: list[int], sequences: list[list[int]], count: int) -> list[tuple[float, int]]:
    """Beam search token by token with lists and dicts: the best ``count`` of live and finished hypotheses stay."""
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    complete = {tuple(sequence): number for number, sequence in enumerate(sequences)}
    while any(tokens not in complete for _, tokens in beams):
        grown = [beam for beam in beams if beam[1] in complete]
        for value, tokens in (beam for beam in beams if beam[1] not in complete):
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            log_p = logits.log_softmax(-1)
            depth = len(tokens)
            allowed = {s[depth] for s in sequences if len(s) > depth and tuple(s[:depth]) == tokens}
            grown += [(value + log_p[token].item(), (*tokens, token)) for token in allowed]
        beams = sorted(grown, reverse=True)[:count]
    return [(value, complete[tokens]) for value, tokens in beams]


@pytest.mark.parametrize("width", [1, 4])
def test_a_narrow_pool_is_beam_search(width: int, checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("qwen")))
    sequences, asked = titles(policy, 80), prompts(2, 5)
    trie = Trie.of(sequences)
    found = best_leaves(policy, asked, trie, Search(width, width))
    for nodes, values, prompt in zip(found.nodes.tolist(), found.scores.tolist(), asked, strict=True):
        expected = beam_by_hand(policy, prompt, sequences, width)
        assert nodes == [int(trie.leaf[number]) for _, number in expected]
        assert values == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_reading_ahead_changes_nothing_but_the_calls(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long titles of which each is alone after three tokens at most: one token at once, three, or all that is left."""
    policy = sharpened(load(checkpoint("llama")), 4.0)
    rng = np.random.default_rng(1)
    drawn = np.unique(rng.integers(10, 19, (60, 12)), axis=0).tolist()
    sequences = [[*title[: rng.integers(4, 13)], policy.end] for title in drawn]
    assert len({tuple(one[:3]) for one in sequences}) > 50
    asked, trie = prompts(3, 5), Trie.of(sequences)
    expected = [beam_by_hand(policy, prompt, sequences, 4) for prompt in asked]
    calls: list[int] = []
    policy.model.register_forward_pre_hook(lambda *_: calls.append(1))
    counts = []
    for ahead in (1, 3, 16):
        monkeypatch.setattr("sprec.engine.decode.constrained._AHEAD", ahead)
        calls.clear()
        found = best_leaves(policy, asked, trie, Search(4, 4))
        counts.append(len(calls))
        for nodes, values, wanted in zip(found.nodes.tolist(), found.scores.tolist(), expected, strict=True):
            assert nodes == [int(trie.leaf[number]) for _, number in wanted]
            assert values == pytest.approx([value for value, _ in wanted], abs=1e-4)
    longest = max(len(sequences[number]) for wanted in expected for _, number in wanted)
    assert counts[0] >= longest, "each token but the end, and the prompts"
    assert counts[0] >= counts[1] > counts[2]
    assert counts[2] <= 1 + 3 + 1 + 1, "prompts, three tokens, what is left, and where four titles begin alike"
    calls.clear()
    found = best_leaves(policy, asked, trie, Search(2, 4))
    assert found.nodes.tolist() == [[int(trie.leaf[number]) for _, number in wanted[:2]] for wanted in expected]
    assert len(calls) > counts[2], "not where some of the beams are not wanted"


def test_a_catalog_of_one_title(checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("llama")))
    sequences, asked = [[10, 11, 12, policy.end]], prompts(4, 3)
    trie = Trie.of(sequences)
    check(best_leaves(policy, asked, trie, Search(1, 2)), trie, brute_force(policy, asked, sequences), 1)


def test_what_is_certain_is_right_and_narrow_beams_are_not_always(checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("llama")), 20.0)
    sequences, asked = titles(policy), prompts(3, 40)
    trie, scores = Trie.of(sequences), brute_force(policy, asked, sequences)
    best = trie.leaf.numpy()[np.argsort(-scores, axis=1)[:, :3]]
    narrow = best_leaves(policy, asked, trie, Search(3, 10))
    right = (narrow.nodes.numpy() == best).all(1)
    assert right[narrow.certain.numpy()].all()
    assert not right.all()
    assert narrow.certain.any()


def test_every_search_ends_even_when_the_model_knows_nothing(checkpoint: Callable[[str], Path]) -> None:
    """A uniform model and titles of one length: every beginning is better than every whole title."""
    policy = sharpened(load(checkpoint("llama")), 0.0)
    drawn = np.unique(np.random.default_rng(0).integers(10, 19, (200, 5)), axis=0).tolist()
    trie = Trie.of([[*title, policy.end] for title in drawn])
    found = best_leaves(policy, [[5, 6]], trie, Search(2, 2, 60))
    assert len(set(found.nodes[0].tolist()) - {-1}) == 2
    assert found.scores[0].tolist() == pytest.approx([-6 * np.log(policy.model.config.vocab_size)] * 2)
    assert not found.certain.any()


@pytest.mark.parametrize("width", [5, 8])
def test_closed_leaves_make_room_for_the_next(checkpoint: Callable[[str], Path], width: int) -> None:
    policy = sharpened(load(checkpoint("gpt2")))
    sequences, asked = titles(policy), prompts(4, 4)
    trie, scores = Trie.of(sequences), brute_force(policy, asked, sequences)
    gone = np.argsort(-scores, axis=1)[:, [0, 2, 3]]
    barred = np.isin(np.arange(len(sequences)), np.argsort(-scores[0])[4:9])
    own = np.sort(np.where(barred[gone], len(sequences), gone), axis=1)
    closed = Closed.of(trie, torch.from_numpy(own), torch.from_numpy(barred))
    found = best_leaves(policy, asked, trie, Search(5, width, EXACT), closed=closed, budget=1)
    np.put_along_axis(scores, gone, -np.inf, axis=1)
    scores[:, barred] = -np.inf
    check(found, trie, scores, 5)


def test_a_guide_changes_every_step(checkpoint: Callable[[str], Path]) -> None:
    """Half the log-probability, and a price per token that depends on the prompt: also by brute force."""
    policy = sharpened(load(checkpoint("llama")))
    sequences, asked = titles(policy), prompts(5, 6)
    price = torch.linspace(0.1, 3, 6)
    trie, scores = Trie.of(sequences), brute_force(policy, asked, sequences)

    def guide(numbers: list[int]) -> Adjust:
        def adjust(rows: Tensor, nodes: Tensor, children: Children, log_p: Tensor) -> Tensor:
            parents = nodes.gather(1, children.parents)
            assert (trie.depth[children.nodes] == trie.depth[parents] + 1)[children.mask].all()
            return 0.5 * log_p - price[torch.tensor(numbers)[rows], None]

        return adjust

    lengths = np.array([len(sequence) for sequence in sequences])
    expected = 0.5 * scores - price.double().numpy()[:, None] * lengths
    for budget in (1, 150, 100_000):
        check(best_leaves(policy, asked, trie, Search(5, 6, EXACT), guide=guide, budget=budget), trie, expected, 5)  # type: ignore[arg-type]


def test_bf16_stays_within_its_tolerance(checkpoint: Callable[[str], Path]) -> None:
    exact, rough = load(checkpoint("llama")), load(checkpoint("llama"), torch.bfloat16)
    sequences, asked = titles(exact, 40), prompts(6, 4)
    trie, scores = Trie.of(sequences), brute_force(exact, asked, sequences)
    found = best_leaves(rough, asked, trie, Search(40, 10, EXACT))
    by_leaf = {int(leaf): number for number, leaf in enumerate(trie.leaf)}
    for nodes, values, row in zip(found.nodes.tolist(), found.scores.tolist(), scores, strict=True):
        assert values == pytest.approx([row[by_leaf[node]] for node in nodes], rel=2e-2, abs=0.1)


def test_no_prompts(checkpoint: Callable[[str], Path]) -> None:
    policy = load(checkpoint("llama"))
    found = best_leaves(policy, [], Trie.of([[5, policy.end]]), Search(3, 3))
    assert found.nodes.shape == found.scores.shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_leaves_on_a_gpu(checkpoint: Callable[[str], Path]) -> None:
    policy = sharpened(load(checkpoint("llama")))
    sequences, asked = titles(policy), prompts(0, 6)
    trie = Trie.of(sequences)
    here = best_leaves(policy, asked, trie, Search(5, 8, EXACT))
    torch.nn.Module.to(policy.model, "cuda")
    there = best_leaves(policy, asked, trie, Search(5, 8, EXACT))
    assert there.nodes.tolist() == here.nodes.tolist()
    assert there.scores.flatten().tolist() == pytest.approx(here.scores.flatten().tolist(), abs=1e-3)
