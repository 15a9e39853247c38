"""How long the runs of an experiment will still take, told from those that are done.

Runs differ by two orders of magnitude, and many share a stage that the first of them makes: neither their number nor
the time of the last one says much. Each run counts by the stages that it adds.
"""

import json
from collections.abc import Sequence
from typing import Any

from sprec.config import Recipe
from sprec.methods.table import WITHOUT_MODEL

_RANKING, _EVALUATION, _SAMPLING, _SFT, _ITERATION = 0.3, 0.3, 0.8, 1.5, 1.2
"""Stages in minutes of one core of the scratch recipes; what they take elsewhere, the finished runs tell."""


def efforts(runs: Sequence[tuple[str, Recipe]]) -> list[float]:
    """What each run adds to those before it, roughly, in units of its own.

    Args:
        runs: name of the dataset and recipe, in the order in which they will be run.
    """
    made: set[str] = set()
    return [sum(effort for stage, effort in _stages(*one) if not _known(stage, made)) for one in runs]


class Outlook:
    """The time left for a list of runs.

    Args:
        runs: name of the dataset and recipe, in order.
        hands: processes that divide them.
    """

    def __init__(self, runs: Sequence[tuple[str, Recipe]], hands: int = 1) -> None:
        self._left = dict(enumerate(efforts(runs)))
        self._hands = hands
        self._seconds = self._done = 0.0

    def finished(self, number: int, seconds: float = 0.0) -> None:
        """A run is done, after so many seconds; 0 where it was on record."""
        effort = self._left.pop(number)
        if seconds:
            self._seconds, self._done = self._seconds + seconds, self._done + effort

    def __str__(self) -> str:
        """In words; empty while nothing is known, and when nothing is left."""
        if not self._left or not self._done:
            return ""
        minutes = self._seconds / self._done * sum(self._left.values()) / self._hands / 60
        return f"about {minutes / 60:.1f} h left" if minutes >= 90 else f"about {max(1, round(minutes))} min left"


def _stages(dataset: str, recipe: Recipe) -> list[tuple[Any, float]]:
    """The stages of a run, each as what it depends on and its effort."""
    if recipe.method in WITHOUT_MODEL:
        return [((dataset, recipe.method, recipe.seed), _RANKING)]
    settings = recipe.model_dump(mode="json")
    start = (dataset, recipe.seed, settings["backbone"], settings["sft"])
    trained = {name: value for name, value in settings.items() if name not in ("recommend", "method", "evaluate")}
    samples = _SAMPLING if recipe.recommend.protocol == "consensus" else _EVALUATION
    return [
        (start, _SFT),
        ((dataset, trained), _ITERATION * recipe.loop.iterations),
        ((dataset, settings), samples),
    ]


def _known(stage: Any, made: set[str]) -> bool:
    key = json.dumps(stage, sort_keys=True)
    known = key in made
    made.add(key)
    return known
