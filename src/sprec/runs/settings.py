"""All settings of a recipe as text, for ``sprec recipes settings`` and the settings page."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from sprec.config import Recipe, Section
from sprec.methods.negatives import SAMPLERS, Sampler
from sprec.methods.preferences import PREFERENCES, Preference
from sprec.recommend.protocols import PROTOCOLS, Protocol

_TABLES: Mapping[str, Mapping[str, Preference | Protocol | Sampler]] = {
    "negatives.source": SAMPLERS,
    "prefer.objective": PREFERENCES,
    "recommend.protocol": PROTOCOLS,
}
"""Settings whose values are the rows of a table."""


class Setting(NamedTuple):
    """A setting as ``--set key=value`` takes it.

    Attributes:
        key: the dotted name.
        default: in YAML.
        others: its other values, if they are few.
        about: its description.
    """

    key: str
    default: str
    others: tuple[str, ...]
    about: str


def settings() -> dict[str, list[Setting]]:
    """All settings in the order of the schema, by part of the recipe; "" for the recipe itself.

    The two kinds of backbone are separate parts: ``backbone, kind: scratch``.
    """
    return dict(_parts("", Recipe(), ()))


def _parts(title: str, section: Section, path: tuple[str, ...]) -> Iterator[tuple[str, list[Setting]]]:
    """A part of the recipe with its defaults, then the parts inside it."""
    fields = type(section).model_fields
    kinds = {name: _sections(field.annotation) for name, field in fields.items()}
    own = [name for name, field in fields.items() if not kinds[name] or type(None) in get_args(field.annotation)]
    yield title, [_setting((*path, name), fields[name], getattr(section, name, None)) for name in own]
    for name, sections in kinds.items():
        for kind in sections:
            default = getattr(section, name)
            filled = default if isinstance(default, kind) else kind.model_construct()
            apart = f", kind: {kind.model_fields['kind'].default}" if len(sections) > 1 else ""
            yield from _parts(".".join((*path, name)) + apart, filled, (*path, name))


def _sections(annotation: Any) -> list[type[Section]]:
    """The parts of a recipe among the types of a value."""
    kinds = get_args(annotation) or (annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]


def _setting(path: tuple[str, ...], field: FieldInfo, default: Any) -> Setting:
    kinds = get_args(field.annotation) if get_origin(field.annotation) is not Literal else (field.annotation,)
    values = [_yaml(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if type(None) in kinds:
        values.append("null")
    shown = "REQUIRED" if field.is_required() else "{...}" if isinstance(default, Section) else _yaml(default)
    about = " ".join((field.description or "").split())
    rows = {name: row.about for name, row in _TABLES.get(".".join(path), {}).items()}
    if path == ("negatives", "source"):
        rows = {"self-play": "what the model answers"} | rows
    if rows:
        values = list(rows)
        about += f" {'; '.join(f'{name}: {row}' for name, row in rows.items())}."
    others = tuple(value for value in values if value != shown)
    return Setting(".".join(path), shown, others, about)


def _yaml(value: Any) -> str:
    """A value on one line of YAML, as in a recipe."""
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
