"""Names of files and datasets, checked before anything is done with them."""

import os
from collections.abc import Sequence
from pathlib import Path

from sprec.system.errors import UserError

LONGEST = 255 - len("..01234567.tmp")
"""Longest name in bytes; leaves room for what :func:`sprec.system.storage.replacing` adds to it."""


def require_path(path: Path | str) -> Path:
    """Return ``path`` if files can have such a name.

    Raises:
        UserError: it has a null character, or a name that is not UTF-8 or too long.
    """
    text = str(path)
    if "\0" in text:
        raise UserError(f"{text!r} has a null character in its name")
    if not _is_utf8(text):
        raise UserError(f"{_shown(text)} has a name that is not UTF-8; rename it")
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > LONGEST:
        raise UserError(f"{text:.60}... contains a name of {longest} bytes; the limit is {LONGEST}")
    return Path(path)


def require_name(name: str) -> str:
    """Return the ``name`` of a dataset if folders can have it.

    Raises:
        UserError: it is empty or too long, starts with a dot, contains a slash or a control character, or is not UTF-8.
    """
    if not _is_utf8(name):
        raise UserError(f"{_shown(name)} has a name that is not UTF-8; rename it")
    if not name.strip() or name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
        why = "it is also a folder name: no slashes, control characters or leading dot"
        raise UserError(f"{name[:60]!r} cannot be the name of a dataset ({why})")
    if len(name.encode()) > LONGEST:
        raise UserError(f"the name of the dataset has {len(name.encode())} bytes; the limit is {LONGEST}")
    return name


def require_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments of the command line that are no text: no file of ours can name them, and no message show them.

    Args:
        arguments: as the system passed them, bytes that are no UTF-8 as lone surrogates.

    Raises:
        UserError: shows the argument.
    """
    for argument in arguments:
        if not _is_utf8(argument):
            raise UserError(f"the argument {_shown(argument):.200} is not UTF-8; rename the file, or type it again")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 appear as lone surrogates
        return False
    return True


def _shown(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
