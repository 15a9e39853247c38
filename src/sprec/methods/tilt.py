"""The tilt: a fixed correction of a recommender's scores that bounds the exposure of every item and keeps the genres.

Of all policies pi that show no item too often and keep the genre shares of the histories, it is the nearest to the
recommender p:

    min E_x KL(pi(.|x) || p(.|x))   with   E_x e_y(x) <= c for all y
                                    and    sum_y E_x e_y(x) (G_yg - t_g sum_h G_yh) = 0 for all g

where e_y(x) is the exposure of y in the list of x: half of it if y is first, plus a tenth if it is among the first
five. By the Lagrangian log pi is the sum of log p and one number per item,

    log pi(y|x) = log p(y|x) - lambda_y + mu . (G_y - t sum_h G_yh) + const,   lambda >= 0

(the form of arXiv 2012.11635). So two vectors are learned once, on users who are neither trained nor tested on, without
their targets. Users are then served independently: no list depends on other users'.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sprec.methods.ranking import top_columns
from sprec.system.errors import UserError

LIST = 5
"""The number of positions whose exposure counts."""
CAPS = (None, 0.03, 0.02, 0.01, 0.005, 0.0025)
"""Default bounds c of an item's exposure, from none to the strictest."""
LEAST_ACCURACY = 0.97
"""Share of the validation NDCG@5 that a tilt must keep."""
_EXPOSURE = np.array([0.6, 0.1, 0.1, 0.1, 0.1])  # half for the first place, half for the five alike
_HALVINGS = 3
_STEPS, _ROWS, _RATE, _DECAY, _SLOWER = 150, 400, 25.0, 0.001, 40  # of the subgradient method


@dataclass(frozen=True)
class Scored:
    """The K best items of n examples by a recommender, with their scores.

    Attributes:
        items: item ids, best first, (n, K), all different in a row; padded with -1.
        scores: log-probabilities up to a constant per row (n, K); -inf for items that must not be recommended.
    """

    items: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def best(cls, scores: np.ndarray, k: int) -> "Scored":
        """The ``k`` best by ``scores`` of the whole catalog (n, items), all if it has fewer; ties by item id."""
        items = top_columns(scores, min(k, scores.shape[1]))
        return cls(items, np.take_along_axis(scores, items, axis=1))

    def take(self, rows: np.ndarray) -> "Scored":
        """The examples ``rows``, in this order."""
        return Scored(self.items[rows], self.scores[rows])

    def __add__(self, other: "Scored") -> "Scored":
        return Scored(np.concatenate([self.items, other.items]), np.concatenate([self.scores, other.scores]))

    def with_offset(self, offset: np.ndarray, k: int) -> "Scored":
        """The ``k`` best items of each example after adding the ``offset`` of its item (items,) to each score.

        Ties keep the order of the candidates.
        """
        scores = self.scores + offset[self.items]
        places = top_columns(scores, k)
        return Scored(*(np.take_along_axis(values, places, axis=1) for values in (self.items, scores)))

    def top(self, k: int, offset: np.ndarray | None = None) -> np.ndarray:
        """The ``k`` best items, (n, k), with an ``offset`` as in :meth:`with_offset`."""
        return self.items[:, :k] if offset is None else self.with_offset(offset, k).items


@dataclass(frozen=True)
class Tilt:
    """The correction of the scores.

    Attributes:
        penalty: lambda, each item's penalty for too much exposure (items,); 0 or more.
        favour: mu, each genre's bonus (|G|,).
        shares: t, the genre shares of the histories (|G|,).
    """

    penalty: np.ndarray
    favour: np.ndarray
    shares: np.ndarray

    @classmethod
    def none(cls, items: int, shares: np.ndarray) -> "Tilt":
        """The tilt that changes nothing, for ``items`` items and genres with these ``shares``."""
        return cls(np.zeros(items), np.zeros(len(shares)), shares)

    def offset(self, genres: np.ndarray) -> np.ndarray:
        """The number to add for each item, (items,); ``genres`` is the genre matrix of the catalog (items, |G|)."""
        offset: np.ndarray = balance(genres, self.shares) @ self.favour - self.penalty
        return offset


def balance(genres: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """G_yg - t_g sum_h G_yh, (items, |G|): how an item moves the shares from t (``shares``); G is ``genres``."""
    moved: np.ndarray = genres - shares * genres.sum(1, keepdims=True)
    return moved


def genre_shares(items: np.ndarray, genres: np.ndarray) -> np.ndarray:
    """Shares of the ``genres`` (items, |G|) among ``items`` of histories (any shape), (|G|,); 0 if none has a genre."""
    mass = genres[items.ravel()].sum(0)
    shares: np.ndarray = mass / (mass.sum() or 1.0)
    return shares


def exposure(lists: np.ndarray, items: int) -> np.ndarray:
    """Mean exposure of each of ``items`` items in ``lists`` (n, 5), (items,); sums to 1, or less if lists have -1."""
    there = lists >= 0
    weight = np.broadcast_to(_EXPOSURE, lists.shape)[there]
    return np.bincount(lists[there], weight, minlength=items) / len(lists)


def require_feasible(cap: float, items: int) -> None:
    """Refuse a bound ``cap`` (c) that leaves hardly any freedom: at c |I| = 1 all ``items`` get the same exposure.

    Raises:
        UserError: c |I| is below 2.
    """
    if cap * items < 2:
        raise UserError(
            f"a catalog of {items} items cannot bound the exposure of each by {cap:g}: that bound needs "
            f"{int(np.ceil(2 / cap))} items; raise recommend.caps"
        )


def fit_tilt(users: Scored, genres: np.ndarray, shares: np.ndarray, cap: float | None, seed: int = 0) -> Tilt:
    """Learn lambda and mu by averaged subgradients of the dual, on hard lists.

    A step draws 400 users, makes their lists with the current tilt, and moves against the violations:

        lambda <- max(0, lambda + 25 s (e - c)) where e > 0, lambda decays by .001 s elsewhere;
        mu <- mu - s (genre shares of the exposure - t),   s = 1/sqrt(1 + step/40)

    The result is the mean of the second half of 150 steps.

    Args:
        users: candidates of users who are neither trained nor tested on.
        genres: genre matrix of the catalog (items, |G|); |G| may be 0.
        shares: t, from histories of such users (:func:`genre_shares`).
        cap: c, the largest exposure of an item; None keeps lambda at 0.
        seed: of the draws.

    Raises:
        UserError: the bound is infeasible (:func:`require_feasible`), there are no users, or they have fewer than five
            candidates each.
    """
    items, rng = len(genres), np.random.default_rng(seed)
    if cap is not None:
        require_feasible(cap, items)
    if not len(users) or users.items.shape[1] < LIST:
        raise UserError(f"a tilt is learned on users who are not tested, with {LIST} candidates each; there are none")
    moved = balance(genres, shares)
    penalty, favour = np.zeros(items), np.zeros(len(shares))
    kept_penalty, kept_favour = np.zeros(items), np.zeros(len(shares))
    for step in range(_STEPS):
        size = 1 / np.sqrt(1 + step / _SLOWER)
        rows = rng.permutation(len(users))[:_ROWS]
        shown = exposure(users.take(rows).top(LIST, moved @ favour - penalty), items)
        if cap is not None:
            change = np.where(shown > 0, _RATE * (shown - cap), -_DECAY)
            penalty = np.maximum(0, penalty + size * change)
        favour = favour - size * _violation(shown, genres, moved)
        if step >= _STEPS // 2:
            kept_penalty, kept_favour = kept_penalty + penalty, kept_favour + favour
    last = _STEPS - _STEPS // 2
    return Tilt(kept_penalty / last, kept_favour / last, shares)


def _violation(shown: np.ndarray, genres: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Genre shares of an exposure minus t, (|G|,)."""
    violation: np.ndarray = shown @ moved / ((shown @ genres.sum(1)) or 1.0)
    return violation


@dataclass(frozen=True)
class Choice:
    """A tilt, and how it was chosen.

    Attributes:
        tilt: the mean of the tilts of all halves.
        cap: the chosen c; None if exposure is not bounded.
        kept: for each bound tried, the NDCG@5 of validation users on whom it was not learned, divided by the NDCG@5
            without a tilt; NaN if that is 0.
    """

    tilt: Tilt
    cap: float | None
    kept: dict[float | None, float]


def choose_tilt(
    valid: Scored,
    targets: np.ndarray,
    held: Scored,
    genres: np.ndarray,
    shares: np.ndarray,
    caps: Sequence[float | None] = CAPS,
    seed: int = 0,
) -> Choice:
    """The tilt with the smallest bound that keeps 97% of the NDCG@5 of validation users.

    The validation users are halved at random three times. For each bound a tilt is learned on one half and ``held``,
    and measured on the other half; then the halves swap. If no bound keeps enough, not even None (genres only), nothing
    is tilted.

    Args:
        valid: candidates of the validation users.
        targets: their targets (n,).
        held: candidates of further users who are neither trained nor tested on, possibly none.
        genres: genre matrix of the catalog (items, |G|).
        shares: t, from histories of users who are not tested.
        caps: the bounds to try, except those infeasible for the catalog.
        seed: of the halves and of the draws.
    """
    items = len(genres)
    possible = [cap for cap in caps if cap is None or cap * items >= 2]
    plain = len(valid) * _HALVINGS * ndcg(valid.top(LIST), targets)
    kept: dict[float | None, float] = {}
    tilts: dict[float | None, Tilt] = {}
    for cap in possible:
        learned, found = [], 0.0
        for own, other in _halves(len(valid), seed):
            tilt = fit_tilt(valid.take(own) + held, genres, shares, cap, seed)
            learned.append(tilt)
            found += len(other) * ndcg(valid.take(other).top(LIST, tilt.offset(genres)), targets[other])
        kept[cap] = found / plain if plain else np.nan
        tilts[cap] = _mean(learned)
    enough = [cap for cap in possible if kept[cap] >= LEAST_ACCURACY]
    if not enough:
        return Choice(Tilt.none(items, shares), None, kept)
    best = min(enough, key=lambda cap: np.inf if cap is None else cap)
    return Choice(tilts[best], best, kept)


def _halves(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn on and rows to measure: each of three random halvings, both ways."""
    rng = np.random.default_rng(seed)
    for _ in range(_HALVINGS):
        order = rng.permutation(count)
        one, other = np.sort(order[::2]), np.sort(order[1::2])
        yield one, other
        yield other, one


def _mean(tilts: Sequence[Tilt]) -> Tilt:
    """The mean of penalties and favours; the shares are equal."""
    penalty, favour = (np.mean([getattr(tilt, name) for tilt in tilts], axis=0) for name in ("penalty", "favour"))
    return Tilt(penalty, favour, tilts[0].shares)


def ndcg(lists: np.ndarray, targets: np.ndarray) -> float:
    """Mean of 1/log2(position + 2) of the ``targets`` in ``lists`` (n, k), from 0; 0 for targets not in their list."""
    gain = 1 / np.log2(np.arange(lists.shape[1]) + 2)
    return float(((lists == targets[:, None]) * gain).sum(1).mean())


def marginal_offset(log_probs: np.ndarray, strength: float) -> np.ndarray:
    """-tau log of the mean p(y|x) over users who are not tested: an offset per item, (items,).

    At tau = 1 items are ranked by their pointwise mutual information with the history, log(p(y|x) / p(y)).

    Args:
        log_probs: normalised over the catalog (n, items).
        strength: tau.
    """
    top = log_probs.max(0)
    marginal = top + np.log(np.exp(log_probs - top).mean(0))
    offset: np.ndarray = -strength * marginal
    return offset
