"""Which genres the fairness metrics look at: a given list, or the most frequent ones of the training set."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sprec.data.catalog import Catalog
from sprec.data.dataset import Split
from sprec.errors import UserError

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
