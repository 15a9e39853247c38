"""The origin of a run that was made from another run: its ``recipe.json`` names each step."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sprec.runs.store import RECIPE
from sprec.system import storage
from sprec.system.errors import UserError

ITEM_CHANGES = ("add", "remove", "rename")
"""Steps that change the items but not the weights (:mod:`sprec.runs.items`)."""

FURTHER = "train"
"""The step of a run that trains the model of another one further (:mod:`sprec.runs.origin`)."""


def lineage(run: Path) -> list[dict[str, Any]]:
    """The steps that led to a run, oldest first; empty for one that was trained from the start.

    Each has ``run`` (the name of the folder that it began with), ``manifest`` (the digest of its content), ``change``
    and ``date``; changes of items also have their number, ``items``.

    Args:
        run: a run directory.

    Raises:
        UserError: there is no run.
    """
    try:
        found = storage.read_json(run / RECIPE).get("lineage", [])
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{run} is not a run: recipe.json is missing or damaged") from error
    return list(found)


def step(run: Path, change: str, **more: Any) -> dict[str, Any]:
    """A step for :func:`lineage`, with today's date.

    Args:
        run: the finished run with which the step begins.
        change: the kind of step.
        more: further entries.
    """
    manifest, today = storage.digest(storage.read_manifest(run)), datetime.now(UTC).date().isoformat()
    return {"run": run.resolve().name, "manifest": manifest, "change": change, **more, "date": today}


def further(run: Path, out: Path) -> list[dict[str, Any]]:
    """The lineage of a run that continues another one; a step that was already recorded keeps its date.

    Args:
        run: the finished run that is continued.
        out: the new run, which may have begun.
    """
    made = step(run, FURTHER)
    before: list[dict[str, Any]] = []
    with suppress(UserError):
        before = lineage(out)[-1:]
    same = bool(before) and {**before[0], "date": ""} == {**made, "date": ""}
    return [*lineage(run), before[0] if same else made]


def has_other_items(run: Path) -> bool:
    """Whether the items of a run have changed since it was trained.

    Args:
        run: a run directory; False if there is none yet.
    """
    try:
        steps = lineage(run)
    except UserError:
        return False
    return bool(steps) and steps[-1].get("change") in ITEM_CHANGES
