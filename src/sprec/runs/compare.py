"""Finished runs side by side, with intervals: which differences are real."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from sprec import storage
from sprec.data import Catalog, Dataset
from sprec.errors import UserError
from sprec.evaluation import (
    Bootstrap,
    Cases,
    Table,
    accumulate,
    bootstrap,
    evaluate,
    table_of_differences,
    table_of_methods,
)
from sprec.runs.pipeline import load_results
from sprec.runs.recommender import read_run
from sprec.runs.stages import RECOMMENDATIONS


def compare_runs(runs: Sequence[Path], resamples: int = 2000) -> tuple[Table, Table]:
    """Pool runs by method (seeds of one method together) and compare them over the same test cases.

    The SFT model that the runs start from is compared too, as ``bigrec``; it is the reference of the differences.

    Returns:
        The metrics with 95% intervals, and the paired differences.

    Raises:
        UserError: a run is not finished, or runs differ in data or cases.
    """
    cases: dict[str, list[Cases]] = {}
    hashes = set()
    for run in runs:
        hashes.add(_test_of(run))
        for index in dict.fromkeys((0, len(load_results(run)) - 1)):
            name, own = cases_of(run, index)
            if not any(np.array_equal(own.lists, other.lists) for other in cases.get(name, [])):
                cases.setdefault(name, []).append(own)
    if len(hashes) > 1:
        raise UserError("the runs differ in data, split or number of cases; compare runs over the same test cases")
    sampled: dict[str, Bootstrap] = {name: bootstrap(own, resamples) for name, own in cases.items()}
    reference = "bigrec" if "bigrec" in sampled else next(iter(sampled))
    seeds = ", ".join(f"{name} {len(own)}" for name, own in cases.items())
    return (
        table_of_methods(sampled, f"mean and 95% interval (different runs: {seeds})"),
        table_of_differences(sampled, reference, f"difference to {reference}"),
    )


def _test_of(run: Path) -> tuple[str, int, str]:
    recipe, dataset = read_run(run)
    return dataset.hash, recipe.cases, recipe.split


def cases_of(run: Path, index: int) -> tuple[str, Cases]:
    """The method and the measured cases of one evaluation of a run, by its place in ``metrics.json``.

    Raises:
        UserError: the run is not finished.
    """
    recipe, dataset = read_run(run)
    result = load_results(run)[index]
    folders = sorted((run / "stages").glob(f"*-evaluate-{result.stage}-{result.iteration}"))
    if not folders:
        raise UserError(f"{run} has no evaluation of {result.stage} {result.iteration}; run it again")
    problem = storage.verify(folders[-1])
    if problem:
        raise UserError(f"{problem}; the same sprec run command repairs it")
    frame = pl.read_parquet(folders[-1] / RECOMMENDATIONS)
    test = dataset.splits[recipe.split][: recipe.cases]
    genres = dataset.catalog.genre_matrix(dataset.genres)
    lists = np.array(frame["items"].to_list())
    ks = tuple(k for k in (1, 5) if k <= lists.shape[1])
    return result.method, accumulate(lists, test.targets, test.items, test.offsets, genres, ks)


def score_lists(file: Path, dataset: Dataset, split: str = "test") -> dict[str, float]:
    """The metrics of the lists in a file (:func:`read_lists`), over the cases that it covers.

    Raises:
        UserError: the file does not fit the split, or there is no such split.
    """
    if split not in dataset.splits or not len(dataset.splits[split]):
        raise UserError(f"{dataset.name} has no examples in a split {split!r}")
    catalog, rows = dataset.catalog, dataset.splits[split]
    cases, lists = read_lists(file, catalog, len(rows))
    chosen = rows.take(cases)
    ks = tuple(k for k in (1, 5, 10) if k <= lists.shape[1])
    genres = catalog.genre_matrix(dataset.genres)
    return evaluate(lists, chosen.targets, chosen.items, chosen.offsets, genres, ks)


def read_lists(file: Path, catalog: Catalog, cases: int) -> tuple[np.ndarray, np.ndarray]:
    """Anyone's top-k lists: JSON lines with ``case`` (row of the test split) and ``items`` (ids or titles).

    Returns:
        The cases that the file covers, ascending, (n,), and their lists, (n, k), filled with -1.

    Raises:
        UserError: an unreadable line, an unknown case or item; the message names the line.
    """
    lists: dict[int, list[int]] = {}
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            case, items = _read_line(line, f"{file}, line {number}", catalog, cases)
            if case in lists:
                raise UserError(f"{file}, line {number}: case {case} occurs twice")
            lists[case] = items
    if not lists:
        raise UserError(f"{file} has no recommendations")
    width = max(map(len, lists.values()))
    rows = np.array(sorted(lists))
    return rows, np.array([lists[row] + [-1] * (width - len(lists[row])) for row in rows.tolist()])


def _read_line(line: str, where: str, catalog: Catalog, cases: int) -> tuple[int, list[int]]:
    try:
        entry = json.loads(line)
        case, items = entry["case"], entry["items"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{where}: not a JSON object with "case" and "items"') from error
    if type(case) is not int or not 0 <= case < cases:
        raise UserError(f"{where}: case {case!r} is not a row of the test split (0 to {cases - 1})")
    if not isinstance(items, list) or not items:
        raise UserError(f'{where}: "items" must be a list of ids or titles')
    found = []
    for item in items:
        if isinstance(item, str):
            found.append(_find(item, catalog, where))
        elif type(item) is int and 0 <= item < len(catalog):
            found.append(item)
        else:
            raise UserError(f"{where}: there is no item {item!r}")
    return case, found


def _find(title: str, catalog: Catalog, where: str) -> int:
    try:
        return catalog.find(title)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
