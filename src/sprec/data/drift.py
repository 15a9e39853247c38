"""What has changed since a model was trained: a new log compared with its training data."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from sprec.data.dataset import Dataset
from sprec.data.events import Events

UNKNOWN, SHIFT, GROWTH = 0.05, 0.10, 0.25
"""Shares from which on it is time to train again: of interactions with unknown items; of the popularity that has moved,
beyond chance; of new interactions among all that were there before. They are a judgement, not a law."""
TOP = 10
_DRAWS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def drift(dataset: Dataset, events: Events) -> dict[str, Any]:
    """Compare a log with the data of a run, in plain JSON types.

    If both have times and the log reaches back into the time of the data, only later interactions count, and users are
    new if their first interaction is later. Otherwise all of the log counts, and it is unknown who is new.

    Args:
        dataset: the data that the run was trained on.
        events: the new log.

    Returns:
        ``since`` (ISO date, or None), ``interactions`` that count, ``growth`` (their share of those before), ``users``,
        ``new_users`` (or None), ``unknown_items`` and ``unknown`` (the share of the interactions with them), ``shift``
        and ``chance`` (see :func:`popularity_shift`), ``top`` (how many of the ten most popular items are still among
        the ten), and
        ``reasons`` to train again.
    """
    last = dataset.meta["time"]["last"] if isinstance(dataset.meta.get("time"), Mapping) else -1  # in milliseconds
    late = events.time >= (last + 1) * 1_000_000
    reaches_back = last >= 0 and not late.all()
    if not reaches_back:
        late[:] = True
    known = np.array([dataset.catalog.by_source_id.get(str(name), -1) for name in events.items.to_list()])
    items = known[events.item[late]]
    users = np.unique(events.user[late])
    before = np.bincount(np.concatenate([dataset.train.targets, dataset.extra.targets]), minlength=len(dataset.catalog))
    now = np.bincount(items[items >= 0], minlength=len(dataset.catalog))
    shift, chance = popularity_shift(before, now)
    trained = dataset.meta.get("log", {}).get("interactions", int(before.sum()))
    found = {
        "since": (_EPOCH + timedelta(milliseconds=last)).date().isoformat() if reaches_back else None,
        "interactions": int(late.sum()),
        "growth": float(late.sum() / max(1, trained)),
        "users": len(users),
        "new_users": len(np.setdiff1d(users, events.user[~late])) if reaches_back else None,
        "unknown_items": len(np.unique(events.item[late][items < 0])),
        "unknown": float((items < 0).mean()) if len(items) else 0.0,
        "shift": shift,
        "chance": chance,
        "top": len(np.intersect1d(_top(before), _top(now))),
    }
    return found | {"reasons": reasons(found)}


def popularity_shift(before: np.ndarray, now: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """How much of the popularity has moved to other items, and how much could be by chance.

    The shift is the total variation distance of the two shares, ``sum |p - q| / 2``: 0 for equal ones, 1 if no item is
    in both. Two samples of one distribution differ, too: chance is the 95% quantile of the distance when all
    interactions are divided at random between both sides.

    Args:
        before: interactions with each item, (items,).
        now: the same in the new log.
        seed: of the random division.

    Returns:
        Both numbers; 0 if a side has no interactions.
    """
    if not before.sum() or not now.sum():
        return 0.0, 0.0

    def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        moved: np.ndarray = np.abs(one / one.sum(-1, keepdims=True) - other / other.sum(-1, keepdims=True)).sum(-1) / 2
        return moved

    pooled, rng = before + now, np.random.default_rng(seed)
    dealt = rng.multivariate_hypergeometric(pooled, int(now.sum()), size=_DRAWS, method="marginals")
    return float(distance(before, now)), float(np.quantile(distance(pooled - dealt, dealt), 0.95))


def reasons(found: Mapping[str, Any]) -> list[str]:
    """Why to train again, and how; empty if there is no reason.

    Args:
        found: of :func:`drift`.
    """
    why = []
    if found["unknown"] >= UNKNOWN:
        why.append(
            f"{found['unknown']:.0%} of the interactions are with items that the model does not know: sprec items add "
            "lets it recommend them at once"
        )
    if found["shift"] - found["chance"] >= SHIFT:
        why.append(f"{found['shift']:.0%} of the popularity has moved to other items, {found['chance']:.0%} by chance")
    if found["growth"] >= GROWTH:
        why.append(f"the log has grown by {found['growth']:.0%}")
    return why


def table(found: Mapping[str, Any], run: str) -> str:
    """The result of :func:`drift` as text.

    Args:
        found: of :func:`drift`.
        run: the run that the log is compared with.
    """
    since = f"since {found['since']}" if found["since"] else "in all"
    fresh = "unknown: the log does not reach back" if found["new_users"] is None else f"{found['new_users']:,}"
    rows = {
        "interactions": f"{found['interactions']:,} {since}, {found['growth']:.1%} of those before",
        "users": f"{found['users']:,}",
        "new users": fresh,
        "unknown items": f"{found['unknown_items']:,}, with {found['unknown']:.1%} of the interactions",
        "popularity": f"{found['shift']:.1%} has moved to other items; {found['chance']:.1%} would seem to by chance",
        f"top {TOP} items": f"{found['top']} are the same",
    }
    lines = [f"{name:<16}{text}" for name, text in rows.items()]
    if found["reasons"]:
        again = f"train again (sprec run RECIPE --from {run}):"
        return "\n".join([*lines, "", again, *(f"  {why}" for why in found["reasons"])])
    return "\n".join([*lines, "", "no reason to train again"])


def _top(counts: np.ndarray) -> np.ndarray:
    """The most frequent items that occur at all; ties by id."""
    order = np.argsort(-counts, kind="stable")[:TOP]
    return order[counts[order] > 0]
