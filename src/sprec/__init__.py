"""Language models as recommenders, aligned by self-play so that they stop recommending the same few items.

``from sprec import Dataset, Recommender, run, evaluate, resolve``; names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprec.data import Dataset
    from sprec.evaluation import evaluate
    from sprec.runs import Recommender, resolve, run

__all__ = ["Dataset", "Recommender", "evaluate", "resolve", "run"]

_HOMES = {"Dataset": "data", "Recommender": "runs", "evaluate": "evaluation", "resolve": "runs", "run": "runs"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: ``import sprec`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sprec' has no attribute {name!r}")
    return getattr(import_module(f"sprec.{_HOMES[name]}"), name)
