"""From examples to prompt groups: items become text, and text becomes tokens.

A ``policy`` tokenises what a ``builder`` writes about ``examples``; a prompt over ``limit`` tokens loses its oldest
items. The ``dataset`` is that of the run. With a ``folder`` the token ids are stored there, and found there the next
time (:class:`~sprec.engine.columns.Column`), by whatever stage; without one they are in memory.
"""

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np

from sprec.data import Dataset, Example, Split
from sprec.data.stats import overlapping
from sprec.engine.columns import Column
from sprec.engine.layout.groups import Groups
from sprec.engine.model.policy import Policy
from sprec.prompts import PromptBuilder, Purpose
from sprec.runs.streams import Stream, rng_of
from sprec.system import storage
from sprec.system.errors import UserError

ANSWER_ROOM = 128
"""Positions of the model that are reserved for the answer; the longest titles of the paper's data need about 100."""


def pretraining_examples(dataset: Dataset) -> Split:
    """Training rows, and those extra rows that share no run of items with a validation or test row.

    Extra and validation rows are windows of the same users: in the paper's Goodreads files 96% of the validation rows
    overlap with an extra row, and a validation loss would measure what pre-training has memorised.
    """
    fresh = np.flatnonzero(~overlapping(dataset.extra, dataset.valid + dataset.test))
    return dataset.train + dataset.extra.take(fresh)


def pretraining_sample(dataset: Dataset, samples: int | None, seed: int) -> Split:
    """The data of language modelling before the SFT: all :func:`pretraining_examples`, or some drawn by seed.

    Args:
        dataset: of the examples.
        samples: how many; None takes all, in the dataset's order.
        seed: of the draw.
    """
    examples = pretraining_examples(dataset)
    if samples is None:
        return examples
    return examples.take(rng_of(seed, Stream.DRAW).permutation(len(examples))[:samples])


def drawn_rows(
    dataset: Dataset, samples: int, seed: int, iteration: int = 0, *, among: np.ndarray | None = None
) -> np.ndarray:
    """Rows of the training split that an iteration (0: the first SFT) trains on, (min(samples, rows),).

    Args:
        dataset: of the split.
        samples: maximum number of rows.
        seed: of the run.
        iteration: each one has its own draw.
        among: the rows to draw from; by default all.
    """
    rows = np.arange(len(dataset.train)) if among is None else among
    return rng_of(seed, Stream.DRAW, iteration).permutation(rows)[:samples]


def held_examples(dataset: Dataset) -> Split:
    """The extra rows that :func:`pretraining_examples` leaves out and that do not overlap with a test row.

    They are used neither for training nor for testing: like the validation rows they show how a recommender treats
    unknown users.
    """
    near = overlapping(dataset.extra, dataset.valid) & ~overlapping(dataset.extra, dataset.test)
    return dataset.extra.take(np.flatnonzero(near))


def recent_histories(dataset: Dataset) -> np.ndarray:
    """Items of the histories of validation rows and of the extra rows that overlap with no test row, shape (m,).

    Genre shares drift: those of the training rows differ by .005 to .010 per genre from those of the validation rows.
    """
    apart = dataset.extra.take(np.flatnonzero(~overlapping(dataset.extra, dataset.test)))
    return np.concatenate([dataset.valid.items, apart.items])


def prompts(
    policy: Policy,
    builder: PromptBuilder,
    examples: Sequence[Example],
    purpose: Purpose,
    limit: int,
    folder: Path | None = None,
) -> Sequence[list[int]]:
    """Token ids of the prompts for a ``purpose``; a prompt over ``limit`` tokens loses its oldest items one by one.

    Raises:
        UserError: the model has fewer positions than a prompt and an answer need.
    """
    limit = min(limit, policy.context - ANSWER_ROOM)
    if limit < 1:
        raise UserError(f"the model has {policy.context} positions; an answer alone may need {ANSWER_ROOM}")

    def encode(rows: slice) -> list[list[int]]:
        return _encoded_prompts(policy, builder, [list(one.history) for one in examples[rows]], purpose, limit)

    if folder is None:
        return encode(slice(None))
    style = (builder.style, builder.history, purpose if builder.style == "official" else "any purpose", limit)
    texts = (asdict(builder.wording), _hash_of_texts(builder.catalog.titles), _hash_of_histories(examples))
    key = storage.digest(["prompts", policy.tokenizer_content, *style, *texts])
    return Column(folder / key[:24], len(examples), encode, "tokenise")


def _encoded_prompts(
    policy: Policy, builder: PromptBuilder, histories: list[list[int]], purpose: Purpose, limit: int
) -> list[list[int]]:
    encoded = policy.encode_prompts([builder.prompt(history, purpose) for history in histories])
    for row in (row for row, tokens in enumerate(encoded) if len(tokens) > limit):
        history = histories[row][-builder.history :]
        while len(encoded[row]) > limit and len(history) > 1:
            history = history[1:]
            encoded[row] = policy.encode_prompts([builder.prompt(history, purpose)])[0]
        encoded[row] = encoded[row][-limit:]
    return encoded


def _answers(policy: Policy, texts: Sequence[str], folder: Path | None, *, end: bool = True) -> Sequence[list[int]]:
    """Token ids of different answers, with the end token behind unless ``end`` is off."""

    def encode(rows: slice) -> list[list[int]]:
        return policy.encode_completions(texts[rows], end=end)

    if folder is None:
        return encode(slice(None))
    key = storage.digest(["answers", policy.tokenizer_content, _hash_of_texts(texts), end])
    return Column(folder / key[:24], len(texts), encode, "tokenise answers")


def _hash_of_texts(texts: Sequence[str]) -> str:
    content = sha256()
    for text in texts:
        content.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def _split(examples: Sequence[Example]) -> Split:
    return examples if isinstance(examples, Split) else Split.of(examples)


def _hash_of_histories(examples: Sequence[Example]) -> str:
    split = _split(examples)
    content = sha256(np.ascontiguousarray(split.offsets).data)
    content.update(np.ascontiguousarray(split.items).data)
    return content.hexdigest()


def sft_groups(
    policy: Policy, builder: PromptBuilder, examples: Sequence[Example], limit: int, folder: Path | None = None
) -> Groups:
    """One completion per prompt: the target's title. In the official style the loss covers the prompt, too."""
    asked = prompts(policy, builder, examples, "sft", limit, folder)
    targets, which = np.unique(_split(examples).targets, return_inverse=True)
    texts = [builder.response(target, "sft") for target in targets.tolist()]
    answers = _answers(policy, texts, folder, end=builder.ends_with_eos("sft"))
    return Groups(asked, answers, which.astype(np.int32)[:, None], whole=builder.trains_prompt)


def preference_groups(
    policy: Policy,
    builder: PromptBuilder,
    examples: Sequence[Example],
    rejected: Sequence[Sequence[str]],
    limit: int,
    folder: Path | None = None,
) -> Groups:
    """The completions are the target's title, then the ``rejected`` titles of each example."""
    asked = prompts(policy, builder, examples, "prefer", limit, folder)
    numbers: dict[str, int] = {}
    which = np.full((len(examples), 1 + max(map(len, rejected), default=0)), -1, dtype=np.int32)
    for row, (example, titles) in enumerate(zip(examples, rejected, strict=True)):
        texts = [builder.response(example.target, "prefer"), *map(builder.reject, titles)]
        which[row, : len(texts)] = [numbers.setdefault(text, len(numbers)) for text in texts]
    return Groups(asked, _answers(policy, list(numbers), folder), which)


def sequence_groups(
    policy: Policy, builder: PromptBuilder, examples: Sequence[Example], limit: int, folder: Path | None = None
) -> Groups:
    """Prompts and responses as one text, for language modelling in the pre-training of a backbone."""
    groups = sft_groups(policy, builder, examples, limit, folder)
    return Groups(groups.prompts, groups.answers, groups.which, whole=True)
