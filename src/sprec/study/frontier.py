"""The frontier: strong recommenders, products of experts and the tilt against the paper's systems, on the same cases.

It uses scores (:mod:`sprec.study.scores`), and keeps the lists of each row as a record, from which the tables can be
made again without scores. ``dataset`` is the data, ``out`` the folder of scores and records.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sprec.data import Dataset
from sprec.data.stats import overlapping
from sprec.evaluation import (
    PAPER_METRICS,
    Bootstrap,
    bootstrap,
    compare,
    direction,
)
from sprec.methods.experts import choose_weights, of_titles, product
from sprec.methods.tilt import LIST, Scored, choose_tilt, genre_shares
from sprec.runs.cases import cases_of
from sprec.runs.examples import pretraining_examples, recent_histories
from sprec.study.plan import FLOOR, plan
from sprec.study.records import find, key_of
from sprec.study.scores import DEPTH, PARTS, TRIES, Scores, scores_of
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE, read_parquet, write_parquet
from sprec.system.progress import bar, say

EXPERTS: Mapping[str, tuple[str, ...]] = {"kNN x SASRec": ("kNN", "SASRec, sampled softmax")}
"""Products of experts: row to the rows that it multiplies."""
STRONG = ("kNN", "SASRec, softmax", "SASRec, sampled softmax")
"""The baselines that a method must match, without a tilt."""
OURS = "kNN, tilted"
"""The method that is compared with all others, chosen before any test case was looked at (research/log.md)."""
SEEDS = (0, 1, 2)
KINDS = ("plain", "tilted", "capacity")
"""The kinds of lists that are kept of each row."""
_PARTS_OF_WEIGHTS = 5
_CAPACITY = 0.0025

Lists = Mapping[int, np.ndarray]
"""Seed to the lists of the test cases (n, k)."""


@dataclass(frozen=True)
class Row:
    """A recommender of the table: its lists by seed, and what was chosen on validation rows.

    The lists are ``plain``, ``tilted``, or with the limits of :func:`capacity`.
    """

    plain: Lists
    tilted: Lists
    capacity: Lists
    chosen: Mapping[str, Any]


def rows_of(dataset: Dataset, out: Path, rows: Sequence[str], seeds: Sequence[int] = SEEDS) -> dict[str, Row]:
    """The rows of a dataset for ``seeds``, from their records if there are any, else from their scores."""
    found = {}
    for row in rows:
        file = out / "lists" / dataset.name / f"{row.replace(', ', '-').replace(' ', '-').lower()}.parquet"
        key = storage.digest([dataset.hash, row, list(seeds), repr([TRIES[name] for name in EXPERTS.get(row, (row,))])])
        found[row] = _read(file, key) or _make(dataset, out, row, seeds, file, key)
    return found


def _read(file: Path, key: str) -> Row | None:
    if not file.is_file():
        return None
    try:
        frame = read_parquet(file)
        about = json.loads(frame["about"][0])
        lists: dict[str, dict[int, np.ndarray]] = {kind: {} for kind in KINDS}
        for kind, seed, own in frame.select("kind", "seed", "lists").rows():
            lists[kind][seed] = np.array(own)
        return Row(**lists, chosen=about["chosen"]) if about["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, *UNREADABLE) as error:
        raise UserError(
            f"{file} is not a record of the frontier; remove it, and the same command makes it again"
        ) from error


def _make(dataset: Dataset, out: Path, row: str, seeds: Sequence[int], file: Path, key: str) -> Row:
    genres = dataset.catalog.genre_matrix(dataset.genres)
    shares = genre_shares(recent_histories(dataset), genres)
    lists: dict[str, dict[int, np.ndarray]] = {kind: {} for kind in KINDS}
    chosen: dict[str, Any] = {}
    for seed in seeds:
        scores, weights = _scores(row, dataset, seed, out)
        choice = choose_tilt(scores.valid, dataset.valid.targets, scores.held, genres, shares, seed=seed)
        lists["plain"][seed] = scores.test.top(LIST)
        lists["tilted"][seed] = scores.test.top(LIST, choice.tilt.offset(genres))
        lists["capacity"][seed] = capacity(scores.test, len(genres), _CAPACITY)
        kept = {"none" if cap is None else f"{cap:g}": round(share, 4) for cap, share in choice.kept.items()}
        chosen[str(seed)] = {"weights": weights, "cap": choice.cap, "kept": kept}
        say(f"{dataset.name}, {row}, seed {seed}: {chosen[str(seed)]}")
    _write(file, json.dumps({"key": key, "row": row, "chosen": chosen}), lists)
    return Row(**lists, chosen=chosen)


def _write(file: Path, about: str, lists: Mapping[str, Lists]) -> None:
    """A row for each kind and seed; the first one also says what the record is of."""
    rows = [{"kind": kind, "seed": seed, "lists": own.tolist()} for kind, each in lists.items()
            for seed, own in each.items()]  # fmt: skip
    schema: Mapping[str, Any] = {"kind": pl.String, "seed": pl.Int64, "lists": pl.List(pl.List(pl.Int32))}
    frame = pl.DataFrame(rows, schema=schema).with_columns(about=pl.Series([about, *[None] * (len(rows) - 1)]))
    with storage.writing(file, "the same command goes on"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing_file(file) as scratch:
            write_parquet(frame, scratch)


def _scores(row: str, dataset: Dataset, seed: int, out: Path) -> tuple[Scores, dict[str, float]]:
    """The scores of a row; for a product of experts with the best weights on the validation rows.

    The best have the largest NDCG@5 times DivRatio@1.
    """
    if row not in EXPERTS:
        return scores_of(row, dataset, seed, out), {}
    names = EXPERTS[row]
    each = [scores_of(name, dataset, seed, out) for name in names]
    block = [_dense(own.valid, dataset) for own in each], dataset.valid.targets
    weights = choose_weights([block], len(names), _PARTS_OF_WEIGHTS, diverse=True)
    parts = [
        Scored.best(product([_dense(getattr(own, part), dataset) for own in each], weights), DEPTH) for part in PARTS
    ]
    return Scores(*parts), dict(zip(names, weights, strict=True))


def _dense(scores: Scored, dataset: Dataset) -> np.ndarray:
    """Log-probabilities of the whole catalog from those of the best items."""
    return of_titles(scores.items, scores.scores, np.ones(len(dataset.catalog), dtype=np.int64))


def capacity(scores: Scored, items: int, cap: float) -> np.ndarray:
    """Lists in which no item is in more than 5 c n of n lists, made for one user after the other, (n, 5).

    This is only a reference: each list depends on the users before. Small catalogs get twice the minimum limit.

    Args:
        scores: of the best items.
        items: size of the catalog.
        cap: c.
    """
    left = np.full(items, int(np.ceil(LIST * len(scores) * max(cap, 2 / items))))
    lists = np.empty((len(scores), LIST), dtype=np.int64)
    for row, candidates in enumerate(scores.items):
        free = candidates[left[candidates] > 0][:LIST]
        if len(free) < LIST:  # all candidates are used up: take any item
            free = np.concatenate([free, np.setdiff1d(np.flatnonzero(left > 0), candidates)])[:LIST]
        left[free] -= 1
        lists[row] = free
    return lists


def systems(dataset: Dataset, records: Path) -> dict[str, dict[int, np.ndarray]]:
    """The lists by seed of the paper's systems by all their protocols, Random and Popularity, from Table 2's records.

    Args:
        dataset: the data.
        records: folder with the records.

    Raises:
        UserError: there are none.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    for job in plan("table2", [dataset], SEEDS):
        record = find(job.record(records), key_of(job.recipe, dataset))
        if record is not None:
            name = job.variant if job.variant in FLOOR else f"{job.variant}, {job.how}"
            found.setdefault(name, {})[job.seed] = record.lists
    if not found:
        raise UserError(f"{records} has no records of Table 2 on {dataset.name}: sprec reproduce table2 makes them")
    return found


def measured(lists: Lists, dataset: Dataset, rows: np.ndarray) -> Bootstrap:
    """The bootstrap of ``lists`` over the test cases ``rows``, all seeds together."""
    split = dataset.test.take(rows)
    cases = [cases_of(own[rows], split, dataset, (1, LIST)) for own in lists.values()]
    return bootstrap(cases, training_seeds=list(lists), metrics=PAPER_METRICS)


@dataclass(frozen=True)
class Frontier:
    """All rows of a dataset, resampled over the same test cases.

    Attributes:
        ours: the new rows, plain and tilted.
        theirs: the paper's systems, by all their protocols.
        floor: Random and Popularity.
        reference: the true targets, and lists with capacities.
    """

    ours: Mapping[str, Bootstrap]
    theirs: Mapping[str, Bootstrap]
    floor: Mapping[str, Bootstrap]
    reference: Mapping[str, Bootstrap]

    @property
    def all(self) -> dict[str, Bootstrap]:
        """All rows by name."""
        return {**self.theirs, **self.ours, **self.floor, **self.reference}


def fresh_rows(dataset: Dataset) -> np.ndarray:
    """The test rows of a dataset that share no four consecutive items with a training row, (m,)."""
    rows: np.ndarray = np.flatnonzero(~overlapping(dataset.test, pretraining_examples(dataset)))
    return rows


def frontier(
    dataset: Dataset, out: Path, records: Path, rows: Sequence[str], only: np.ndarray | None = None
) -> Frontier:
    """Measure the paper's systems and some rows.

    Args:
        rows: keys of :data:`~sprec.study.scores.TRIES` and :data:`EXPERTS`.
        dataset: its test rows are the cases, up to the shortest lists.
        out: folder of scores and records.
        records: folder with the records of Table 2.
        only: the test rows to measure (m,), such as :func:`fresh_rows`; by default all.

    Raises:
        UserError: none of these rows is in all lists, or there are no records.
    """
    found = rows_of(dataset, out, rows)
    lists = {f"{name}{kind}": own for name, row in found.items() for kind, own in
             (("", row.plain), (", tilted", row.tilted))}  # fmt: skip
    theirs = systems(dataset, records)
    count = min(len(own) for seeds in (*lists.values(), *theirs.values()) for own in seeds.values())
    cases = np.arange(count) if only is None else only[only < count]  # runs evaluate the first of a split
    if not len(cases):
        raise UserError(f"no case of {dataset.name} is in all of the lists")
    base = OURS.removesuffix(", tilted")
    reference: dict[str, Lists] = {
        "true targets": {0: dataset.test.targets[:, None]},
        f"{base}, capacity over the batch": found[base].capacity,
    }
    with bar(f"resample {dataset.name}", len(lists) + len(theirs) + len(reference)) as progress:

        def resampled(group: Mapping[str, Lists]) -> dict[str, Bootstrap]:
            done = {}
            for name, own in group.items():
                done[name] = measured(own, dataset, cases)
                progress.advance(1)
            return done

        paper = {name: own for name, own in theirs.items() if name not in FLOOR}
        floor = {name: own for name, own in theirs.items() if name in FLOOR}
        return Frontier(resampled(lists), resampled(paper), resampled(floor), resampled(reference))


def cells(found: Mapping[str, Frontier]) -> dict[str, dict[str, dict[str, Any]]]:
    """The chosen method against the best of the paper's systems, by dataset (the keys of ``found``) and metric.

    ``difference`` and ``interval`` are paired, over the seeds that both have; ``strong`` is the best of :data:`STRONG`.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, own in found.items():
        for metric in PAPER_METRICS:
            other, strong = (
                best(own.theirs, metric),
                best({row: own.ours[row] for row in STRONG if row in own.ours}, metric),
            )
            apart = compare(own.ours[OURS], own.theirs[other])[metric]
            table.setdefault(name, {})[metric] = {
                "ours": own.ours[OURS].interval(metric).value,
                "best_other": own.theirs[other].interval(metric).value,
                "other": other,
                "difference": apart.value,
                "interval": [apart.low, apart.high],
                "strong": own.ours[strong].interval(metric).value,
            }
    return table


def best(group: Mapping[str, Bootstrap], metric: str) -> str:
    """The row of a ``group`` with the best mean of a ``metric``."""
    return max(group, key=lambda name: direction(metric) * group[name].interval(metric).value)
