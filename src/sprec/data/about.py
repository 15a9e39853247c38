"""``dataset.json``: the description of a dataset, checked before any of it is used."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sprec.system import storage
from sprec.system.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Wording:
    """The words of a domain in prompts.

    ``instruction`` is for all users, ``prefix`` and ``suffix`` enclose the titles of the history, which are ``noun``.
    """

    instruction: str
    prefix: str
    suffix: str
    noun: str = "items"


class About(BaseModel):
    """The content of ``dataset.json`` (``counts``, ``bytes`` and ``versions`` are for people)."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: str
    wording: Wording
    genres: list[str]
    warnings: dict[str, int]
    meta: dict[str, Any]
    sha256: dict[str, str]


def read_about(path: Path) -> About:
    """Read the ``dataset.json`` of a dataset.

    Args:
        path: folder of the dataset.

    Raises:
        UserError: it is missing, damaged, edited or something else, or a newer version wrote it.
    """
    file = path / "dataset.json"
    if not file.is_file():
        raise UserError(f"{path} is not a dataset (no {file}); make one with 'sprec data import' or 'sprec data demo'")
    try:
        text = file.read_text("utf-8")
        about: Any = json.loads(text)
        as_written = storage.as_text(about)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    _require_format(about, file)
    if about.pop("digest", None) != storage.digest(about) or text != as_written:
        raise UserError(f"{file} is damaged or was edited; import the dataset again")
    try:
        return About.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {where}: {first['msg']}; import the dataset again") from error


def _require_format(about: Any, file: Path) -> None:
    if not isinstance(about, dict):
        raise UserError(f"{file} must hold a JSON object, found {type(about).__name__}")
    found = about.get("format")
    if type(found) is int and found > FORMAT:
        versions = about.get("versions")
        writer = versions.get("sprec") if isinstance(versions, dict) else None
        by = f"sprec {writer:.20}" if isinstance(writer, str) else "a newer sprec"
        raise UserError(f"{file} has format {found}, this version reads {FORMAT}; it was written by {by}")
    if type(found) is not int or found != FORMAT:
        raise UserError(f"{file} has format {found!r:.40}, this version reads {FORMAT}; import the dataset again")
