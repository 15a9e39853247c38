"""Which genres the fairness metrics look at: a given list, or the most frequent ones of the training set."""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sprec.data.catalog import Catalog
from sprec.data.dataset import Split
from sprec.system.errors import UserError

NO_GENRE = "(no genres listed)"


def count_genres(catalog: Catalog, train: Split) -> Counter[str]:
    """How often each genre occurs among the items of the training examples, histories and targets."""
    seen = np.bincount(np.concatenate([train.items, train.targets]), minlength=len(catalog))
    counts: Counter[str] = Counter()
    for genres, times in zip(catalog.genres, seen.tolist(), strict=True):
        if times:
            counts.update(dict.fromkeys(genres, times))
    return counts


def select_genres(counts: Mapping[str, int], top: int = 10, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """The ``top`` most frequent genres that are not excluded; equal counts in alphabetical order.

    The paper takes the 10 most popular categories of the training set (section on MGU).
    """
    ranked = sorted(counts, key=lambda genre: (-counts[genre], genre))
    return tuple(genre for genre in ranked if genre not in exclude)[:top]


def hierarchical_parents(catalog: Catalog, share: float = 0.99) -> set[str]:
    """Genres that only repeat what finer genres say: parents of a hierarchy, like ``CDs & Vinyl`` among music genres.

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
    """Return a given list of genres, each once.

    Raises:
        UserError: a genre that no item has; the message names those there are.
    """
    known = Counter(genre for kinds in catalog.genres for genre in kinds)
    for genre in genres:
        if genre not in known:
            most = ", ".join(name for name, _ in known.most_common(12))
            raise UserError(f'no item has the genre "{genre}"; ' + (f"genres: {most}" if most else "none are known"))
    return tuple(dict.fromkeys(genres))
