"""The remaining time of an experiment, estimated from its finished runs.

Runs differ by two orders of magnitude, and many share a stage that the first of them makes, so neither their number nor
the time of the last one says much. Each run counts by the stages that it adds.
"""

from collections.abc import Mapping, Sequence

from sprec.config import Recipe
from sprec.recommend.protocols import PROTOCOLS

_EFFORT = {
    "backbone": 1.0, "sft": 0.5, "rollout": 0.3, "sft-step": 0.4, "prefer": 0.5, "evaluate": 0.3, "sasrec": 0.3,
    "weights": 0.3, "tilt": 0.3, "baseline": 0.01,
}  # fmt: skip
"""Minutes of one core for the stages of the scratch recipes; the finished runs tell how long they take elsewhere."""
_SAMPLES = 3.0
"""How much longer an evaluation takes that samples several titles per case."""


def efforts(runs: Sequence[tuple[Recipe, Mapping[str, str]]]) -> list[float]:
    """The approximate work that each run adds to those before it, in arbitrary units.

    Args:
        runs: recipe and stages of each (:func:`sprec.runs.pipeline.planned`), in the order in which they will be run.
    """
    made: set[str] = set()
    found = []
    for recipe, stages in runs:
        found.append(sum(_effort(recipe, name) for name, key in stages.items() if key not in made))
        made |= set(stages.values())
    return found


def _effort(recipe: Recipe, stage: str) -> float:
    if stage.startswith("evaluate-baseline-"):
        return _EFFORT["baseline"]
    kind, _, iteration = stage.partition("-")
    effort = _EFFORT["sft-step" if kind == "sft" and iteration else kind]
    sampled = kind == "evaluate" and "samples" in PROTOCOLS[recipe.recommend.protocol].reads
    return _SAMPLES * effort if sampled else effort


class Outlook:
    """The time left for a list of runs.

    Args:
        runs: as for :func:`efforts`.
        hands: number of processes that share them.
    """

    def __init__(self, runs: Sequence[tuple[Recipe, Mapping[str, str]]], hands: int = 1) -> None:
        self._left = dict(enumerate(efforts(runs)))
        self._hands = hands
        self._seconds = self._done = 0.0

    def finished(self, number: int, seconds: float = 0.0) -> None:
        """Record that the run ``number`` is done, after ``seconds``; 0 if it was on record."""
        effort = self._left.pop(number)
        if seconds:
            self._seconds, self._done = self._seconds + seconds, self._done + effort

    def __str__(self) -> str:
        """The time left in words; empty if it is unknown, and when nothing is left."""
        if not self._left or not self._done:
            return ""
        minutes = self._seconds / self._done * sum(self._left.values()) / self._hands / 60
        return f"about {minutes / 60:.1f} h left" if minutes >= 90 else f"about {max(1, round(minutes))} min left"
