"""Comparing finished runs, and lists from elsewhere, with intervals: which differences are real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from sprec.config import Part, Recipe
from sprec.data import Dataset
from sprec.evaluation import (
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
from sprec.recommend.protocols import Need, needs_of, words_of
from sprec.runs.evaluations import is_kept, kept
from sprec.runs.finished import read_run, stage_of
from sprec.runs.health import EXACT
from sprec.runs.keys import EVERYTHING, settings_of
from sprec.runs.lineage import FURTHER, lineage
from sprec.runs.pipeline import load_own_results
from sprec.runs.stages import RECOMMENDATIONS, read_recommendations
from sprec.study.lists import Lists, read_lists
from sprec.system.errors import UserError
from sprec.system.paths import require_path
from sprec.system.progress import say

Key = tuple[str, str]
"""A method, and its protocol in words; for lists from a file their name and an empty text."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        place: the run, or the folder of the evaluation.
        recipe: its settings.
        dataset: its data.
        method: the run's method, or that of the model that it started from.
        key: of everything that the lists depend on.
        lists: for the first cases of the split.
        further: whether the model was trained further from that of another run.
    """

    place: Path
    recipe: Recipe
    dataset: Dataset
    method: str
    key: str
    lists: Lists
    further: bool = False

    @property
    def how(self) -> str:
        """Its protocol in words, with a mark for models that were trained further: they are not seeds of the others."""
        return words_of(self.recipe.recommend) + ", trained further" * self.further

    @property
    def test(self) -> tuple[str, str, int]:
        """The cases of the lists: data, split, number."""
        return self.dataset.hash, self.recipe.split, len(self.lists.rows)


def compare_runs(
    paths: Sequence[Path],
    resamples: int = 2000,
    metrics: str | None = None,
    dataset: Dataset | None = None,
    split: str = "test",
) -> tuple[Table, Table]:
    """Compare runs over the same test cases: the seeds of one method and protocol together, paired by seed.

    The SFT model that the runs start from is compared, too, as ``bigrec``; it is the reference of the differences, by
    the same protocol if it was evaluated with that. Without it the first method is. Lists from a file, which have no
    seeds, are paired with every seed of the others, over the cases that all have.

    Args:
        paths: finished runs, folders in which ``evaluate_run`` kept lists, files of lists (:func:`read_lists`).
        resamples: bootstrap replicates.
        metrics: names separated by commas, or ``all`` (:func:`selected`); by default the paper's and ExactTitles.
        dataset: of files; by default that of the runs.
        split: of files; if there are runs, theirs.

    Returns:
        The metrics with 95% intervals, and the paired differences over the seeds that both methods have. If a model has
        forgotten how titles are written, both have a note, and its differences are not judged.

    Raises:
        UserError: a run is not finished, runs differ in data or cases, runs of one method differ in more than the
            seed, a method shares no seed with its reference, a file does not fit the data, there is no common case, or
            a metric cannot be measured.
    """
    for path in paths:
        require_path(path)
    evaluations = {path: evaluations_of(path) for path in paths if not path.is_file()}
    data, split = _data([one for own in evaluations.values() for one in own], dataset, split)
    lists = _lists(paths, evaluations, data, split)
    rows = _common([own for seeds in lists.values() for own in seeds.values()])
    ways = list(dict.fromkeys(how for _, how in lists if how))
    names = {key: key[0] if len(ways) < 2 or not key[1] else ", ".join(key) for key in lists}
    cases = {
        names[key]: {seed: own.cases(data, split, rows, cutoffs(metrics)) for seed, own in seeds.items()}
        for key, seeds in lists.items()
    }
    wanted = selected(
        metrics, dict.fromkeys(name for own in cases.values() for c in own.values() for name in measurable(c))
    )
    sampled = {
        name: bootstrap(list(own.values()), resamples, training_seeds=list(own), metrics=wanted)
        for name, own in cases.items()
    }
    references = _references(names)
    _require_common_seeds(sampled, references)
    unsound = _unsound(cases)
    judged: dict[str, Any] = {"metrics": wanted, "unsound": unsound, "note": _not_fair(unsound)}
    titles = _titles(names, sampled, references, len(rows))
    return (
        table_of_methods(sampled, titles[0], **judged),
        table_of_differences(sampled, references, titles[1], **judged),
    )


def _data(found: Sequence[Evaluation], dataset: Dataset | None, split: str) -> tuple[Dataset, str]:
    """The data and the split of all lists."""
    if len({one.test for one in found}) > 1:
        raise UserError("the runs differ in data, split or number of cases; compare runs over the same test cases")
    if found and dataset is not None and dataset.hash != found[0].dataset.hash:
        raise UserError(f"{found[0].place} is of other data than {dataset.name}; leave out --data")
    if found:
        return found[0].dataset, found[0].recipe.split
    if dataset is None:
        raise UserError("lists in files are about the cases of a dataset: name it, --data DATASET")
    return dataset, split


def _lists(
    paths: Sequence[Path], evaluations: Mapping[Path, Sequence[Evaluation]], data: Dataset, split: str
) -> dict[Key, dict[int, Lists]]:
    """(method, protocol in words) to lists by seed, in the order of the paths."""
    groups = _grouped([one for own in evaluations.values() for one in own])
    seeds = sorted({seed for group in groups.values() for seed in group}) or [0]
    taken = [key[0] for key in groups] + [path.stem for path in paths]
    found: dict[Key, dict[int, Lists]] = {}
    for path in paths:
        if path in evaluations:
            found |= {(e.method, e.how): groups[e.method, e.how] for e in evaluations[path]}
        else:
            name = path.stem if taken.count(path.stem) == 1 else str(path)
            found[name, ""] = dict.fromkeys(seeds, read_lists(path, data, split))
    return found


def _common(lists: Sequence[Lists]) -> np.ndarray:
    """The rows that all lists have."""
    rows = reduce(np.intersect1d, [own.rows for own in lists])
    if not len(rows):
        raise UserError("no case is in all of the lists")
    most = max(len(own.rows) for own in lists)
    if len(rows) < most:
        say(f"{len(rows):,} cases are in all lists, {most:,} in the longest ones; these {len(rows):,} are compared")
    return rows


def _titles(
    names: Mapping[Key, str], sampled: Mapping[str, Bootstrap], references: Mapping[str, str], cases: int
) -> tuple[str, str]:
    """Titles of the two tables, with the common protocol if there is one, the references and the cases."""
    ways = list(dict.fromkeys(how for _, how in names if how))
    how = f"{ways[0]}; " if len(ways) == 1 else ""
    trained = [name for (_, way), name in names.items() if way]
    seeds = "; ".join(f"{name} {', '.join(map(str, sampled[name].training_seeds))}" for name in trained)
    against = " and ".join(dict.fromkeys(references.values()))
    return (
        f"{how}mean and 95% interval ({f'seeds of {seeds}' if seeds else f'{cases:,} cases'})",
        f"{how}difference to {against}, over {'the seeds that both have' if seeds else 'the same cases'}",
    )


def _unsound(cases: Mapping[str, Mapping[int, Cases]]) -> dict[str, float]:
    """Methods with too few existing titles among the generated ones, with their share in the worst seed."""
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


def _grouped(found: Sequence[Evaluation]) -> dict[Key, dict[int, Lists]]:
    """(method, protocol in words) to its lists by seed, in the order of the seeds.

    Raises:
        UserError: two runs of a group differ in more than the seed.
    """
    groups: dict[Key, dict[int, Evaluation]] = {}
    for one in found:
        own = groups.setdefault((one.method, one.how), {})
        for other in own.values():
            _require_same_settings(one, other)
        own.setdefault(one.recipe.seed, one)
    return {key: {seed: own[seed].lists for seed in sorted(own)} for key, own in groups.items()}


def _require_same_settings(one: Evaluation, other: Evaluation) -> None:
    """Refuse runs of one method with different settings, which cannot be pooled as its seeds.

    The first evaluation of a run depends on the settings of the model before self-play; for the same seed its key
    decides.
    """
    whole = one.method == one.recipe.method and one.method == other.recipe.method
    trained = Part.BACKBONE | Part.SFT if Need.MODEL in needs_of(one.recipe.recommend) else Part.SASREC
    parts = EVERYTHING if whole else trained | Part.EVALUATE
    ours, theirs = (settings_of(e.recipe, parts, same_method=False) for e in (one, other))
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    what = f"in {differing[0]}" if differing else ""
    if not what and one.recipe.seed == other.recipe.seed and one.key != other.key:
        what = f"with the same seed {one.recipe.seed}"
    if what:
        raise UserError(
            f"{other.place} and {one.place} have {one.method} ({one.how}) in common but differ {what}; "
            "runs of one method are pooled as its seeds: compare these apart"
        )


def _references(names: Mapping[Key, str]) -> dict[str, str]:
    """Name of each method to the name of its reference: bigrec by the same protocol, else the first bigrec.

    Without bigrec the first method.
    """
    first = next((key for key in names if key[0] == "bigrec"), next(iter(names)))
    alike = {key[1]: name for key, name in names.items() if key[0] == "bigrec"}
    return {name: alike.get(key[1], names[first]) for key, name in names.items()}


def _require_common_seeds(sampled: Mapping[str, Bootstrap], references: Mapping[str, str]) -> None:
    for name, other in references.items():
        if not shared_seeds(sampled[name], sampled[other]):
            ours, theirs = (", ".join(map(str, sampled[n].training_seeds)) for n in (name, other))
            raise UserError(
                f"{name} (seeds {ours}) and {other} (seeds {theirs}) share no seed; compare runs of the same seeds"
            )


def evaluations_of(folder: Path) -> list[Evaluation]:
    """The first and the last evaluation of a run, or the one that is kept in a folder.

    Args:
        folder: the run directory, or a folder of its ``evaluations``.

    Raises:
        UserError: the run is not finished, or something is damaged, outdated or another run's.
    """
    if is_kept(folder):
        recipe, dataset, key = kept(folder)
        asked = Need.MODEL in needs_of(recipe.recommend)
        method = recipe.method if asked else recipe.recommend.protocol  # what ranks items has nothing of the model
        further = asked and _further(folder.parent.parent)
        return [Evaluation(folder, recipe, dataset, method, key, _read(folder), further)]
    recipe, dataset = read_run(folder)
    results, found = load_own_results(folder), []
    for index in dict.fromkeys((0, len(results) - 1)):
        stage = stage_of(folder, f"evaluate-{results[index].stage}-{results[index].iteration}")
        lists = _read(stage.folder)
        found.append(Evaluation(folder, recipe, dataset, results[index].method, stage.key, lists, _further(folder)))
    return found


def _further(run: Path) -> bool:
    return any(step["change"] == FURTHER for step in lineage(run))


def _read(folder: Path) -> Lists:
    found = read_recommendations(folder / RECOMMENDATIONS)
    return Lists(np.arange(len(found.items)), found.items, found.titles or found.samples)
