"""Exact lists against scoring every title of a catalog of 200; D3 against its pseudo-code with dicts of dicts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sprec.config import HuggingFace
from sprec.data import Catalog, Split, Wording
from sprec.engine.decode.trie import Trie
from sprec.engine.layout.groups import PromptGroup
from sprec.engine.model.policy import Policy, load_huggingface
from sprec.engine.train.scoring import score
from sprec.methods.d3 import guidance
from sprec.methods.exclusion import Excluded, excluded_items
from sprec.prompts import PromptBuilder
from sprec.recommend.exact import RankedItems, catalog_trie, rank_items

WORDS = ["Red", "Dune", "Storm", "of", "Six", "A", "Rising 2"]
RANDOM = np.random.default_rng(2)


def catalog(count: int = 200) -> Catalog:
    """Titles with common beginnings; items 3, 50 and 120 share one, as do 7 and 8."""
    drawn = list(dict.fromkeys(" ".join(RANDOM.choice(WORDS, RANDOM.integers(1, 6))) for _ in range(9 * count)))[:count]
    if count > 120:
        drawn[50] = drawn[120] = drawn[3]
    drawn[8] = drawn[7]
    return Catalog.of(drawn)


def examples(items: int, count: int) -> Split:
    return Split.of((RANDOM.permutation(items)[: RANDOM.integers(0, 8)].tolist(), 0) for _ in range(count))


@pytest.fixture(scope="module")
def policy(checkpoint: Callable[[str], Path]) -> Policy:
    """A random model with clear preferences."""
    model = load_huggingface(HuggingFace(path=str(checkpoint("llama")), lora=None), torch.device("cpu"), torch.float32)
    model.model.get_output_embeddings().weight.data *= 12
    return model


class Setting:
    """A catalog, prompts, and the log-probability of every title under every prompt by brute force."""

    def __init__(self, policy: Policy, items: int = 200, cases: int = 6) -> None:
        self.policy, self.cases = policy, examples(items, cases)
        self.builder = PromptBuilder(catalog(items), Wording("", "", ""), "compact")
        self.titles = self.builder.catalog.titles
        self.asked = policy.encode_prompts([self.builder.prompt(example.history) for example in self.cases])
        self.sequences = policy.encode_completions([self.builder.respond(title) for title in self.titles])
        parts = [self.sequences[start : start + 10] for start in range(0, items, 10)]
        groups = [PromptGroup(prompt, tuple(part)) for prompt in self.asked for part in parts]
        self.log_probs = torch.cat(score(policy, groups)).double().numpy().reshape(cases, items)

    def rank(
        self, k: int, beams: int = 10, *, exclude_history: bool = False, barred: Any = None, **options: Any
    ) -> RankedItems:
        trie = catalog_trie(self.policy, self.builder)
        own = excluded_items(self.cases, len(self.titles), history=exclude_history, target=False)
        excluded = Excluded.of(own, len(self.titles), barred)
        return rank_items(self.policy, self.asked, excluded, trie, k, beams, **options)


@pytest.fixture(scope="module")
def large(policy: Policy) -> Setting:
    return Setting(policy)


def in_order(scores: np.ndarray, titles: Sequence[str]) -> list[int]:
    """Items by score, ties (shared titles: their scores are the same number) by id."""
    best = {title: max(scores[[i for i, other in enumerate(titles) if other == title]]) for title in titles}
    return sorted(range(len(titles)), key=lambda item: (-best[titles[item]], item))


FEW = np.isin(np.arange(200), RANDOM.permutation(200)[:30], invert=True)
"""Bars all but 30 of 200 items."""


@pytest.mark.parametrize("beams", [1, 10, 1000])
@pytest.mark.parametrize("barred", [None, FEW])
@pytest.mark.parametrize("exclude", [False, True])
def test_lists_equal_scoring_every_title(large: Setting, beams: int, exclude: bool, barred: np.ndarray | None) -> None:
    setting = large
    found = setting.rank(15, beams, exclude_history=exclude, barred=barred, budget=500)
    assert found.certain.all()
    for row, example in enumerate(setting.cases):
        banned = set(example.history) if exclude else set()
        banned |= set() if barred is None else set(np.flatnonzero(barred).tolist())
        expected = [item for item in in_order(setting.log_probs[row], setting.titles) if item not in banned][:15]
        assert found.items[row].tolist() == expected
        assert found.log_probs[row].tolist() == pytest.approx(setting.log_probs[row, expected], abs=1e-4, rel=0)


@pytest.mark.parametrize(("beams", "most"), [(1, 4), (3, 4), (10, 12)])
def test_no_more_hypotheses_are_read_at_once_than_there_are_beams(large: Setting, beams: int, most: int) -> None:
    """However many items are wanted; numbers are rounded up to multiples of 4. The lists are proven all the same."""
    widths: list[int] = []

    def note(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if options["attention_mask"].shape[1] == 1 and options["past_key_values"].get_seq_length() > 0:
            widths.append(options["input_ids"].shape[1])

    handle = large.policy.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        found = large.rank(15, beams)
    finally:
        handle.remove()
    assert max(widths[1:]) <= most  # the first one reads the prompts
    for row in range(len(large.cases)):
        assert found.items[row].tolist() == in_order(large.log_probs[row], large.titles)[:15]
    assert found.certain.all()


def test_all_items_are_ranked_when_all_are_wanted(policy: Policy) -> None:
    setting = Setting(policy, items=20)
    found = setting.rank(20)
    for row in range(len(setting.cases)):
        assert found.items[row].tolist() == in_order(setting.log_probs[row], setting.titles)


def test_of_a_shared_title_only_the_items_of_the_history_are_left_out(policy: Policy) -> None:
    setting = Setting(policy, items=20)
    setting.cases = Split.of([([7, 0], 0), ([7, 8], 0), ([8, 3], 0)])
    setting.asked = setting.asked[:3]
    found = setting.rank(18, exclude_history=True)
    assert [sorted({7, 8} & set(row)) for row in found.items.tolist()] == [[8], [], [7]]
    assert sorted(found.items[0].tolist()) == [item for item in range(20) if item not in (0, 7)]


def test_lists_end_where_no_more_is_left(policy: Policy) -> None:
    """All but items 3, 7, 8 and 9 are barred, and 7 and 8 share a title: beams of one find them all the same."""
    setting = Setting(policy, items=20)
    barred = ~np.isin(np.arange(20), [3, 7, 8, 9])
    setting.cases = Split.of([([4, 5, 4], 0), ([7, 4], 0), ([7, 8], 0), ([3, 7, 8, 9], 0)] + [([], 0)] * 2)
    for beams in (1, 10):
        found = setting.rank(5, beams, exclude_history=True, barred=barred)
        allowed = [[3, 7, 8, 9], [3, 8, 9], [3, 9], [], [3, 7, 8, 9], [3, 7, 8, 9]]
        assert [sorted(item for item in row if item >= 0) for row in found.items.tolist()] == allowed
        assert [(row[::-1] == -1).argmin() if row.max() >= 0 else 5 for row in found.items] == [1, 2, 3, 5, 1, 1]
        assert ((found.items < 0) == (found.log_probs == -np.inf)).all()
        assert found.certain.all()


def d3_by_hand(
    setting: Setting, row: int, logits: Tensor, alpha: float, beams: int, barred: np.ndarray
) -> list[tuple[float, list[int]]]:
    """The pseudo-code of D3 for one prompt: scores and items of the finished beams, best first.

    Its catalog has no barred items.
    """
    root: dict[Any, Any] = {"items": []}
    for item, sequence in enumerate(setting.sequences):
        if barred[item]:
            continue
        node = root
        for token in ["items", *sequence]:
            node = node if token == "items" else node.setdefault(token, {"items": []})
            node["items"].append(item)
    shares = logits.double().softmax(0)
    hypotheses: list[tuple[float, tuple[int, ...], dict[Any, Any]]] = [(0.0, (), root)]
    while any(len(node) > 1 for _, _, node in hypotheses):
        candidates = [one for one in hypotheses if len(one[2]) == 1]
        for total, tokens, node in (one for one in hypotheses if len(one[2]) > 1):
            with torch.no_grad():
                prompt = torch.tensor([[*setting.asked[row], *tokens]])
                log_p = setting.policy.model(input_ids=prompt).logits[0, -1].log_softmax(-1)
            allowed = [token for token in node if token != "items"]
            mass = np.array([shares[node[token]["items"]].sum().item() + 1e-20 for token in allowed])
            for token, share in zip(allowed, mass / mass.sum(), strict=True):
                value = total + alpha * log_p[token].item() + (1 - alpha) * np.log(share)
                candidates.append((value, (*tokens, token), node[token]))
        hypotheses = sorted(candidates, key=lambda one: -one[0])[:beams]
    return [(total, node["items"]) for total, _, node in hypotheses]


def logits_of(setting: Setting, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(len(setting.cases), len(setting.titles), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("beams", [4, 10])
@pytest.mark.parametrize(
    ("alpha", "spread", "bars"),
    [(0.0, 3, False), (0.5, 3, False), (0.8, 3, True), (0.5, 15, False), (0.8, 15, False), (0.5, 3, True)],
)
def test_d3_equals_its_pseudo_code(policy: Policy, beams: int, alpha: float, spread: float, bars: bool) -> None:
    """A spread of 15 nats puts most items far below 1e-16 of the total.

    There the floor of 1e-20 under a mass counts, which barred titles keep: they are asked for at 3 only.
    """
    setting = Setting(policy, items=100, cases=4)
    barred = np.arange(100) % 3 == 0 if bars else np.zeros(100, dtype=bool)
    logits = logits_of(setting, spread).masked_fill(torch.from_numpy(barred), -torch.inf)
    guide = guidance(catalog_trie(policy, setting.builder), lambda numbers: logits[list(numbers)], alpha)
    found = setting.rank(beams, beams, barred=barred, guide=guide, best_first=False, budget=500)
    for row in range(len(setting.cases)):
        expected = d3_by_hand(setting, row, logits[row], alpha, beams, barred)
        items = [item for _, own in expected for item in own][:beams]
        values = [value for value, own in expected for _ in own][:beams]
        assert found.items[row].tolist() == items
        assert found.log_probs[row].tolist() == pytest.approx(values, abs=1e-4)


def test_alpha_1_is_the_model_alone(large: Setting) -> None:
    setting = large
    trie = catalog_trie(setting.policy, setting.builder)
    assert guidance(trie, lambda _: pytest.fail("the assistant must not be asked"), 1.0) is None
    nearly = guidance(trie, lambda numbers: logits_of(setting)[list(numbers)], 1 - 1e-9)
    assert setting.rank(5, guide=nearly).items.tolist() == setting.rank(5).items.tolist()


def test_alpha_0_is_the_assistant_alone(policy: Policy) -> None:
    """The shares along a path multiply to the share of the title: the score is its log-softmax."""
    setting = Setting(policy, items=100)
    logits = logits_of(setting)
    guide = guidance(catalog_trie(policy, setting.builder), lambda numbers: logits[list(numbers)], 0.0)
    found = setting.rank(5, guide=guide)
    shares = logits.double().softmax(1).numpy()
    of_title = np.array([[sum(row[[t == u for u in setting.titles]]) for t in setting.titles] for row in shares])
    for row in range(len(setting.cases)):
        expected = in_order(of_title[row], setting.titles)[:5]
        assert found.items[row].tolist() == expected
        assert found.log_probs[row].tolist() == pytest.approx(np.log(of_title[row, expected]), abs=1e-5, rel=0)


def test_where_the_assistant_excludes_everything_all_continuations_are_equal(policy: Policy) -> None:
    """All mass on item 0: below other beginnings the sums are 0, and their children share them equally."""
    setting = Setting(policy, items=40)
    trie = catalog_trie(policy, setting.builder)
    logits = torch.full((1, 40), -1e4)
    logits[0, 0] = 0.0
    guide = guidance(trie, lambda _: logits, 0.5)
    assert guide is not None
    adjust = guide([0])
    without = [node for node in range(len(trie)) if 0 not in trie.ids_below(node) and trie.branching[node] > 1]
    assert without
    for node in without:
        here = torch.tensor([[node]])
        family = trie.children(here)
        found = adjust(torch.tensor([0]), here, family, torch.zeros(family.nodes.shape))
        assert found[0].tolist() == pytest.approx([0.5 * np.log(1 / found.shape[1])] * found.shape[1])
    root = torch.tensor([[0]])
    family = trie.children(root)
    toward = [0 in trie.ids_below(int(node)) for node in family.nodes[0]]
    found = adjust(torch.tensor([0]), root, family, torch.zeros(family.nodes.shape))
    assert found[0].tolist() == pytest.approx([0.0 if to else 0.5 * np.log(1e-20) for to in toward])


def test_shares_of_improbable_items_are_right() -> None:
    """Item logits 0, -40, -45: the second and the third share a beginning, and 1e-20 is added to each mass."""
    trie = Trie.of([(1, 9), (2, 3, 9), (2, 4, 9)])
    guide = guidance(trie, lambda _: torch.tensor([[0.0, -40.0, -45.0]]), 0.0)
    assert guide is not None
    two = trie.children(torch.tensor([[0]])).nodes[:, 1:]
    both = trie.children(two)
    found = guide([0])(torch.tensor([0]), two, both, torch.zeros(both.nodes.shape))
    masses = np.exp([-40.0, -45.0]) / (1 + np.exp(-40.0) + np.exp(-45.0)) + 1e-20
    np.testing.assert_allclose(found[0].exp().numpy(), masses / masses.sum(), rtol=1e-6)
    assert found[0].exp().tolist() == pytest.approx([0.991, 0.009], abs=5e-4)


def test_no_cases(policy: Policy) -> None:
    setting = Setting(policy, items=20, cases=1)
    setting.cases, setting.asked = Split.of([]), []
    assert setting.rank(5).items.shape == (0, 5)
