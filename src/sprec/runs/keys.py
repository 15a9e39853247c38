"""The settings that identify stages and methods, as the schema declares them."""

from typing import Any

from sprec.config import Part, Recipe, leaves
from sprec.recommend.protocols import is_read

EVERYTHING = Part.PLAN | Part.MODEL | Part.SASREC


def settings_of(recipe: Recipe, parts: Part, *, same_method: bool = True) -> dict[str, Any]:
    """The settings that affect some parts of a run, by their dotted names, without those at their defaults.

    So a new setting, whose default keeps the behaviour, makes no stage anew. Whoever changes a default must raise
    :data:`~sprec.config.SCHEMA`. Settings that only affect lists and metrics count if the protocol reads them.

    Args:
        recipe: all settings.
        parts: kinds of stages, and the plan.
        same_method: include those that distinguish runs of the same method, such as the seed.
    """
    found = {}
    for leaf in leaves(recipe):
        affected = leaf.parts(recipe) & parts
        unread = affected == Part.EVALUATE and not is_read(leaf.name, recipe.recommend)
        if affected and not unread and leaf.value != leaf.default and (same_method or not leaf.same_method):
            found[leaf.name] = leaf.value
    return found


def afterwards() -> list[str]:
    """The settings, or sections, that can be changed for a finished run, in the order of the schema."""
    return list(dict.fromkeys(leaf.name.partition(".")[0] for leaf in leaves(Recipe()) if leaf.afterwards))
