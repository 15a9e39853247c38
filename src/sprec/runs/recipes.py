"""Finding and resolving recipes: shipped file or path, the method's row over it, ``--set`` on top."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from sprec.config import MethodName, Recipe
from sprec.methods.negatives import check_source
from sprec.methods.preferences import check_preference
from sprec.methods.table import METHODS
from sprec.recommend.protocols import check_protocol
from sprec.system import storage
from sprec.system.errors import UserError

_TRUSTING = ("trust_remote_code", "allow_pickle")
SHIPPED = files("sprec") / "recipes"
PERMISSIONS = ("backbone.trust_remote_code", "backbone.allow_pickle")
"""Permissions that only the command can give, not a file: a model's code, and pickles, which are code."""


def names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in SHIPPED.iterdir() if file.name.endswith(".yaml"))


def launchers() -> list[str]:
    """Names of the shipped configurations of ``accelerate launch``."""
    return sorted(f"accelerate/{file.name.removesuffix('.yaml')}" for file in (SHIPPED / "accelerate").iterdir())


def text(name: str) -> str:
    """The text of a recipe ``name``, shipped (by name) or your own (by path); or of a shipped launcher configuration.

    Raises:
        UserError: there is no such recipe.
    """
    if name in names() or name in launchers():
        return (SHIPPED / f"{name}.yaml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, ValueError) as error:  # no such file, no name of a file, no UTF-8
        raise UserError(f'no recipe "{name}": neither a readable file nor one of {", ".join(names())}') from error


def resolve(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Load a recipe and resolve it: schema defaults < recipe < method row < the recipe's part for the method < changes.

    The ``recipe.json`` of a run is resolved already: its settings count as they are, unless the changes name another
    method. Its permissions of a model's code and pickles do not count and must be given again.

    Args:
        name: name of a shipped recipe, or path of a file, such as a run's ``recipe.json``.
        changes: ``section.key=value`` strings, the value in YAML.

    Raises:
        UserError: a recipe, key, method or value is unknown; names the key.

    Examples:
        >>> recipe = resolve("demo", ["method=sprec-rn", "loop.iterations=2"])
        >>> recipe.negatives.source, recipe.loop.iterations
        ('uniform', 2)
        >>> resolve("demo", ["loop.iteration=2"])
        Traceback (most recent call last):
            ...
        sprec.system.errors.UserError: recipe demo: loop.iteration: unknown key
    """
    content = _mapping(text(name), name)
    settings: dict[str, Any] = {}
    for change in changes:
        settings = merge(settings, _parse_change(change))
    if {"recipe", "dataset", "versions"} <= content.keys() and isinstance(content["recipe"], dict):
        return _of_run(content, settings, name)
    for_method = content.pop("methods", {})
    method = settings.get("method", content.get("method", "sprec"))
    if not isinstance(method, str) or method not in METHODS:
        raise UserError(f'unknown method "{method}"; methods: {", ".join(get_args(MethodName))}')
    if not isinstance(for_method, dict) or not set(for_method) <= set(METHODS):
        raise UserError(f"{name}: methods: must map method names to settings")
    resolved = merge(content, METHODS[method])
    resolved = merge(resolved, for_method.get(method) or {})
    backbone = resolved.get("backbone")
    for permission in PERMISSIONS:
        if isinstance(backbone, dict) and backbone.get(permission.removeprefix("backbone.")):
            raise UserError(f"recipe {name}: a file cannot permit {permission}; pass --set {permission}=true")
    return validate(merge(resolved, settings), name)


def _of_run(about: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a run, with changes."""
    content = dict(about["recipe"])
    backbone = content.get("backbone")
    if isinstance(backbone, dict):
        content["backbone"] = {key: value for key, value in backbone.items() if key not in _TRUSTING}
    method = settings.get("method")
    if isinstance(method, str) and method in METHODS and method != content.get("method"):
        content = merge(content, METHODS[method])
    return validate(merge(content, dict(settings)), name, storage.newer(about))


def changed(recipe: Recipe, changes: Sequence[str], settings: Mapping[str, Any] | None = None) -> Recipe:
    """A resolved recipe with changes.

    Args:
        recipe: all settings.
        changes: ``section.key=value`` strings, the value in YAML.
        settings: further changes, by section.

    Raises:
        UserError: a key or value is unknown; names the key.
    """
    content = recipe.model_dump(mode="json")
    for change in changes:
        content = merge(content, _parse_change(change))
    return validate(merge(content, dict(settings or {})), "with other settings")


def validate(content: Mapping[str, Any], name: str, writer: str = "") -> Recipe:
    """Check resolved settings against the schema.

    Args:
        content: all settings.
        name: of the recipe, for messages.
        writer: the version that wrote them, if it is newer (:func:`sprec.system.storage.newer`).

    Raises:
        UserError: the first thing that is wrong, by its dotted key.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        kinds = {"scratch", "huggingface"}  # the location contains the discriminator, which is not a key
        key = ".".join(str(part) for part in first["loc"] if part not in kinds)
        problem = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise UserError(f"recipe {name}: {key + ': ' if key else ''}{problem}{writer}") from error
    try:
        for check in (check_source, check_preference, check_protocol):
            check(recipe)
    except ValueError as error:
        raise UserError(f"recipe {name}: {error}") from error
    return recipe


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML's parser would take the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                where = f"{key.value} stands there twice, again in line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(problem=where)
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)


def _mapping(content: str, name: str) -> dict[str, Any]:
    try:
        loaded = _Loader(content).get_single_data() or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"recipe {name} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UserError(f"recipe {name} must be a mapping of settings")
    return loaded


def _parse_change(change: str) -> dict[str, Any]:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise UserError(f'--set takes key=value, not "{change}"')
    nested: Any = _mapping(f"value: {value}", f"--set {change}")["value"]
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested if isinstance(nested, dict) else {}


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``update``, section by section; lists and scalars are replaced."""
    merged = dict(base)
    for key, value in update.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _changes_kind(below, value):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _changes_kind(below: dict[str, Any], value: dict[str, Any]) -> bool:
    """Whether ``value`` is of another kind, so that the settings ``below`` do not apply to it."""
    return "kind" in value and "kind" in below and value["kind"] != below["kind"]
