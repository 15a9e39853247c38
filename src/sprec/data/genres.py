"""The genres of the fairness metrics: a given list, or the most frequent ones of the training set."""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sprec.data.catalog import Catalog
from sprec.data.dataset import Split
from sprec.system.errors import UserError

NO_GENRE = "(no genres listed)"


def count_genres(catalog: Catalog, train: Split) -> Counter[str]:
    """How often each genre of a ``catalog`` occurs among the items of ``train``, histories and targets."""
    seen = np.bincount(np.concatenate([train.items, train.targets]), minlength=len(catalog))
    counts: Counter[str] = Counter()
    for genres, times in zip(catalog.genres, seen.tolist(), strict=True):
        if times:
            counts.update(dict.fromkeys(genres, times))
    return counts


def select_genres(counts: Mapping[str, int], top: int = 10, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """The ``top`` most frequent genres by ``counts``, those in ``exclude`` left out; ties in alphabetical order.

    The paper takes the 10 most popular categories of the training set (section on MGU).
    """
    ranked = sorted(counts, key=lambda genre: (-counts[genre], genre))
    return tuple(genre for genre in ranked if genre not in exclude)[:top]


def hierarchical_parents(catalog: Catalog, share: float = 0.99) -> set[str]:
    """Genres of a ``catalog`` that contain finer ones: parents in a hierarchy, like ``CDs & Vinyl`` of music genres.

    A genre is inside a more frequent one if at least ``share`` of its items have both; a genre is a parent if at least
    ``share`` of its own items also have a genre inside it. (The paper removes "hierarchically related" categories
    without giving a rule.)
    """
    kinds = Counter(frozenset(genres) for genres in catalog.genres)
    counts: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for genres, items in kinds.items():
        counts.update(dict.fromkeys(genres, items))
        both.update(dict.fromkeys(itertools.permutations(genres, 2), items))
    inside: dict[str, set[str]] = {genre: set() for genre in counts}
    for (outer, inner), items in both.items():
        if counts[inner] < counts[outer] and items >= share * counts[inner]:
            inside[outer].add(inner)
    refined: Counter[str] = Counter()
    for genres, items in kinds.items():
        refined.update({genre: items for genre in genres if genres & inside[genre]})
    return {genre for genre, items in refined.items() if items >= share * counts[genre]}


def check_genres(catalog: Catalog, genres: Sequence[str]) -> tuple[str, ...]:
    """Return a list of ``genres`` without repetitions.

    Raises:
        UserError: no item of the ``catalog`` has one of them; the message names those that exist.
    """
    known = Counter(genre for kinds in catalog.genres for genre in kinds)
    for genre in genres:
        if genre not in known:
            most = ", ".join(name for name, _ in known.most_common(12))
            raise UserError(f'no item has the genre "{genre}"; ' + (f"genres: {most}" if most else "none are known"))
    return tuple(dict.fromkeys(genres))
