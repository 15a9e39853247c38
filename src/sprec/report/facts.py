"""The facts in a report on a run: exposure, learning curves, metrics, warnings, how to repeat it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sprec.config import leaves
from sprec.data import Dataset
from sprec.engine.train.stage import LOG
from sprec.runs import health
from sprec.runs.about import about_run
from sprec.runs.finished import read_run, sealed, stage_of
from sprec.runs.lineage import FURTHER
from sprec.runs.pipeline import load_own_results, load_results
from sprec.study.compare import Evaluation, evaluations_of
from sprec.system.errors import UserError

LIST = 5
"""The number of positions of a list that count as shown."""
_POINTS = 120
"""Maximum points of a learning curve."""


@dataclass(frozen=True)
class Shown:
    """How often each item is shown, in shares of all positions.

    Attributes:
        name: of the lists.
        color: class of its colour in charts.
        shares: of each item, (items,); they sum to 1.
        first: of each item among the first positions, (items,).
    """

    name: str
    color: str
    shares: np.ndarray
    first: np.ndarray

    @property
    def items(self) -> int:
        """How many items are shown at all."""
        return int((self.shares > 0).sum())

    def top(self, count: int = 3) -> float:
        """The share of the ``count`` most shown items in the first positions."""
        return float(np.sort(self.first)[-count:].sum())

    def curve(self) -> tuple[list[float], list[float]]:
        """Shares of the catalog, the most shown items first, and their shares of all positions; both (n,)."""
        held = np.concatenate([[0.0], np.cumsum(np.sort(self.shares)[::-1])])
        across = np.linspace(0.0, 1.0, len(held))
        places = np.unique(np.round(np.geomspace(1, len(held), 200)).astype(int)) - 1
        return across[places].tolist(), held[places].tolist()


def shown_by(lists: np.ndarray, items: int, name: str, color: str) -> Shown:
    """How often lists show each item.

    Args:
        lists: item ids, best first, padded with -1, (n, k).
        items: size of the catalog.
        name: of the lists.
        color: class of its colour.
    """

    def shares(chosen: np.ndarray) -> np.ndarray:
        counts = np.bincount(chosen[chosen >= 0], minlength=items)
        found: np.ndarray = counts / max(1, counts.sum())
        return found

    return Shown(name, color, shares(lists[:, :LIST].ravel()), shares(lists[:, 0]))


def exposure_of(evaluations: Sequence[Evaluation]) -> list[Shown]:
    """The exposure in the training data, then in the lists of a run, before and after if it has both.

    Args:
        evaluations: of :func:`~sprec.study.compare.evaluations_of`.
    """
    data = evaluations[0].dataset
    chosen = shown_by(data.train.targets[:, None], len(data.catalog), "chosen by customers", "c0")
    names = [one.method for one in evaluations]
    if len(evaluations) == 2:
        names = [f"before ({names[0]})", f"after ({names[1]})"]
    colors = ("c2",) if len(evaluations) == 1 else ("c1", "c2")
    return [chosen] + [
        shown_by(one.lists.items, len(data.catalog), name, color)
        for one, name, color in zip(evaluations, names, colors, strict=True)
    ]


def movers(before: Shown, after: Shown, count: int = 10) -> tuple[list[int], list[int]]:
    """The items that gained the most exposure, and those that lost the most; ties by id.

    Args:
        before: the lists before.
        after: the lists after.
        count: maximum number of each.
    """
    change = after.shares - before.shares
    order = np.argsort(-change, kind="stable")
    gained = [int(item) for item in order[:count] if change[item] > 0]
    lost = [int(item) for item in np.argsort(change, kind="stable")[:count] if change[item] < 0]
    return gained, lost


def genre_shares(evaluations: Sequence[Evaluation], shown: Sequence[Shown]) -> list[tuple[str, dict[str, float]]]:
    """Each selected genre, and its share in the histories of the cases and in the lists, by colour.

    Args:
        evaluations: of one run.
        shown: of :func:`exposure_of`.
    """
    data, last = evaluations[0].dataset, evaluations[-1]
    matrix = data.catalog.genre_matrix(data.genres)
    cases = data.splits[last.recipe.split].take(last.lists.rows)
    histories = np.bincount(cases.items, minlength=len(data.catalog)).astype(float)

    def shares(weight: np.ndarray) -> np.ndarray:
        mass = weight @ matrix
        found: np.ndarray = mass / (mass.sum() or 1.0)
        return found

    columns = {"c0": shares(histories), **{own.color: shares(own.shares) for own in shown[1:]}}
    return [
        (genre, {color: float(own[number]) for color, own in columns.items()})
        for number, genre in enumerate(data.genres)
    ]


def learning_curves(root: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Stage to steps and mean losses, thinned for a chart; of a finished run, whose stages are verified.

    Args:
        root: the run directory.

    Raises:
        UserError: a stage is damaged.
    """
    found = {}
    for name, folder in _training_stages(root).items():
        losses = [json.loads(line)["loss"] for line in (folder / LOG).read_text("utf-8").splitlines()]
        if losses:
            pieces = np.array_split(np.array(losses), min(len(losses), _POINTS))
            steps = np.cumsum([len(piece) for piece in pieces])
            found[name] = steps.astype(float).tolist(), [float(piece.mean()) for piece in pieces]
    return found


def warnings_of(root: Path, dataset: Dataset) -> list[str]:
    """Warnings that the reader should know before trusting the numbers: of the data, the stages, the evaluations.

    Args:
        root: the run directory.
        dataset: its data.

    Raises:
        UserError: a stage is damaged.
    """
    found = ["The users of this data are simulated."] if dataset.meta.get("simulated") else []
    found += [f"Import: {fault.replace('_', ' ')}: {count:,}." for fault, count in dataset.warnings.items()]
    for name, folder in _training_stages(root).items():
        numbers = json.loads((folder / "health.json").read_text("utf-8"))
        section = "sft_step" if name.startswith("sft-") else name.partition("-")[0]
        found += [f"{name}: {warning}." for warning in health.warn_of_training(numbers, section)]
    own, baselines = load_own_results(root), {one.method: one.metrics for one in load_results(root) if one.baseline}
    found += [f"{warning}." for warning in health.of_evaluations([one.metrics for one in own])]
    found += [f"{warning}." for warning in health.of_baselines(own[-1].metrics, baselines)]
    return found


def progress_of(root: Path, names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Metric to iterations and values after them, if a run was evaluated more than once.

    Args:
        root: the run directory.
        names: of metrics.
    """
    last = {result.iteration: result.metrics for result in load_own_results(root)}
    if len(last) < 2:
        return {}
    known = [name for name in names if all(name in metrics for metrics in last.values())]
    return {name: ([float(i) for i in last], [metrics[name] for metrics in last.values()]) for name in known}


def settings_of_run(root: Path) -> list[tuple[str, str]]:
    """The settings that differ from their defaults, by name.

    Args:
        root: the run directory.
    """
    recipe, _ = read_run(root)
    return [(leaf.name, str(leaf.value)) for leaf in leaves(recipe) if leaf.value != leaf.default]


def repeat(root: Path, about: Mapping[str, Any]) -> list[str]:
    """The commands that make the run again.

    Args:
        root: the run directory.
        about: of :func:`~sprec.runs.about.about_run`.
    """
    further = "".join(f" --from {step['run']}" for step in about["lineage"][-1:] if step["change"] == FURTHER)
    return [
        f"# with sprec {about['versions']['sprec']}",
        f"sprec run {root.name}/recipe.json --data {root.name}/dataset{further} -o AGAIN",
    ]


def evaluated(run: Path) -> list[Evaluation]:
    """The evaluations of a run that a report is about.

    Args:
        run: a run directory.

    Raises:
        UserError: it is not a finished run.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a run directory; a report is about finished runs")
    return evaluations_of(run)


def about(run: Path) -> dict[str, Any]:
    """:func:`~sprec.runs.about.about_run` of a ``run``, with the hash of the data."""
    found = about_run(run)
    return found | {"hash": read_run(run)[1].hash}


def _training_stages(root: Path) -> dict[str, Path]:
    names = [folder.partition("-")[2] for folder in sealed(root)["stages"]]
    stages = {name: stage_of(root, name).folder for name in names}
    return {name: folder for name, folder in stages.items() if (folder / "health.json").is_file()}
