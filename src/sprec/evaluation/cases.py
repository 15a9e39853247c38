"""Lists, targets and histories, reduced to what the metrics need of every case."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CatalogFacts:
    """What the metrics beyond the paper's need to know about a catalogue.

    Attributes:
        popularity: interactions with each item in the training split, (items,).
        genres: the genres of each item, selected or not.
    """

    popularity: Floats | Ints
    genres: Sequence[Collection[str]]

    @cached_property
    def tail(self) -> Floats:
        """1 for the items of the long tail, 0 for the head: the fewest items with 80% of the interactions, (items,).

        Equally popular items enter the head by id. NaN if there are no interactions.
        """
        order = np.argsort(-self.popularity, kind="stable")
        held = np.cumsum(self.popularity[order])
        if not held[-1:].any():
            return np.full(len(order), np.nan)
        tail = np.ones(len(order))
        tail[order[: 1 + np.argmax(5 * held >= 4 * held[-1])]] = 0
        return tail

    @cached_property
    def information(self) -> Floats:
        """Self-information of each item in bits, with one interaction added to each: -log2 of its share, (items,)."""
        information: Floats = np.log2(self.popularity.sum() + len(self.popularity)) - np.log2(self.popularity + 1)
        return information


@dataclass(frozen=True)
class Cases:
    """What the metrics need to know of n test cases, case by case.

    Attributes:
        ks: the cut-offs.
        ranks: position of the target in its list, 0 = first, (n,); max k if it does not occur.
        known: whether the target is known, (n,).
        lists: the first items of each list, -1 = no item, (n, max k).
        histories: genre mass of each history, (n, |G|).
        recommended: genre mass of the first k items of each list, 0 if the target is unknown, one (n, |G|) array per
            cut-off.
        items: size of the catalogue.
        facts: of the catalogue; None if unknown.
        exact: share of the titles generated for each case that exist, (n,); None if no titles are generated.
    """

    ks: tuple[int, ...]
    ranks: Ints
    known: NDArray[np.bool_]
    lists: Ints
    histories: Floats
    recommended: tuple[Floats, ...]
    items: int
    facts: CatalogFacts | None = None
    exact: Floats | None = None

    def __len__(self) -> int:
        return len(self.ranks)


def accumulate(
    recommendations: ArrayLike,
    targets: ArrayLike,
    history_items: ArrayLike,
    history_offsets: ArrayLike,
    genre_matrix: ArrayLike,
    ks: Sequence[int] = (1, 5),
    facts: CatalogFacts | None = None,
    exact: ArrayLike | None = None,
) -> Cases:
    """Reduce lists, targets and histories to per-case sums.

    ``recommendations``, ``targets``, ``history_items``, ``history_offsets``, ``genre_matrix``, ``ks``, ``facts`` and
    ``exact`` are those of :func:`sprec.evaluation.metrics.evaluate`.

    Raises:
        ValueError: see there.
    """
    recs, wanted = np.asarray(recommendations, np.int64), np.asarray(targets, np.int64)
    items, offsets = np.asarray(history_items, np.int64), np.asarray(history_offsets, np.int64)
    genres = np.asarray(genre_matrix, np.float64)
    shares = None if exact is None else np.asarray(exact, np.float64)
    _check(recs, wanted, items, offsets, len(genres), ks)
    if facts is not None and not len(facts.popularity) == len(facts.genres) == len(genres):
        raise ValueError(
            f"facts of {len(genres)} items are needed, got {len(facts.popularity)} and {len(facts.genres)}"
        )
    if shares is not None and shares.shape != wanted.shape:
        raise ValueError(f"exact must be one share per case, shape {wanted.shape}, got {shares.shape}")
    known, width = wanted >= 0, max(ks)
    recs = recs[:, :width]
    hits = (recs == wanted[:, None]) & known[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1), width)
    owners = np.repeat(np.arange(len(wanted)), np.diff(offsets))
    histories = np.zeros((len(wanted), genres.shape[1]))
    np.add.at(histories, owners, _masses(items, genres))
    masses = np.cumsum(_masses(np.where(known[:, None], recs, -1), genres), axis=1)
    recommended = tuple(masses[:, k - 1] for k in ks)
    return Cases(tuple(ks), ranks, known, recs, histories, recommended, len(genres), facts, shares)


def exact_titles(titles: Iterable[str], catalog: Iterable[str], cases: int) -> Floats:
    """Share of the titles generated for each case that are exactly titles of the catalogue, (cases,).

    Args:
        titles: case by case, equally many for each.
        catalog: the titles that exist.
        cases: the number of cases.

    Raises:
        ValueError: the titles do not divide among the cases.
    """
    known = set(catalog)
    shares: Floats = np.array([title in known for title in titles], np.float64).reshape(cases, -1).mean(axis=1)
    return shares


def _check(recs: Ints, targets: Ints, items: Ints, offsets: Ints, size: int, ks: Sequence[int]) -> None:
    if recs.ndim != 2 or targets.shape != recs.shape[:1] or offsets.shape != (len(targets) + 1,):
        shapes = f"{recs.shape}, {targets.shape}, {offsets.shape}"
        raise ValueError(f"recommendations, targets and history offsets do not fit: shapes {shapes}")
    if not len(targets):
        raise ValueError("there are no cases to evaluate")
    longest = min(recs.shape[1], size)
    if not ks or min(ks) < 1 or max(ks) > longest:
        raise ValueError(f"cut-offs {tuple(ks)} must lie in 1..{longest} (list length, catalogue size)")
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ValueError("history offsets must rise from 0 to the number of history items")
    for ids in (recs, targets, items):
        if ids.size and not -1 <= ids.min() <= ids.max() < size:
            raise ValueError(f"item ids must lie in -1..{size - 1}, got {ids.min()}..{ids.max()}")


def _masses(items: Ints, genre_matrix: Floats) -> Floats:
    """Genre mass of each item id, any shape (*s) -> (*s, |G|); nothing for -1."""
    masses: Floats = np.where(items[..., None] >= 0, genre_matrix[items], 0.0)
    return masses
