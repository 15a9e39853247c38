"""The users to recommend to: those of a log, or the lines of a file of histories, some at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sprec.data import Catalog
from sprec.data.again import read_again
from sprec.data.events import Events
from sprec.data.readers.log import Faults
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.paths import require_path

CHUNK = 1024
"""Users whose lists are made at once."""


@dataclass(frozen=True)
class User:
    """A user to recommend to.

    Attributes:
        name: in the source.
        history: the known items, oldest first.
        block: items that must not be recommended.
        unknown: names in the history that are not in the catalog.
    """

    name: str
    history: list[int]
    block: list[int]
    unknown: list[str]


@dataclass(frozen=True)
class Users:
    """All users, :data:`CHUNK` at a time.

    Attributes:
        count: their number.
        digest: of their source.
        chunk: the users from number ``CHUNK * i`` on.
    """

    count: int
    digest: str
    chunk: Callable[[int], list[User]]


def of_log(source: Path, catalog: Catalog, meta: Mapping[str, Any], blocks: Mapping[str, Sequence[int]]) -> Users:
    """The users of a log, in the order of their ids, each with the complete history.

    Args:
        source: a log in the layout of the one that the dataset was made from; takes 16 bytes of memory per interaction.
        catalog: the items; those of the log are known by their source ids.
        meta: of the dataset.
        blocks: items that are blocked for single users.

    Raises:
        UserError: what is wrong with the log.
    """
    events = read_again(source, meta, Faults())
    ids = events.items.cast(str).to_list()
    known = np.array([catalog.by_source_id.get(name, -1) for name in ids], dtype=np.int64)
    present = np.unique(events.user)
    bounds = np.searchsorted(events.user, [*present, len(events.users)])
    return Users(len(present), digest_of(source), partial(_of_events, events, present, bounds, known, ids, blocks))


def _of_events(
    events: Events,
    present: np.ndarray,
    bounds: np.ndarray,
    known: np.ndarray,
    ids: Sequence[str],
    blocks: Mapping[str, Sequence[int]],
    number: int,
) -> list[User]:
    found = []
    names = events.users.cast(str)
    for place in range(number * CHUNK, min((number + 1) * CHUNK, len(present))):
        own = events.item[bounds[place] : bounds[place + 1]]
        items, name = known[own], str(names[int(present[place])])
        unknown = [ids[item] for item in own[items < 0].tolist()]
        found.append(User(name, items[items >= 0].tolist(), list(blocks.get(name, ())), unknown))
    return found


def of_file(source: Path, catalog: Catalog, blocks: Mapping[str, Sequence[int]]) -> Users:
    """The lines of a file: ``{"user": ..., "history": [ids or titles, oldest first], "block": [...]}``.

    The file is read piece by piece; only the offsets of the pieces are kept in memory.

    Args:
        source: JSON lines.
        catalog: the items; a name is a source id or a title.
        blocks: items that are blocked for single users, in addition to those of their line.

    Raises:
        UserError: there is no such file.
    """
    starts: list[tuple[int, int]] = []  # of each piece: bytes and lines before it
    count = 0
    try:
        with require_path(source).open("rb") as file:
            at = 0
            for number, line in enumerate(file):
                if count % CHUNK == 0 and line.strip():
                    starts.append((at, number))
                count += bool(line.strip())
                at += len(line)
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error
    return Users(count, digest_of(source), partial(_of_lines, source, starts, catalog, blocks))


def _of_lines(
    source: Path,
    starts: Sequence[tuple[int, int]],
    catalog: Catalog,
    blocks: Mapping[str, Sequence[int]],
    number: int,
) -> list[User]:
    at, before = starts[number]
    found: list[User] = []
    with source.open("rb") as file:
        file.seek(at)
        for line in file:
            before += 1
            if line.strip():
                found.append(_user(line, f"{source}, line {before}", catalog, blocks))
            if len(found) == CHUNK:
                break
    return found


def _user(line: bytes, where: str, catalog: Catalog, blocks: Mapping[str, Sequence[int]]) -> User:
    try:
        entry = storage.parsed(line.decode("utf-8-sig"))  # the first line may begin with a byte order mark
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(entry, dict) or not {"user", "history"} <= set(entry) <= {"user", "history", "block"}:
        raise UserError(f'{where} must be like {{"user": "C1", "history": ["id or title", ...]}}, perhaps with "block"')
    name = name_of(entry["user"])
    lists = [entry["history"], entry.get("block") or []]
    if name is None or not all(isinstance(own, list) and None not in map(name_of, own) for own in lists):
        raise UserError(f"{where}: user is a text or a number; history and block are lists of them")
    history, block = ([str(name_of(item)) for item in own] for own in lists)
    items = [catalog.locate(item) for item in history]
    more = [item for item in map(catalog.locate, block) if item is not None]
    return User(
        name,
        [item for item in items if item is not None],
        [*blocks.get(name, ()), *more],
        [item for item, found in zip(history, items, strict=True) if found is None],
    )


def name_of(value: Any) -> str | None:
    """The name in a JSON ``value``, a text or an integer; None for anything else."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def digest_of(source: Path) -> str:
    """The sha256 of the file ``source``, or of all files in this folder with their names."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return sha256(json.dumps([[file.name, storage.hash_of(file)] for file in files]).encode()).hexdigest()
