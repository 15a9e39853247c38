"""Finished runs side by side, with intervals: which differences are real."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sprec.config import Part, Recipe
from sprec.data import Catalog, Dataset
from sprec.evaluation import (
    CUTOFFS,
    Bootstrap,
    Cases,
    Table,
    bootstrap,
    cutoffs,
    measurable,
    selected,
    shared_seeds,
    table_of_differences,
    table_of_methods,
)
from sprec.recommend.protocols import words_of
from sprec.runs.cases import cases_of
from sprec.runs.health import EXACT
from sprec.runs.keys import EVERYTHING, settings_of
from sprec.runs.pipeline import load_results
from sprec.runs.recommender import read_run
from sprec.runs.stages import RECOMMENDATIONS, measured, read_recommendations
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import say


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        run: the run directory.
        recipe: its settings.
        method: what was evaluated: the run's method, or the model that it started from.
        key: of all that decides the lists.
        cases: the measured cases.
    """

    run: Path
    recipe: Recipe
    method: str
    key: str
    cases: Cases

    @property
    def how(self) -> str:
        """How it recommends, in words."""
        return words_of(self.recipe.recommend)


def compare_runs(runs: Sequence[Path], resamples: int = 2000, metrics: str | None = None) -> tuple[Table, Table]:
    """Compare runs over the same test cases: the seeds of one method and protocol together, paired by seed.

    The SFT model that the runs start from is compared too, as ``bigrec``; it is the reference of the differences, by
    the same protocol where it was evaluated by that.

    Args:
        runs: finished runs.
        resamples: bootstrap replicates.
        metrics: names with commas, or ``all`` (:func:`selected`); by default the paper's and ExactTitles.

    Returns:
        The metrics with 95% intervals, and the paired differences over the seeds that both methods have. Both have a
        note, and judge nothing, where a model has forgotten how titles are written.

    Raises:
        UserError: a run is not finished, runs differ in data or cases, runs of one method differ in more than the
            seed, a method shares no seed with its reference, or a metric cannot be measured.
    """
    if len({_test_of(run) for run in runs}) > 1:
        raise UserError("the runs differ in data, split or number of cases; compare runs over the same test cases")
    groups = _grouped(runs, cutoffs(metrics))
    one = len({how for _, how in groups}) == 1
    names = {key: key[0] if one else ", ".join(key) for key in groups}
    cases = {names[key]: {seed: found.cases for seed, found in own.items()} for key, own in groups.items()}
    wanted = selected(
        metrics, dict.fromkeys(name for own in cases.values() for c in own.values() for name in measurable(c))
    )
    sampled = {
        name: bootstrap(list(own.values()), resamples, training_seeds=list(own), metrics=wanted)
        for name, own in cases.items()
    }
    references = _references(names)
    _require_common_seeds(sampled, references)
    how = f"{next(iter(groups))[1]}; " if one else ""
    seeds = "; ".join(f"{name} {', '.join(map(str, own.training_seeds))}" for name, own in sampled.items())
    against = " and ".join(dict.fromkeys(references.values()))
    titles = (
        f"{how}mean and 95% interval (seeds of {seeds})",
        f"{how}difference to {against}, over the seeds that both have",
    )
    unsound = _unsound(cases)
    judged: dict[str, Any] = {"metrics": wanted, "unsound": unsound, "note": _not_fair(unsound)}
    return (
        table_of_methods(sampled, titles[0], **judged),
        table_of_differences(sampled, references, titles[1], **judged),
    )


def _unsound(cases: Mapping[str, Mapping[int, Cases]]) -> dict[str, float]:
    """Methods too few of whose generated titles exist, with the share that does, of the worst seed."""
    shares = {
        name: min((float(own.exact.mean()) for own in seeds.values() if own.exact is not None), default=1.0)
        for name, seeds in cases.items()
    }
    return {name: share for name, share in shares.items() if share < EXACT}


def _not_fair(unsound: Mapping[str, float]) -> str:
    if not unsound:
        return ""
    shares = ", ".join(f"only {share:.0%} of the titles that {name} generates" for name, share in unsound.items())
    return (
        f"not a fair comparison: {shares} exist in the catalog; the others are matched to whatever is nearest, "
        "which passes for diversity"
    )


def _grouped(runs: Sequence[Path], ks: Sequence[int]) -> dict[tuple[str, str], dict[int, Evaluation]]:
    """(method, how it recommends) to its first and last evaluations by seed, in the order of the seeds.

    Raises:
        UserError: two runs of one group differ in more than the seed.
    """
    groups: dict[tuple[str, str], dict[int, Evaluation]] = {}
    for run in runs:
        for index in dict.fromkeys((0, len(load_results(run)) - 1)):
            found = evaluation_of(run, index, ks)
            own = groups.setdefault((found.method, found.how), {})
            for other in own.values():
                _require_same_settings(found, other)
            own.setdefault(found.recipe.seed, found)
    return {key: dict(sorted(own.items())) for key, own in groups.items()}


def _require_same_settings(one: Evaluation, other: Evaluation) -> None:
    """Runs of one method count as its seeds; with other settings they are another method.

    The first evaluation of a run depends on what made the model that self-play begins with; its key decides, for the
    same seed.
    """
    whole = one.method == one.recipe.method and one.method == other.recipe.method
    parts = EVERYTHING if whole else Part.BACKBONE | Part.SFT | Part.EVALUATE
    ours, theirs = (settings_of(e.recipe, parts, same_method=False) for e in (one, other))
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    what = f"in {differing[0]}" if differing else ""
    if not what and one.recipe.seed == other.recipe.seed and one.key != other.key:
        what = f"with the same seed {one.recipe.seed}"
    if what:
        raise UserError(
            f"{other.run} and {one.run} have {one.method} ({one.how}) in common but differ {what}; "
            "runs of one method are pooled as its seeds: compare these apart"
        )


def _references(names: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Name of each method to the name of its reference: bigrec by the same protocol, else the first bigrec."""
    first = next((key for key in names if key[0] == "bigrec"), next(iter(names)))
    found = {}
    for key, name in names.items():
        same = (first[0], key[1])
        found[name] = names[first if same not in names else same]
    return found


def _require_common_seeds(sampled: Mapping[str, Bootstrap], references: Mapping[str, str]) -> None:
    for name, other in references.items():
        if not shared_seeds(sampled[name], sampled[other]):
            ours, theirs = (", ".join(map(str, sampled[n].training_seeds)) for n in (name, other))
            raise UserError(
                f"{name} (seeds {ours}) and {other} (seeds {theirs}) share no seed; compare runs of the same seeds"
            )


def _test_of(run: Path) -> tuple[str, int, str]:
    recipe, dataset = read_run(run)
    return dataset.hash, recipe.cases, recipe.split


def evaluation_of(run: Path, index: int, ks: Sequence[int]) -> Evaluation:
    """One evaluation of a run.

    Args:
        run: the run directory.
        index: place of the evaluation in ``metrics.json``.
        ks: cut-offs of the metrics.

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
    found = read_recommendations(folders[-1] / RECOMMENDATIONS)
    test = dataset.splits[recipe.split][: recipe.cases]
    cases = cases_of(found.items, test, dataset, ks, found.titles or found.samples)
    return Evaluation(run, recipe, result.method, str(storage.read_manifest(folders[-1])["key"]), cases)


def score_lists(file: Path, dataset: Dataset, split: str = "test", ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The metrics of the lists in a file (:func:`read_lists`), over the cases that it covers.

    Args:
        file: the lists.
        dataset: its catalogue and cases.
        split: the cases are rows of it.
        ks: cut-offs, as far as the lists go.

    Raises:
        UserError: the file does not fit the split, or there is no such split.
    """
    if split not in dataset.splits or not len(dataset.splits[split]):
        raise UserError(f"{dataset.name} has no examples in a split {split!r}")
    catalog, rows = dataset.catalog, dataset.splits[split]
    cases, lists = read_lists(file, catalog, len(rows), split)
    if len(cases) < len(rows):
        say(
            f"{len(cases):,} of the {len(rows):,} cases of {split} are covered; DivRatio and ORRatio depend on how many"
        )
    _say_repeats(lists)
    return measured(lists, rows.take(cases), dataset, ks)


def _say_repeats(lists: np.ndarray) -> None:
    ordered = np.sort(lists, axis=1)
    repeats = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeats.any():
        say(f"! {repeats.sum():,} lists name an item more than once; each time counts as a recommendation")


def read_lists(file: Path, catalog: Catalog, cases: int, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Anyone's top-k lists: JSON lines with ``case`` (row of the split) and ``items`` (ids or titles).

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
            case, items = _read_line(line, f"{file}, line {number}", catalog, cases, split)
            if case in lists:
                raise UserError(f"{file}, line {number}: case {case} occurs twice")
            lists[case] = items
    if not lists:
        raise UserError(f"{file} has no recommendations")
    width = max(map(len, lists.values()))
    rows = np.array(sorted(lists))
    return rows, np.array([lists[row] + [-1] * (width - len(lists[row])) for row in rows.tolist()])


def _read_line(line: str, where: str, catalog: Catalog, cases: int, split: str) -> tuple[int, list[int]]:
    try:
        entry = json.loads(line)
        case, items = entry["case"], entry["items"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{where}: not a JSON object with "case" and "items"') from error
    if type(case) is not int or not 0 <= case < cases:
        raise UserError(f"{where}: case {case!r} is not a row of the {split} split (0 to {cases - 1})")
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
