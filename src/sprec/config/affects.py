"""What a change of a setting changes: declared on the setting, as metadata of its field.

Keys of stages and of records, what a finished run may change, and what makes a method are derived from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from sprec.config.recipe import Recipe


class Part(Flag):
    """Parts of a run that a setting can affect. All but PLAN are kinds of stages."""

    NOTHING = 0
    PLAN = auto()
    """Which stages there are, without changing any."""
    BACKBONE = auto()
    SFT = auto()
    ROLLOUT = auto()
    """The rejected answers of an iteration."""
    SFT_STEP = auto()
    PREFER = auto()
    SASREC = auto()
    EVALUATE = auto()
    """The lists and their metrics. Only settings that the protocol reads affect it."""
    MODEL = BACKBONE | SFT | ROLLOUT | SFT_STEP | PREFER | EVALUATE
    """All stages that read prompts."""


@dataclass(frozen=True)
class Affects:
    """Field metadata: what a change of the setting changes.

    Attributes:
        parts: kinds of stages.
        when: whether it does so in a recipe; by default always.
        afterwards: whether a finished run takes another value, as the setting concerns the use of a trained model.
        same_method: whether runs with other values are of the same method, so that they count as its seeds.
    """

    parts: Part
    when: Callable[["Recipe"], bool] = lambda recipe: True
    afterwards: bool = False
    same_method: bool = False


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Leaf(NamedTuple):
    """A setting of a recipe.

    Attributes:
        name: dotted.
        value: in this recipe; True for an optional section that is there.
        default: in the schema.
        affects: what it changes, and when.
    """

    name: str
    value: Any
    default: Any
    affects: tuple[Affects, ...]

    def parts(self, recipe: "Recipe") -> Part:
        """What a change of the setting changes in a ``recipe``."""
        parts = Part.NOTHING
        for one in self.affects:
            if one.when(recipe):
                parts |= one.parts
        return parts

    @property
    def afterwards(self) -> bool:
        """Whether a finished run takes another value."""
        return any(one.afterwards for one in self.affects)

    @property
    def same_method(self) -> bool:
        """Whether runs with other values are of the same method."""
        return any(one.same_method for one in self.affects)


def leaves(recipe: "Recipe") -> Iterator[Leaf]:
    """All settings of a ``recipe``, section by section."""
    return _leaves(recipe, type(recipe)(), "", ())


def _leaves(section: Section, standard: Section | None, path: str, outer: tuple[Affects, ...]) -> Iterator[Leaf]:
    for name, field in type(section).model_fields.items():
        value, own = getattr(section, name), tuple(one for one in field.metadata if isinstance(one, Affects)) or outer
        default = getattr(standard, name) if standard is not None else field.get_default()
        if isinstance(value, Section):
            if type(None) in get_args(field.annotation):
                yield Leaf(path + name, True, default is not None, own)
            same = default if isinstance(default, type(value)) else None
            yield from _leaves(value, same, f"{path}{name}.", own)
        else:
            yield Leaf(path + name, value, default if not isinstance(default, Section) else True, own)


def require_declarations(section: type[Section], path: str = "", declared: bool = False) -> None:
    """Require that all settings say what they affect.

    Args:
        section: the class.
        path: of the section in the recipe, dotted.
        declared: whether an outer section says so for all.

    Raises:
        TypeError: a setting does not.
    """
    for name, field in section.model_fields.items():
        own = declared or any(isinstance(one, Affects) for one in field.metadata)
        inner = [kind for kind in get_args(field.annotation) or (field.annotation,) if isinstance(kind, type)]
        sections = [kind for kind in inner if issubclass(kind, Section)]
        for kind in sections:
            require_declarations(kind, f"{path}{name}.", own)
        if not sections and not own:
            raise TypeError(f"the setting {path}{name} does not say what it affects")
