"""What a recipe is known by: the settings that decide something, as the schema declares them."""

from typing import Any

from sprec.config import Part, Recipe, leaves
from sprec.recommend.protocols import is_read

EVERYTHING = Part.PLAN | Part.MODEL | Part.SASREC


def settings_of(recipe: Recipe, parts: Part, *, same_method: bool = True) -> dict[str, Any]:
    """The settings that decide some parts of a run, by their dotted names, without those that are at their defaults.

    So a setting that comes later, with a default that does what was done before, makes nothing anew. A default that
    changes must raise :data:`~sprec.config.SCHEMA`. Of the settings that decide lists and metrics alone, those count
    that the protocol reads.

    Args:
        recipe: all settings.
        parts: kinds of stages, and the plan.
        same_method: count those, too, that make another run of the same method, such as the seed.
    """
    found = {}
    for leaf in leaves(recipe):
        affected = leaf.parts(recipe) & parts
        unread = affected == Part.EVALUATE and not is_read(leaf.name, recipe.recommend)
        if affected and not unread and leaf.value != leaf.default and (same_method or not leaf.same_method):
            found[leaf.name] = leaf.value
    return found


def afterwards() -> list[str]:
    """The settings, or sections, of which a finished run takes other values, in the order of the schema."""
    return list(dict.fromkeys(leaf.name.partition(".")[0] for leaf in leaves(Recipe()) if leaf.afterwards))
