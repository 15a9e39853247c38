"""A dataset without a download: real film titles, simulated users.

Nobody really watched these films. The users are drawn so that the bias which self-play removes can develop: a few hits
and one franchise are watched by everyone, and users who saw one part of a franchise often continue with it.
"""

import csv
from dataclasses import dataclass
from importlib import resources

import numpy as np

from sprec.data.about import Wording
from sprec.data.catalog import Catalog
from sprec.data.dataset import Dataset, Split
from sprec.data.genres import count_genres, select_genres
from sprec.system.errors import UserError

FAME_STEP = 0.9
"""How much the log-weight of a film grows per grade of fame (1 to 5, in films.csv)."""
TASTE = 3.0
"""Weight of the share of a film's genres that a user likes."""
SAME_FRANCHISE = 2.0
"""Added for films of the franchise that the user saw last."""
NEXT_PART = 2.5
"""Added for the part that follows the one seen last, on top of that."""
FAN = 1.5
"""Added for films of the franchise that the user is a fan of."""
FAVOURITE = "Star Wars"
"""Every third user is a fan of this one."""


@dataclass(frozen=True)
class _Films:
    catalog: Catalog
    fame: np.ndarray  # (n,)
    franchise: np.ndarray  # (n,), -1 for none
    names: tuple[str, ...]  # of the franchises


def demo(
    seed: int = 0,
    *,
    train: int = 2000,
    valid: int = 200,
    test: int = 400,
    extra: int = 2000,
    history: int = 10,
) -> Dataset:
    """Simulate one example per user: ``history`` films and the one that came next, no film twice.

    The next film is drawn from a softmax over unseen films of: fame, the user's taste in genres, the
    franchise seen last (its next part most of all), the franchise the user is a fan of.

    Args:
        seed: the same seed gives the same dataset.
        train: examples in this split, and so on.
        valid: see ``train``.
        test: see ``train``.
        extra: see ``train``.
        history: films per history.

    Raises:
        UserError: an impossible size.
    """
    films = _read_films()
    if history < 1 or history >= len(films.catalog):
        raise UserError(f"history must be between 1 and {len(films.catalog) - 1}, got {history}")
    sizes = {"extra": extra, "train": train, "valid": valid, "test": test}
    if min(sizes.values()) < 0 or not (train and test):
        raise UserError(f"train and test need at least one example and no size may be negative, got {sizes}")
    watched = _watch(films, sum(sizes.values()), history + 1, np.random.default_rng(seed))
    ends = np.cumsum(list(sizes.values()))
    splits = {
        name: _split(watched[end - size : end]) for (name, size), end in zip(sizes.items(), ends.tolist(), strict=True)
    }
    return Dataset(
        name="demo (simulated users)",
        catalog=films.catalog,
        splits=splits,
        genres=select_genres(count_genres(films.catalog, splits["train"])),
        wording=Wording(
            instruction="Given a list of movies the user has watched, recommend a new movie to the user.",
            prefix="The user has watched the following movies before: ",
            suffix="\n",
            noun="movies",
        ),
        meta={"simulated": True, "source": {"format": "demo", "seed": seed}, "options": {"history": history}},
    )


def _read_films() -> _Films:
    with resources.files("sprec.data").joinpath("films.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    names = tuple(dict.fromkeys(row["franchise"] for row in rows if row["franchise"]))
    number = {name: index for index, name in enumerate(names)} | {"": -1}
    return _Films(
        Catalog.of([row["title"] for row in rows], [row["genres"].split("|") for row in rows]),
        np.array([int(row["fame"]) for row in rows]),
        np.array([number[row["franchise"]] for row in rows]),
        names,
    )


def _watch(films: _Films, users: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Films that each user watches, in order, shape (users, steps)."""
    likes = _likes(films, users, rng)
    watched = np.empty((users, steps), dtype=np.int64)
    for step in range(steps):
        logits = likes + (_pull(films, watched[:, step - 1]) if step else 0)
        watched[:, step] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        likes[np.arange(users), watched[:, step]] = -np.inf
    return watched


def _likes(films: _Films, users: int, rng: np.random.Generator) -> np.ndarray:
    """The log-weights of the films that do not change while a user watches, shape (users, n)."""
    kinds = sorted({genre for genres in films.catalog.genres for genre in genres})
    taste = rng.dirichlet(np.full(len(kinds), 0.3), size=users)
    fits = (taste / taste.max(axis=1, keepdims=True)) @ films.catalog.genre_matrix(kinds).T
    fan_of = rng.integers(len(films.names), size=users)
    fan_of[rng.random(users) < 1 / 3] = films.names.index(FAVOURITE)
    logits: np.ndarray = FAME_STEP * films.fame + TASTE * fits + FAN * (films.franchise == fan_of[:, None])
    return logits


def _pull(films: _Films, last: np.ndarray) -> np.ndarray:
    """The effect of the film seen last on the log-weights, shape (users, n)."""
    same = (films.franchise == films.franchise[last][:, None]) & (films.franchise[last] >= 0)[:, None]
    follows = same & (np.arange(len(films.fame)) == last[:, None] + 1)
    pull: np.ndarray = SAME_FRANCHISE * same + NEXT_PART * follows
    return pull


def _split(watched: np.ndarray) -> Split:
    users, steps = watched.shape
    return Split(watched[:, :-1].ravel(), np.arange(users + 1) * (steps - 1), watched[:, -1])
