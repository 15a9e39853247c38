"""Negative samplers, which choose the items of the rejected answers.

Every sampler returns item ids, shape (n, K) for n examples; -1 marks a missing negative. The generator that is passed
in is the only source of randomness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sprec.config import Negatives, Recipe
from sprec.data import Dataset, Split
from sprec.methods.exclusion import Excluded, excluded_items, require_room
from sprec.methods.histories import longest
from sprec.methods.ranking import top_columns
from sprec.methods.sampling import draw
from sprec.system.errors import UserError

T = TypeVar("T")
_BLOCK = 1 << 24  # scores held at once by the semantic sampler: 64 MiB of float32


def uniform(rng: np.random.Generator, split: Split, items: int, k: int, exclude_history: bool = True) -> np.ndarray:
    """Draw ``k`` different items per example, all equally likely; never the target, shape (n, k).

    Args:
        rng: source of randomness.
        split: the examples.
        items: size of the catalog.
        k: negatives per example.
        exclude_history: never draw an item of the example's history.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    return popularity(rng, split, np.ones(items, dtype=np.int64), k, exclude_history)


def popularity(
    rng: np.random.Generator, split: Split, counts: np.ndarray, k: int, exclude_history: bool = True
) -> np.ndarray:
    """Draw ``k`` different items per example with p proportional to their counts, shape (n, k).

    The popularity-aware sampler of RosePO. Items are drawn without replacement. A negative is missing if no item with a
    count is left.

    Args:
        rng: source of randomness.
        split: the examples.
        counts: integer count of each item in the training data, shape (items,).
        k: negatives per example.
        exclude_history: never draw an item of the example's history; the target is never drawn.

    Raises:
        UserError: the catalog has fewer than ``k`` items left for some example.
    """
    excluded = excluded_items(split, len(counts), history=exclude_history, target=True)
    require_room(excluded, len(counts), k)
    return draw(rng, excluded, counts, k)


def semantic(
    split: Split,
    embeddings: np.ndarray,
    k: int = 1,
    *,
    top: int | None = None,
    rng: np.random.Generator | None = None,
    least: bool = False,
) -> np.ndarray:
    """Take the ``k`` items with the highest mean cosine to the items of the history, shape (n, k).

    The semantic-similar sampler of RosePO: neither an item of the history nor the target; ties go to the
    lowest id. An example without history finds all items equally similar.

    Args:
        split: the examples.
        embeddings: text embedding of each item, shape (items, d).
        k: negatives per example.
        top: draw the ``k`` items from the ``top`` most similar ones instead; needs ``rng``.
        rng: source of randomness.
        least: the research code of SPRec: the least similar items, history and target not excluded.

    Raises:
        UserError: the catalog has fewer than ``k`` (or ``top``) items left for some example.
        ValueError: ``top`` without ``rng``, or less than ``k``.
    """
    items, pool = len(embeddings), top or k
    excluded = excluded_items(split, items, history=not least, target=not least)
    require_room(excluded, items, pool)
    unit = _unit_rows(embeddings)
    best = np.empty((len(split), pool), dtype=np.int64)
    step = max(1, _BLOCK // items)
    for start in range(0, len(split), step):
        rows = slice(start, start + step)
        scores = _mean_history(split[rows], unit) @ (-unit.T if least else unit.T)
        best[rows] = top_columns(scores, pool, Excluded.of(excluded[rows], items))
    if top is None:
        return best
    if rng is None or top < k:
        raise ValueError("drawing from the top needs rng and top >= k")
    return rng.permuted(best, axis=1)[:, :k]


def uniform_log_prob(split: Split, items: int, *, exclude_history: bool = True) -> np.ndarray:
    """Log-probability of the negatives of :func:`uniform`, -log(|I| - |H u {y}|), or -log(|I| - 1), (n,).

    If several negatives of an example are drawn without replacement, each has this probability.

    Args:
        split: the examples, with history H and target y.
        items: size of the catalog, |I|.
        exclude_history: whether items of H are never drawn.
    """
    excluded = excluded_items(split, items, history=exclude_history, target=True)
    log_q: np.ndarray = -np.log(items - (excluded < items).sum(1))
    return log_q


def mix(rng: np.random.Generator, own: Sequence[T], uniform: Sequence[T], ratio: float) -> list[T]:
    """Replace the negatives of floor(ratio * n) random examples by uniform ones (Figure 5).

    Args:
        rng: source of randomness.
        own: self-play negatives of each example, n entries of any kind.
        uniform: uniform negatives of each example.
        ratio: share of the examples that are replaced, in [0, 1].
    """
    mixed = list(own)
    for case in rng.permutation(len(mixed))[: int(ratio * len(mixed) + 1e-9)]:  # 0.29 * 100 is 28.999... in floats
        mixed[case] = uniform[case]
    return mixed


def _unit_rows(embeddings: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: np.ndarray = embeddings / np.maximum(norms, np.finfo(embeddings.dtype).tiny)
    return unit


def _mean_history(split: Split, unit: np.ndarray) -> np.ndarray:
    """Mean of the unit embeddings of each history, shape (n, d): times a unit vector, the mean cosine."""
    lengths = np.diff(split.offsets)
    sums = np.zeros((len(split), unit.shape[1]), dtype=unit.dtype)
    np.add.at(sums, np.repeat(np.arange(len(split)), lengths), unit[split.items])
    return np.divide(sums, np.maximum(lengths, 1)[:, None], dtype=unit.dtype)


@dataclass(frozen=True)
class Drawing:
    """The arguments of a sampler.

    Attributes:
        rng: source of randomness.
        examples: the n examples.
        items: size of the catalog.
        settings: those of the negatives.
        counts: gives the count of each item in the training split, shape (items,).
        embeddings: gives the text embedding of each item, shape (items, d).
    """

    rng: np.random.Generator
    examples: Split
    items: int
    settings: Negatives
    counts: Callable[[], np.ndarray]
    embeddings: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Sampler:
    """A row of the table.

    Attributes:
        about: one line for the documentation.
        draw: the negatives, (n, K), -1 where one is missing.
        pool: how many items must be left for an example.
        spares: whether items of the history, and whether the target, are never drawn.
    """

    about: str
    draw: Callable[[Drawing], np.ndarray]
    pool: Callable[[Negatives], int]
    spares: Callable[[Negatives], tuple[bool, bool]]


def _uniform(one: Drawing) -> np.ndarray:
    return uniform(one.rng, one.examples, one.items, one.settings.count, one.settings.exclude_history)


def _popularity(one: Drawing) -> np.ndarray:
    return popularity(one.rng, one.examples, one.counts(), one.settings.count, one.settings.exclude_history)


def _semantic(one: Drawing) -> np.ndarray:
    settings = one.settings
    return semantic(
        one.examples, one.embeddings(), settings.count, top=settings.top, rng=one.rng, least=settings.least_similar
    )


SAMPLERS: dict[str, Sampler] = {
    "uniform": Sampler(
        "items of the catalog, drawn evenly", _uniform, lambda own: own.count, lambda own: (own.exclude_history, True)
    ),
    "popularity": Sampler(
        "drawn as often as they occur in the training data",
        _popularity,
        lambda own: own.count,
        lambda own: (own.exclude_history, True),
    ),
    "semantic": Sampler(
        "items like those of the history (RosePO)",
        _semantic,
        lambda own: own.top or own.count,
        lambda own: (not own.least_similar, not own.least_similar),
    ),
}
"""All samplers of negatives, by name (``negatives.source``; ``self-play`` asks the model instead)."""


def check_source(recipe: Recipe) -> None:
    """Refuse a source of negatives that does not exist.

    Args:
        recipe: all settings.

    Raises:
        ValueError: names those that do.
    """
    source = recipe.negatives.source
    if source != "self-play" and source not in SAMPLERS:
        raise ValueError(f'negatives.source: there is no "{source}"; sources: self-play, {", ".join(SAMPLERS)}')


def check_room(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse more negatives than the catalog has for a training example.

    Args:
        recipe: all settings.
        dataset: the data.

    Raises:
        UserError: names the setting.
    """
    settings, items = recipe.negatives, len(dataset.catalog)
    if not recipe.loop.iterations or not recipe.loop.dpo_step:
        return
    if settings.count >= items:
        raise UserError(f"negatives.count={settings.count}, but the catalog has {items} items; lower it")
    row = SAMPLERS.get(settings.source) or (SAMPLERS["uniform"] if settings.random_ratio else None)
    if row is None or row.pool(settings) + longest(dataset.train) + 1 <= items:  # no example excludes more than that
        return
    history, target = row.spares(settings)
    excluded, wanted = excluded_items(dataset.train, items, history=history, target=target), row.pool(settings)
    try:
        require_room(excluded, items, wanted)
    except UserError as error:
        name = "count" if wanted == settings.count else "top"
        raise UserError(f"negatives.{name}={wanted}: {error}") from error
