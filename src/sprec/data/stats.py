"""Statistics of a dataset: the paper's Table 1, counts, popularity skew, genre coverage, leakage, warnings."""

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sprec.data.catalog import Catalog
from sprec.data.dataset import SPLITS, Dataset, Split

_EPOCH = datetime(1970, 1, 1)
_PLAUSIBLE = "1990"
_TIED, _SORTED = 0.01, 0.9
"""Shares of ties, and of sorted neighbours among them, from which their order is worth mentioning."""
RUN = 4
"""A test row leaks if it shares this many consecutive items with a training row."""


def stats(dataset: Dataset) -> dict[str, Any]:
    """Describe a ``dataset`` in plain JSON types.

    ``table1`` are the columns of the paper's Table 1: of the whole log if the importer saw one (``meta["log"]``), else
    of the sequences, whose items count once per sequence. ``late_training_targets`` are those later than the first test
    target; None if the importer saw no times.
    """
    splits = {name: dataset.splits.get(name, Split.of([])) for name in SPLITS}
    sequences = sum(len(split) for split in splits.values())
    interactions = sum(len(split.items) + len(split) for split in splits.values())
    log = dataset.meta.get("log", {})
    return {
        "name": dataset.name,
        "hash": dataset.hash,
        "simulated": bool(dataset.meta.get("simulated", False)),
        "table1": {
            "items": log.get("items", len(dataset.catalog)),
            "interactions": log.get("interactions", interactions),
            "sequences": log.get("sequences", sequences),
        },
        "log": dict(log),
        "time": when(dataset),
        "catalog": len(dataset.catalog),
        "splits": {name: len(split) for name, split in splits.items()},
        "history_length": _lengths(dataset.train),
        "popularity": popularity(dataset.train.targets, len(dataset.catalog)),
        "genres": genre_coverage(dataset.catalog, dataset.genres, dataset.train),
        "leakage": leakage(dataset.train, dataset.test),
        "late_training_targets": dataset.meta.get("late_training_targets"),
        "warnings": dict(dataset.warnings),
    }


def when(dataset: Dataset) -> dict[str, Any] | None:
    """The times of a ``dataset``'s log; None if the importer saw none.

    ``first`` and ``last`` (ISO, UTC), how many interactions are ``tied`` (share user and time with another one), their
    ``share``, and the share of neighbours among them that are ``ascending`` (in the order of their ids).
    """
    times, log = dataset.meta.get("time"), dataset.meta.get("log", {})
    if not isinstance(times, dict) or not log:
        return None
    first, last = (_EPOCH + timedelta(milliseconds=times[name]) for name in ("first", "last"))
    known = {"first": first.isoformat(), "last": last.isoformat()}
    if "tied" not in times:  # a dataset of sprec 0.1
        return known
    share = times["tied"] / max(1, log["interactions"])
    return known | {"tied": times["tied"], "share": share, "ascending": times.get("ascending", 0)}


def period(times: dict[str, Any]) -> str:
    """The ``times`` of :func:`when` in a line."""
    text = f"{times['first'][:10]} to {times['last'][:10]}"
    if times.get("tied"):
        text += f"; {times['share']:.1%} of the interactions have the same time as another one of the same user"
    return text


def doubts(times: dict[str, Any]) -> list[str]:
    """What is odd about the ``times`` of :func:`when`, a line each."""
    found = []
    if times["first"] < _PLAUSIBLE:
        check = "is this the time column, and are its numbers Unix times?"
        found += [f"the first interaction is dated {times['first'][:10]}, before {_PLAUSIBLE}; {check}"]
    if times.get("share", 0) > _TIED and times["ascending"] > _SORTED:
        found += [
            "interactions at the same time are sorted by item, which a model can learn; --ties shuffle avoids that"
        ]
    return found


def _lengths(split: Split) -> dict[str, float]:
    lengths = np.diff(split.offsets)
    if not len(lengths):
        return {"min": 0, "mean": 0.0, "max": 0}
    return {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}


def popularity(targets: np.ndarray, n: int) -> dict[str, float]:
    """How unevenly ``targets`` are distributed over the ``n`` items of a catalog.

    Returns:
        ``top3`` and ``top1pct``: share of the targets that are one of the 3, or of the 1% (at least one), most frequent
        items; ``gini`` over all items, those without a target included (0: even, towards 1: all on one item);
        ``distinct``: items that are a target. Shares are nan without targets.
    """
    counts = np.sort(np.bincount(targets, minlength=n))
    total = int(counts.sum())
    if not total:
        return {"top3": math.nan, "top1pct": math.nan, "gini": math.nan, "distinct": 0}
    ranks = np.arange(1, n + 1)
    return {
        "top3": float(counts[-3:].sum() / total),
        "top1pct": float(counts[-max(1, n // 100) :].sum() / total),
        "gini": float(2 * (ranks * counts).sum() / (n * total) - (n + 1) / n),
        "distinct": int((counts > 0).sum()),
    }


def genre_coverage(catalog: Catalog, genres: tuple[str, ...], train: Split) -> dict[str, Any]:
    """Share of the items of a ``catalog`` and of the targets of ``train`` with a selected genre, one of ``genres``.

    Also each genre's share of the targets. An item with several selected genres is shared between them, as for GH and
    GP of the metric MGU.
    """
    matrix = catalog.genre_matrix(genres)
    covered = matrix.sum(axis=1) > 0
    mass = matrix[train.targets].sum(axis=0)
    shares = mass / mass.sum() if mass.sum() else mass
    return {
        "items": float(covered.mean()) if len(covered) else math.nan,
        "targets": float(covered[train.targets].mean()) if len(train) else math.nan,
        "shares": dict(zip(genres, shares.tolist(), strict=True)),
    }


def leakage(train: Split, test: Split, run: int = RUN) -> dict[str, float]:
    """Rows of ``test`` (history and target) that share ``run`` consecutive items with a row of ``train``.

    Returns:
        ``run``, the number of such ``rows`` and their ``share`` of the test rows.
    """
    rows = int(overlapping(test, train, run).sum())
    return {"run": run, "rows": rows, "share": rows / len(test) if len(test) else math.nan}


def overlapping(split: Split, other: Split, run: int = RUN) -> np.ndarray:
    """Which rows of ``split`` share ``run`` consecutive items (history, target) with a row of ``other``, (n,) bool."""
    known, _ = _runs(other, run)
    asked, row = _runs(split, run)
    _, codes = np.unique(np.concatenate([known, asked]), axis=0, return_inverse=True)
    shared = np.isin(codes[len(known) :], codes[: len(known)])
    return np.bincount(row[shared], minlength=len(split)) > 0


def _runs(split: Split, length: int) -> tuple[np.ndarray, np.ndarray]:
    """All runs of ``length`` items within a row, shape (m, length), and their rows, shape (m,)."""
    items = np.insert(split.items, split.offsets[1:], split.targets)
    rows = np.repeat(np.arange(len(split)), np.diff(split.offsets) + 1)
    if len(items) < length:
        return np.empty((0, length), dtype=np.int64), np.empty(0, dtype=np.int64)
    whole = rows[: len(rows) - length + 1] == rows[length - 1 :]
    return sliding_window_view(items, length)[whole], rows[: len(rows) - length + 1][whole]


def table(facts: dict[str, Any]) -> str:
    """Render ``facts``, the result of :func:`stats`, as text."""
    lines = [facts["name"] + ("  (simulated users, not real behaviour)" if facts["simulated"] else ""), ""]
    lines += [*_columns(facts["table1"]), "", *_columns(facts["splits"]), ""]
    lengths, popular, leak = facts["history_length"], facts["popularity"], facts["leakage"]
    lines += [
        f"history      {lengths['min']} to {lengths['max']} items, mean {lengths['mean']:.2f}",
        f"popularity   top 3 items {popular['top3']:.1%} of the training targets, "
        f"top 1% {popular['top1pct']:.1%}, Gini {popular['gini']:.3f}, "
        f"{popular['distinct']:,} of {facts['catalog']:,} items are a target",
        f"leakage      {leak['share']:.1%} of the test rows share {leak['run']} items in a row with a training row",
    ]
    late = facts["late_training_targets"]
    if late is not None:
        lines += [f"order        {late:,} training targets are later than the first test target"]
    if facts["time"]:
        lines += [f"time         {period(facts['time'])}", *(f"  {doubt}" for doubt in doubts(facts["time"]))]
    lines += _genre_lines(facts["genres"])
    if facts["log"]:
        lines += ["log          " + ", ".join(f"{name} {value:,}" for name, value in _numbers(facts["log"]))]
    lines += [f"hash         {facts['hash'][:16]}" if facts["hash"] else "hash         none: not on disk"]
    lines += ["warnings     " + ("none" if not facts["warnings"] else "")]
    lines += [f"  {count:>10,}  {name.replace('_', ' ')}" for name, count in facts["warnings"].items()]
    return "\n".join(lines)


def _columns(counts: dict[str, int]) -> list[str]:
    width = {name: max(len(name), len(f"{count:,}")) + 2 for name, count in counts.items()}
    return [
        "".join(f"{name:>{width[name]}}" for name in counts),
        "".join(f"{count:>{width[name]},}" for name, count in counts.items()),
    ]


def _genre_lines(genres: dict[str, Any]) -> list[str]:
    if not genres["shares"]:
        return ["genres       none: the fairness metrics cannot be computed"]
    return [
        f"genres       {len(genres['shares'])} selected; {genres['items']:.1%} of the items and "
        f"{genres['targets']:.1%} of the training targets have one; shares of the targets:",
        *(f"  {share:>10.1%}  {genre}" for genre, share in genres["shares"].items()),
    ]


def _numbers(values: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, value) for name, value in values.items() if isinstance(value, int)]
