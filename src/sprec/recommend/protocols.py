"""The protocols, from a model to top-k items, as rows of one table. Naming one imports no model library.

A new protocol is a new row of :data:`PROTOCOLS`, with what it reads and needs: checks, keys of stages, labels,
``--protocols`` and the documentation derive from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sprec.config import Recipe, Recommend
from sprec.data import Split
from sprec.methods.exclusion import Excluded, excluded_items, with_twins

if TYPE_CHECKING:
    from sprec.engine.decode.trie import Trie
    from sprec.engine.model.policy import Policy
    from sprec.methods.knn import ItemKnn
    from sprec.methods.sasrec import SASRec
    from sprec.recommend.exact import RankedItems
    from sprec.recommend.grounding import Grounder


@dataclass(frozen=True)
class Recommendations:
    """Top-k lists.

    Attributes:
        items: item ids, best first, shape (n, k); padded with -1.
        titles: the title that the model generated for each case, empty for protocols that choose items directly.
        log_probs: log-probability of each item's title under the model, in nats, shape (n, k), padded with -inf; None
            for protocols without them.
        samples: all sampled titles, case by case, for protocols with several per case.
        proven: whether it is proven that no better list exists, shape (n,); None for protocols without a search.
        scores: what the items are ranked by, higher is better, shape (n, k), padded with -inf; None for protocols
            without scores.
        popular: which lists are by popularity because there is no history, shape (n,), bool; None if not checked.
    """

    items: np.ndarray
    titles: list[str] = field(default_factory=list)
    log_probs: np.ndarray | None = None
    samples: list[str] = field(default_factory=list)
    proven: np.ndarray | None = None
    scores: np.ndarray | None = None
    popular: np.ndarray | None = None


class Need(Flag):
    """What a protocol needs besides the examples."""

    NOTHING = 0
    MODEL = auto()
    """A language model; rows without it rank items, and their runs train none."""
    GROUNDER = auto()
    """Text encoder and embeddings of the titles."""
    BEAMS = auto()
    """A search in the trie of the titles, with ``recommend.beams``."""
    SASREC = auto()
    KNN = auto()
    """Neighbours of the items, with the settings under ``knn``."""
    COUNTS = auto()
    """How often each item occurs in the training data."""
    RANDOM = auto()
    """Random draws: lists depend on the seed."""


@dataclass(frozen=True)
class Context:
    """The input of a protocol for n examples. Callables make what they return on the first call.

    Attributes:
        examples: the cases.
        settings: those of recommending.
        items: size of the catalog.
        seed: of the random draws.
        budget: tokens per batch.
        policy: the model.
        asked: token ids of the prompts, n of them.
        trie: of the catalog's titles.
        grounder: titles to items.
        sasrec: the sequential recommender of the run.
        knn: neighbours of the items in the training data.
        counts: occurrences of each item in the training data, shape (items,).
        twins: each item that shares its title, to all items with this title.
        journal: a folder that keeps finished batches, for protocols that generate titles.
        barred: items that no list may contain, shape (items,), bool; None for none.
        blocked: further items that each list leaves out, padded with the size of the catalog, shape (n, width).
    """

    examples: Split
    settings: Recommend
    items: int
    seed: int
    budget: int
    policy: Callable[[], "Policy"]
    asked: Callable[[], Sequence[Sequence[int]]]
    trie: Callable[[], "Trie"]
    grounder: Callable[[], "Grounder"]
    sasrec: Callable[[], "SASRec"]
    knn: Callable[[], "ItemKnn"]
    counts: Callable[[], np.ndarray]
    twins: Mapping[int, Sequence[int]] = field(default_factory=dict)
    journal: Path | None = None
    barred: np.ndarray | None = None
    blocked: np.ndarray | None = None

    @cached_property
    def excluded(self) -> Excluded:
        """The items that each list leaves out.

        A title in the history excludes every item with this title, as users could not tell them apart.
        """
        seen = excluded_items(self.examples, self.items, history=self.settings.exclude_history, target=False)
        own = with_twins(seen, self.items, self.twins)
        if self.blocked is not None:
            own = np.concatenate([own, self.blocked], axis=1)
        return Excluded.of(own, self.items, self.barred)


@dataclass(frozen=True)
class Protocol:
    """A row of the table.

    Attributes:
        about: one line for the documentation.
        words: its name in tables and figures.
        reads: the settings under ``recommend`` that it reads, besides :data:`ALWAYS_READ`.
        needs: what it needs besides the examples.
        lists: makes the lists.
        tilted: whether its scores are log-probabilities up to a constant of each case, to which a tilt can be added.
    """

    about: str
    words: str
    reads: tuple[str, ...]
    needs: Need
    lists: Callable[[Context], Recommendations]
    tilted: bool = False


ALWAYS_READ = ("protocol", "top_k", "exclude_history")
"""The settings under ``recommend`` that every protocol reads."""


def _by_title(context: Context) -> Recommendations:
    from sprec.recommend.by_title import recommend_by_title

    return recommend_by_title(context)


def _consensus(context: Context) -> Recommendations:
    from sprec.recommend.consensus import recommend_by_consensus

    return recommend_by_consensus(context)


def _exact(context: Context) -> Recommendations:
    from sprec.recommend.exact import rank_items

    settings = context.settings
    found = rank_items(
        context.policy(),
        context.asked(),
        context.excluded,
        context.trie(),
        settings.top_k,
        settings.beams,
        budget=context.budget,
    )
    return Recommendations(found.items, log_probs=found.log_probs, proven=found.certain, scores=found.log_probs)


def _guided(context: Context, k: int) -> "RankedItems":
    import torch

    from sprec.methods.d3 import guidance
    from sprec.recommend.exact import rank_items

    settings, trie, examples = context.settings, context.trie(), context.examples
    guide = None
    if Need.SASREC in needs_of(settings):
        assistant = context.sasrec()
        barred = torch.from_numpy(context.excluded.barred)

        def logits(numbers: Sequence[int]) -> torch.Tensor:
            return assistant.scores(examples.take(list(numbers))).masked_fill(barred, -torch.inf)

        guide = guidance(trie, logits, settings.alpha)
    return rank_items(
        context.policy(),
        context.asked(),
        context.excluded,
        trie,
        k,
        settings.beams,
        guide=guide,
        best_first=False,
        budget=context.budget,
    )


def _d3(context: Context) -> Recommendations:
    found = _guided(context, context.settings.top_k)
    return Recommendations(found.items, scores=found.log_probs)  # not log-probabilities


def _d3_grounded(context: Context) -> Recommendations:
    grounder = context.grounder()
    best = _guided(context, 1).items[:, 0].tolist()
    titles = [grounder.title_of(item) if item >= 0 else "" for item in best]
    items, distances = grounder.nearest(titles, context.settings.top_k, context.excluded)
    return Recommendations(items, titles, scores=-distances)


def _sasrec(context: Context) -> Recommendations:
    sasrec, examples = context.sasrec(), context.examples
    items = sasrec.top_k(examples, context.settings.top_k, context.excluded)
    logits = sasrec.scores_of(examples, np.maximum(items, 0)).numpy()
    return Recommendations(items, scores=np.where(items < 0, -np.inf, logits))


def _knn(context: Context) -> Recommendations:
    items, log_probs = context.knn().top_k(context.examples, context.settings.top_k, context.excluded)
    return Recommendations(items, scores=log_probs)


def _scores(context: Context) -> Recommendations:
    from sprec.recommend.experts import recommend_by_experts

    return recommend_by_experts(context)


def _popularity(context: Context) -> Recommendations:
    from sprec.methods.trivial import popular_top_k

    counts = context.counts()
    items = popular_top_k(counts, context.excluded, context.settings.top_k)
    return Recommendations(items, scores=np.where(items < 0, -np.inf, counts[items]))


def _random(context: Context) -> Recommendations:
    from sprec.methods.trivial import random_top_k

    rng = np.random.default_rng(context.seed)
    return Recommendations(random_top_k(rng, context.excluded, context.settings.top_k))


PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(
        "a greedy title, then the items with the nearest titles",
        "paper's protocol",
        ("encoder", "max_new_tokens"),
        Need.MODEL | Need.GROUNDER,
        _by_title,
    ),
    "exact": Protocol(
        "the titles of the catalog that are most probable under the model",
        "exact",
        ("beams",),
        Need.MODEL | Need.BEAMS,
        _exact,
        tilted=True,
    ),
    "consensus": Protocol(
        "votes of sampled titles",
        "consensus",
        ("encoder", "max_new_tokens", "samples", "temperature"),
        Need.MODEL | Need.GROUNDER | Need.RANDOM,
        _consensus,
    ),
    "d3": Protocol(
        "beams guided by SASRec", "SASRec-guided beams", ("beams", "alpha"), Need.MODEL | Need.BEAMS | Need.SASREC, _d3
    ),
    "d3-grounded": Protocol(
        "the best title of the guided beams, then the items with the nearest titles",
        "SASRec-guided beams, grounded",
        ("encoder", "beams", "alpha"),
        Need.MODEL | Need.GROUNDER | Need.BEAMS | Need.SASREC,
        _d3_grounded,
    ),
    "sasrec": Protocol("the highest logits of SASRec", "ranks items", (), Need.SASREC, _sasrec, tilted=True),
    "knn": Protocol("what followed the items of the history elsewhere", "ranks items", (), Need.KNN, _knn, tilted=True),
    "scores": Protocol(
        "the product of the probabilities that several recommenders give",
        "experts",
        ("experts", "weights", "beams"),
        Need.MODEL | Need.BEAMS | Need.SASREC | Need.KNN,
        _scores,
        tilted=True,
    ),
    "popularity": Protocol("the most frequent items, the same for all", "ranks items", (), Need.COUNTS, _popularity),
    "random": Protocol("any items", "ranks items", (), Need.RANDOM, _random),
}
"""All ways to recommend, by name (``recommend.protocol``)."""


_OF_EXPERT = {"lm": Need.MODEL | Need.BEAMS, "knn": Need.KNN, "sasrec": Need.SASREC}


def check_protocol(recipe: Recipe) -> None:
    """Refuse a protocol that does not exist.

    Args:
        recipe: all settings.

    Raises:
        ValueError: names those that do.
    """
    name = recipe.recommend.protocol
    if name not in PROTOCOLS:
        raise ValueError(f'recommend.protocol: there is no "{name}"; protocols: {", ".join(PROTOCOLS)}')


def needs_of(settings: Recommend) -> Need:
    """What the protocol of these settings needs.

    SASRec is not needed if it has no weight in D3 (``alpha`` is 1), nor an expert that is not named.

    Args:
        settings: those of recommending.
    """
    row = PROTOCOLS[settings.protocol]
    if _unguided(settings):
        return row.needs & ~Need.SASREC
    if "experts" in row.reads:
        return row.needs & reduce(or_, (_OF_EXPERT[name] for name in settings.experts))
    return row.needs


def is_read(name: str, settings: Recommend) -> bool:
    """Whether the protocol of these settings reads a setting that can affect lists and metrics.

    Args:
        name: dotted, such as ``recommend.beams``.
        settings: those of recommending.
    """
    row, needs = PROTOCOLS[settings.protocol], needs_of(settings)
    if name.startswith("recommend."):
        of_tilt = (("tilt", "caps", "candidates") if settings.tilt else ("tilt",)) if row.tilted else ()
        return name.removeprefix("recommend.") in (*ALWAYS_READ, *row.reads, *of_tilt)
    if name.startswith("knn."):
        return Need.KNN in needs
    if name == "seed":
        return Need.RANDOM in needs
    return name in ("cases", "split") or Need.MODEL in needs


def is_tilted(settings: Recommend) -> bool:
    """Whether lists are made with a tilt.

    Args:
        settings: those of recommending.
    """
    return settings.tilt and PROTOCOLS[settings.protocol].tilted


def wants_weights(settings: Recommend) -> bool:
    """Whether the weights of experts are chosen before anything is recommended.

    Args:
        settings: those of recommending.
    """
    return "weights" in PROTOCOLS[settings.protocol].reads and settings.weights is None


def words_of(settings: Recommend) -> str:
    """The name of the protocol of these settings in tables and figures.

    Args:
        settings: those of recommending.
    """
    words = PROTOCOLS[settings.protocol].words
    return words.replace("SASRec-guided", "unguided") if _unguided(settings) else words


def of_language_models() -> tuple[str, ...]:
    """The protocols that need a language model and no other recommender."""
    return tuple(name for name, row in PROTOCOLS.items() if Need.MODEL in row.needs and Need.SASREC not in row.needs)


def _unguided(settings: Recommend) -> bool:
    return "alpha" in PROTOCOLS[settings.protocol].reads and settings.alpha == 1
