"""The engine's side: each function prepares a part with the given ``work`` and returns one repetition of it.

A ``policy`` is used instead of loading the model of the work, for parts that follow each other in one process.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from sprec.bench.measure import Timed, seconds, useful_flops
from sprec.bench.work import BETA, LR, NEW_TOKENS, Work
from sprec.config import Training
from sprec.data import Catalog, Dataset
from sprec.engine.decode.constrained import Search, best_leaves
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.decode.trie import Trie
from sprec.engine.layout.groups import GroupBatch
from sprec.engine.model.policy import Policy
from sprec.engine.train.scoring import own_columns, score
from sprec.engine.train.stage import Objective, train
from sprec.methods import objectives
from sprec.prompts import PromptBuilder, parse_title
from sprec.recommend.encoders import Encoder
from sprec.recommend.grounding import Grounder

Repetition = Callable[[], Timed]
SFT = Objective(lambda log_probs, _: objectives.sft(log_probs), per_token=True)
BEAMS = 10
NEAREST = 10
ITEMS = 13_000
MILLION = 1_000_000
REPEATS = 5
"""How often an answer occurs on average: BIGRec's 1,000 cases of the paper name 142 to 320 items (DivRatio@1)."""


def _pairs(log_probs: Tensor, batch: GroupBatch) -> Tensor:
    """The mean of the DPO losses of a group's pairs: what a trainer of pairs computes for K pairs."""
    even = torch.zeros_like(log_probs[:, 1:])
    return objectives.importance_weighted_dpo(
        log_probs, batch.extra["reference"], batch.mask, beta=BETA, log_weights=even
    )


def sft(work: Work, policy: Policy | None = None) -> Repetition:
    """One epoch of supervised fine-tuning."""
    policy, texts = policy or work.policy(), work.texts()
    groups = texts.groups(policy, negatives=False)
    initial, settings = policy.state(), Training(lr=LR, batch=work.batch, warmup_steps=0)

    def repetition() -> Timed:
        policy.restore(initial)
        taken, outcome = seconds(
            lambda: train(policy, groups, SFT, settings, seed=0, budget=work.tokens), policy.device
        )
        flops = useful_flops(policy, groups, 3)
        return Timed(taken, sum(g.tokens for g in groups), [s["loss"] for s in outcome.steps], flops=flops)

    return repetition


def dpo(work: Work, policy: Policy | None = None) -> Repetition:
    """Reference log-probabilities, then one epoch of preference training."""
    policy, texts = policy or work.policy(), work.texts()
    groups = texts.groups(policy, negatives=True)
    initial, settings = policy.state(), Training(lr=LR, batch=work.batch, warmup_steps=0)

    def stage() -> list[float]:
        reference = torch.stack(score(policy, groups, budget=work.tokens))
        extra = {"reference": reference}
        outcome = train(policy, groups, Objective(_pairs), settings, seed=0, extra=extra, budget=work.tokens)
        return [step["loss"] for step in outcome.steps]

    def repetition() -> Timed:
        policy.restore(initial)
        taken, losses = seconds(stage, policy.device)
        tokens = sum(2 * len(g.prompt) + len(g.completions[0]) + len(one) for g in groups for one in g.completions[1:])
        prompt, answer = fmean(len(g.prompt) for g in groups), fmean(len(one) for g in groups for one in g.completions)
        own = fmean(own_columns(policy.model, groups)) - fmean(len(g.tree.tokens) for g in groups)
        return Timed(
            taken,
            tokens,
            losses,
            flops=useful_flops(policy, groups, 4),
            prompt_tokens=prompt,
            own_prompt_tokens=own,
            answer_tokens=answer,
        )

    return repetition


def rollout(work: Work, policy: Policy | None = None) -> Repetition:
    """Greedy answers."""
    policy, texts = policy or work.policy(), work.texts()
    asked = policy.encode_prompts(texts.prompts)
    tokens = sum(map(len, asked))

    def repetition() -> Timed:
        taken, found = seconds(lambda: generate(policy, asked, Decoding(max_new_tokens=NEW_TOKENS)), policy.device)
        return Timed(taken, tokens, found=policy.decode([answer[0].tokens for answer in found]))

    return repetition


def beam(work: Work) -> Repetition:
    """The best items of a catalog by constrained beam search, with the trie built before."""
    policy, texts = work.policy(), work.texts()
    asked = policy.encode_prompts(texts.prompts)
    trie = Trie.of(catalog_tokens(work, policy.encode_completions))
    tokens = sum(map(len, asked))

    def repetition() -> Timed:
        search = Search(count=BEAMS, width=BEAMS)
        taken, found = seconds(lambda: best_leaves(policy, asked, trie, search), policy.device)
        return Timed(taken, tokens, found=found.scores[:, 0].tolist())

    return repetition


def catalog_tokens(work: Work, encode: Callable[[list[str]], list[list[int]]]) -> list[list[int]]:
    """Token ids of the distinct answers that name an item, as ``encode`` makes them from titles."""
    dataset = Dataset.load(Path(work.data))
    builder = PromptBuilder(dataset.catalog, dataset.wording)
    return encode([builder.respond(title) for title in dict.fromkeys(dataset.catalog.titles)])


def embeddings(samples: int, items: int = ITEMS, width: int = 384) -> tuple[Tensor, Tensor]:
    """Random embeddings of queries (samples, width), each near one item, and of items (items, width).

    The defaults are the size of the paper's largest catalog and the ``width`` of its sentence encoder.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(items, width, generator=generator)
    return rows[:samples] + 0.5 * torch.randn(samples, width, generator=generator), rows


def repeated(samples: int) -> Tensor:
    """The number of the distinct answer that each of the ``samples`` is: a fifth are distinct, each at least once."""
    generator = torch.Generator().manual_seed(0)
    distinct = max(1, samples // REPEATS)
    again = torch.randint(distinct, (samples - distinct,), generator=generator)
    return torch.cat([torch.arange(distinct), again])[torch.randperm(samples, generator=generator)]


def grounding(work: Work) -> Repetition:
    """The nearest items to answers that all differ."""
    return _grounding(list(range(work.samples)), ITEMS)


def grounding_repeated(work: Work) -> Repetition:
    """The nearest items to answers most of which occur several times, like a recommender's."""
    return _grounding(repeated(work.samples).tolist(), ITEMS)


def million_grounding(work: Work) -> Repetition:
    """The nearest among a million items."""
    return _grounding(list(range(work.samples)), MILLION)


def _grounding(answers: list[int], items: int) -> Repetition:
    grounder, texts = _grounder(max(answers) + 1, items), [f"answer {number}" for number in answers]

    def repetition() -> Timed:
        taken, found = seconds(lambda: grounder.top_k(texts, NEAREST), torch.device("cpu"))
        return Timed(taken, len(texts), found=found[:, 0].tolist())

    return repetition


def _grounder(answers: int, items: int) -> Grounder:
    """A grounder that has embedded the items; its encoder looks an answer's embedding up by its number."""
    queries, rows = embeddings(answers, items)
    ready = {"answer": queries, "item": rows}

    def encode(texts: Sequence[str]) -> Tensor:
        numbers = torch.tensor([int(text.split()[1]) for text in texts])
        return ready[texts[0].split()[0]].index_select(0, numbers)

    grounder = Grounder(Encoder("ready", encode), Catalog.of(f"item {number}" for number in range(items)))
    del ready["item"]  # the grounder holds them
    return grounder


def million_tokens(work: Work) -> Repetition:
    """Tokens of the answers that name a million items."""
    policy, answers = work.policy(), million_answers(work, work.samples)

    def repetition() -> Timed:
        taken, sequences = seconds(lambda: policy.encode_completions(answers), torch.device("cpu"))
        return Timed(taken, sum(map(len, sequences)))

    return repetition


def million_trie(work: Work) -> Repetition:
    """The trie over these tokens."""
    sequences = work.policy().encode_completions(million_answers(work, work.samples))
    tokens = sum(map(len, sequences))

    def repetition() -> Timed:
        taken, trie = seconds(lambda: Trie.of(sequences), torch.device("cpu"))
        return Timed(taken, tokens, found=[len(trie)])

    return repetition


def million_answers(work: Work, items: int) -> list[str]:
    """Distinct answers that name ``items`` synthetic items: three words of the catalog's titles and a number."""
    dataset = Dataset.load(Path(work.data))
    builder = PromptBuilder(dataset.catalog, dataset.wording)
    words = sorted({word for title in dataset.catalog.titles for word in title.split()})
    drawn = np.random.default_rng(0).integers(len(words), size=(items, 3)).tolist()
    return [builder.respond(" ".join([*map(words.__getitem__, row), str(n)])) for n, row in enumerate(drawn)]


def evaluation(work: Work) -> Repetition:
    """The paper's protocol: greedy answers, then the nearest items by the model's own embeddings of titles.

    The catalog's titles are embedded beforehand, as in a run, which does so once.
    """
    policy, texts = work.policy(), work.texts()
    asked = policy.encode_prompts(texts.prompts)
    grounder = Grounder(Encoder("lm", policy.embed), Dataset.load(Path(work.data)).catalog)

    def recommend() -> list[int]:
        answers = generate(policy, asked, Decoding(max_new_tokens=NEW_TOKENS))
        titles = map(parse_title, policy.decode([answer[0].tokens for answer in answers]))
        first: list[int] = grounder.top_k(list(titles), NEAREST)[:, 0].tolist()
        return first

    def repetition() -> Timed:
        taken, found = seconds(recommend, policy.device)
        return Timed(taken, sum(map(len, asked)), found=found)

    return repetition


def iteration(work: Work) -> Repetition:
    """A whole iteration in one process with one model: rollouts, SFT, preference step, evaluation of half as many."""
    cases = replace(work, samples=max(1, work.samples // 2))

    def repetition() -> Timed:
        policy = work.policy()
        stages = (rollout(work, policy), sft(work, policy), dpo(work, policy), rollout(cases, policy), grounding(cases))
        return Timed(*seconds(lambda: sum(stage().tokens for stage in stages), policy.device))

    return repetition
