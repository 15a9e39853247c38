"""Votes by hand; whole lists against a naive count of the same samples."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprec.config import HuggingFace, Recommend
from sprec.data import Catalog, Split, Wording
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.prompts import PromptBuilder, parse_title
from sprec.recommend.consensus import rank_votes, recommend_by_consensus
from sprec.recommend.encoders import tfidf
from sprec.recommend.grounding import Grounder
from sprec.recommend.protocols import Context, Recommendations
from toy_models import TITLES

CATALOG = Catalog.of(TITLES)
CASES = Split.of([([0, 1], 5), ([3], 4), ([], 7), ([2, 11, 6, 8], 9)])
GROUNDER = Grounder(tfidf(TITLES), CATALOG)
SAMPLES, SEED = 6, 11


@pytest.fixture(scope="module")
def policy(checkpoint: Callable[[str], Path]) -> Policy:
    return load_huggingface(HuggingFace(path=str(checkpoint("llama")), lora=None), torch.device("cpu"), torch.float32)


def asked(policy: Policy, cases: Split) -> list[list[int]]:
    builder = PromptBuilder(CATALOG, Wording("", "", ""), "compact")
    return policy.encode_prompts([builder.prompt(example.history) for example in cases])


def consensus(
    policy: Policy,
    cases: Split,
    k: int,
    *,
    exclude: bool = False,
    barred: np.ndarray | None = None,
    blocked: np.ndarray | None = None,
) -> Recommendations:
    settings = Recommend(
        protocol="consensus", samples=SAMPLES, top_k=k, max_new_tokens=6, temperature=0.7, exclude_history=exclude
    )
    given: dict[str, Any] = {
        "examples": cases,
        "settings": settings,
        "items": len(TITLES),
        "seed": SEED,
        "budget": 8192,
    }
    given |= {"policy": lambda: policy, "asked": lambda: asked(policy, cases), "grounder": lambda: GROUNDER}
    unused: dict[str, Any] = {"trie": None, "sasrec": None, "knn": None, "counts": None}
    return recommend_by_consensus(Context(**given | unused, barred=barred, blocked=blocked))


def near(title: str) -> list[int]:
    """All items, nearest first."""
    ranked: list[int] = GROUNDER.top_k([title], len(TITLES))[0].tolist()
    return ranked


def votes(policy: Policy, cases: Split, bars: set[int]) -> list[list[tuple[int, float, str]]]:
    """Item, log-probability and title of every sample of each case."""
    decoding = Decoding("sample", max_new_tokens=6, count=SAMPLES, temperature=0.7, seed=SEED)
    found = []
    for answer in generate(policy, asked(policy, cases), decoding):
        titles = [parse_title(text) for text in policy.decode([completion.tokens for completion in answer])]
        items = [next(item for item in near(title) if item not in bars) for title in titles]
        found.append(list(zip(items, [completion.log_prob for completion in answer], titles, strict=True)))
    return found


def by_hand(sampled: list[tuple[int, float, str]], banned: set[int], k: int) -> list[int]:
    count = Counter(item for item, _, _ in sampled)
    best = {item: max(value for other, value, _ in sampled if other == item) for item in count}
    ranked = [item for item in sorted(count, key=lambda i: (-count[i], -best[i], i)) if item not in banned][:k]
    first = ranked[0] if ranked else sampled[0][0]
    return (ranked + [item for item in near(TITLES[first]) if item not in banned and item not in ranked])[:k]


def test_votes_first_then_the_most_probable_sample_then_the_id() -> None:
    items = np.array([5, 3, 5, 7, 3, 9, 8])
    log_probs = np.array([-9.0, -2.0, -8.0, -1.0, -60.0, -0.5, -1.0])
    # two votes: 3 (best sample -2), 5 (-8); one vote: 9 (-0.5), then 7 and 8 (-1 both)
    assert rank_votes(items, log_probs) == [3, 5, 9, 7, 8]


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("bars", [set(), {0, 3, 4, 7, 10}])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_lists_equal_a_naive_count(policy: Policy, k: int, bars: set[int], exclude: bool) -> None:
    """At k = 8 no case has enough different votes: the rest is near the first one."""
    found = consensus(policy, CASES, k, exclude=exclude, barred=np.isin(np.arange(len(TITLES)), sorted(bars)))
    sampled = votes(policy, CASES, bars)
    assert max(len({item for item, _, _ in own}) for own in sampled) < 8
    expected = [
        by_hand(own, bars | set(example.history if exclude else ()), k)
        for own, example in zip(sampled, CASES, strict=True)
    ]
    assert found.items.tolist() == [(own + [-1] * k)[:k] for own in expected]
    shares = [[sum(item == voted for voted, _, _ in own) / SAMPLES for item in best] for own, best in
              zip(sampled, expected, strict=True)]  # fmt: skip
    assert found.scores is not None
    assert found.scores.tolist() == [(own + [-np.inf] * k)[:k] for own in shares]
    assert found.samples == [title for own in sampled for _, _, title in own]
    assert found.titles == []


def test_a_case_whose_votes_are_all_of_the_history_gets_what_is_near_them(policy: Policy) -> None:
    cases = Split.of([([1, 2], 5)])
    (sampled,) = votes(policy, cases, set())
    voted = {item for item, _, _ in sampled}
    found = consensus(policy, cases, 3, blocked=np.array([[*sorted(voted), len(TITLES)]]))
    assert found.items.tolist() == [by_hand(sampled, voted, 3)]
    assert not voted & set(found.items[0].tolist())


def test_no_cases(policy: Policy) -> None:
    assert consensus(policy, CASES.take(np.zeros(0, dtype=np.int64)), 3).items.shape == (0, 3)
