"""What the papers add to supervised fine-tuning: the method table, and the functions that its rows name.

Objectives and negative samplers stay in their modules, ``from sprec.methods import negatives, objectives``; other
names are loaded when they are first used, so that one formula does not import a model library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprec.methods.d3 import guidance
    from sprec.methods.sasrec import SASRec, train_sasrec
    from sprec.methods.table import METHODS, WITHOUT_MODEL
    from sprec.methods.trivial import popular_top_k, random_top_k
    from sprec.methods.weights import reweighting

__all__ = [
    "METHODS",
    "WITHOUT_MODEL",
    "SASRec",
    "guidance",
    "popular_top_k",
    "random_top_k",
    "reweighting",
    "train_sasrec",
]

_HOMES = {
    "METHODS": "table",
    "WITHOUT_MODEL": "table",
    "SASRec": "sasrec",
    "guidance": "d3",
    "popular_top_k": "floor",
    "random_top_k": "floor",
    "reweighting": "weights",
    "train_sasrec": "sasrec",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sprec.methods' has no attribute {name!r}")
    return getattr(import_module(f"sprec.methods.{_HOMES[name]}"), name)
