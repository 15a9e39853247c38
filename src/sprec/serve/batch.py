"""Lists for all users, written to one file: some users at a time, resumable, in constant memory."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from sprec.recommend.protocols import Recommendations
from sprec.runs import Recommender
from sprec.runs.recommender import barred_items
from sprec.serve.lists import read_items
from sprec.serve.users import CHUNK, User, Users, of_file, of_log
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.parquet import write_parquet
from sprec.system.paths import require_path
from sprec.system.progress import bar, say

FORMATS = (".parquet", ".csv", ".jsonl")
_JOINED = "joined.json"
"""Of the pieces: the file that was made of them."""
_COLUMNS = {
    "user": pl.String, "rank": pl.Int64, "item": pl.Int64, "source_id": pl.String, "title": pl.String,
    "score": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What may be recommended, as files that name items.

    Attributes:
        allow: only these items.
        in_stock: of those, only these.
        block: never these; with a column of users, only for them.
        genres: only items with one of these genres.
        repeat: whether items of a user's history may be recommended again.
    """

    allow: Path | None = None
    in_stock: Path | None = None
    block: Path | None = None
    genres: Sequence[str] = ()
    repeat: bool = False


@dataclass(frozen=True)
class Counts:
    """Counts of the result.

    Attributes:
        users: all users.
        rows: recommended items.
        popular: users without a history, who got popular items.
        short: users with shorter lists, because fewer items were left for them.
        unknown: entries of histories that are not in the catalog.
        unproven: lists of a search that may miss a better item.
    """

    users: int = 0
    rows: int = 0
    popular: int = 0
    short: int = 0
    unknown: int = 0
    unproven: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Batch:
    """The input of all pieces of the work.

    Attributes:
        recommender: the run.
        users: all users.
        k: items per list.
        allow: the items that may be recommended.
        repeat: whether items of the history may be, too.
        unknown: ``raise`` refuses unknown items in histories, ``skip`` leaves them out.
    """

    recommender: Recommender
    users: Users
    k: int
    allow: list[int]
    repeat: bool
    unknown: Literal["raise", "skip"]

    def make(self, number: int) -> tuple[pl.DataFrame, Counts]:
        """The rows and counts of the piece ``number``.

        Raises:
            UserError: a history names an unknown item, and ``unknown`` is ``raise``.
        """
        users = self.users.chunk(number)
        for user in users if self.unknown == "raise" else ():
            if user.unknown:
                raise UserError(
                    f"the history of {user.name!r:.80} names {user.unknown[0]!r:.80}, which the catalog does not have; "
                    "--unknown skip goes on without such items"
                )
        found = self.recommender.recommendations(
            [user.history for user in users],
            self.k,
            allow=self.allow,
            blocks=[user.block for user in users],
            exclude_history=not self.repeat,
        )
        return self._rows(users, found), _counts(users, found)

    def _rows(self, users: Sequence[User], found: Recommendations) -> pl.DataFrame:
        catalog = self.recommender.catalog
        row, place = np.nonzero(found.items >= 0)
        items = found.items[row, place].tolist()
        scores = np.full(found.items.shape, -np.inf) if found.scores is None else found.scores
        return pl.DataFrame(
            {
                "user": [users[number].name for number in row.tolist()],
                "rank": place + 1,
                "item": items,
                "source_id": [catalog.source_ids[item] for item in items],
                "title": [catalog.titles[item] for item in items],
                "score": [value if np.isfinite(value) else None for value in scores[row, place].tolist()],
            },
            schema=_COLUMNS,
        )

    def key(self) -> str:
        """Identifies everything that the lists depend on."""
        session = self.recommender.session
        return storage.digest(
            {
                "run": storage.read_manifest(session.store.root),
                "settings": session.recipe.model_dump(mode="json"),
                "asked": [self.k, self.allow, self.repeat, self.unknown, self.users.digest, CHUNK],
                "versions": storage.versions(),
            }
        )


def recommend_to_all(
    recommender: Recommender,
    out: Path,
    *,
    log: Path | None = None,
    histories: Path | None = None,
    k: int = 10,
    choice: Choice | None = None,
    unknown: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
) -> Counts:
    """Write lists for every user of a log, or of a file of histories; the same call again resumes.

    Columns: user, rank (from 1), item (the row of the catalog), source_id, title, score. In CSV, a text that a
    spreadsheet would compute as a formula begins with an apostrophe. Scores are what the protocol ranks by; there are
    none in random lists, and in those by popularity of users without a history. Users for whom no item is left have no
    rows.

    Args:
        recommender: the run.
        out: the file to write: ``.parquet``, ``.csv`` or ``.jsonl``. Until it is complete, its pieces are in a folder
            of the same name with ``.parts`` added.
        log: a log in the layout of the one that the run's data was made from.
        histories: JSON lines; see :func:`sprec.serve.users.of_file`.
        k: items per list.
        choice: what may be recommended.
        unknown: ``raise`` refuses unknown items in histories, ``skip`` leaves them out.
        overwrite: replace the file.

    Raises:
        UserError: files that are missing or wrong, an unknown item, k is larger than the catalog, or nothing may be
            recommended.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: lists are written as {', '.join(FORMATS)}; name such a file")
    parts = require_path(out.with_name(f"{out.name}.parts"))
    storage.sweep(out.parent, parts.name)
    if out.exists() and not (overwrite and out.is_file()) and not _is_of(out, parts):
        raise UserError(f"{out} already exists; name another file" + ("" if overwrite else ", or pass --overwrite"))
    if (log is None) == (histories is None):
        raise UserError("recommend to the users of a log or to those of a file of histories: one of them")
    batch = _batch(recommender, log, histories, k, choice or Choice(), unknown)
    with ExitStack() as held, storage.writing(out, "the same command goes on where it stopped"):
        _open(parts, batch.key(), held)
        counts = reduce(Counts.__add__, _pieces(batch, parts), Counts())
        _join(parts, out)
        storage.discard(parts)
    return counts


def _batch(
    recommender: Recommender,
    log: Path | None,
    histories: Path | None,
    k: int,
    choice: Choice,
    unknown: Literal["raise", "skip"],
) -> Batch:
    catalog, meta = recommender.catalog, recommender.session.dataset.meta
    if not 1 <= k <= len(catalog):
        raise UserError(f"k={k} is not between 1 and the {len(catalog)} items of the catalog")
    allow, blocks = permitted(recommender, choice)
    if log is not None:
        users = of_log(log, catalog, meta, blocks)
    else:
        assert histories is not None
        users = of_file(histories, catalog, blocks)
    if blocks:  # they are read from a file of their own
        own = storage.digest({"users": users.digest, "blocks": blocks})
        users = Users(users.count, own, users.chunk)
    return Batch(recommender, users, k, allow, choice.repeat, unknown)


def permitted(recommender: Recommender, choice: Choice) -> tuple[list[int], dict[str, list[int]]]:
    """The items that may be recommended, and those that are blocked for single users.

    Args:
        recommender: its catalog has the items.
        choice: the files.

    Raises:
        UserError: a file cannot be read or names no item, there is no such genre, or nothing is left.
    """
    catalog, meta = recommender.catalog, recommender.session.dataset.meta
    lists = [read_items(file, catalog, meta).items for file in (choice.allow, choice.in_stock) if file]
    blocked = read_items(choice.block, catalog, meta, users=True) if choice.block else None
    allow = sorted(set.intersection(*map(set, lists))) if lists else None
    barred = barred_items(catalog, allow, blocked.items if blocked else [], choice.genres)
    return np.flatnonzero(~barred).tolist(), blocked.by_user if blocked else {}


def _is_of(out: Path, parts: Path) -> bool:
    """Whether a file was joined from pieces that still exist, because the call was killed before it removed them."""
    try:
        return bool(storage.read_json(parts / _JOINED) == {"sha256": storage.hash_of(out)})
    except (OSError, ValueError):
        return False


def _open(parts: Path, key: str, held: ExitStack) -> None:
    """Prepare the folder of the pieces: that of a stopped call with the same key, or a new one."""
    about = parts / "key.json"
    if parts.exists() and not about.is_file() and not all(_is_trace(entry.name) for entry in parts.iterdir()):
        raise UserError(f"{parts} is not a folder of unfinished lists; nothing was touched; choose another -o")
    parts.mkdir(parents=True, exist_ok=True)
    owner = storage.lock(parts / ".lock", held)
    if owner:
        raise UserError(f"another process ({owner}) is writing these lists; wait for it or choose another -o")
    try:
        same = storage.read_json(about) == {"key": key}
    except (OSError, ValueError):
        same = False
    if not same:
        if about.exists():
            say(f"! {parts} was made of another run, users or settings; its lists are made again")
        for old in [*parts.glob("*.parquet"), *parts.glob("[0-9]*.json")]:
            old.unlink()
        storage.write_json(about, {"key": key})


def _is_trace(name: str) -> bool:
    """Whether this is a leftover of a call that was killed at its very beginning."""
    return name == ".lock" or storage.is_leftover(name)


def _pieces(batch: Batch, parts: Path) -> "list[Counts]":
    """Make the missing pieces."""
    counts = []
    with bar("recommend to all", batch.users.count) as progress:
        for number in range(-(-batch.users.count // CHUNK)):
            done = _read(parts / f"{number:06d}.json")
            if done is None:
                frame, done = batch.make(number)
                with storage.replacing_file(parts / f"{number:06d}.parquet") as scratch:
                    write_parquet(frame, scratch)
                storage.write_json(parts / f"{number:06d}.json", vars(done))
            counts.append(done)
            progress.advance(done.users)
    return counts


def _read(file: Path) -> Counts | None:
    try:
        return Counts(**storage.read_json(file)) if file.with_suffix(".parquet").is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def _counts(users: Sequence[User], found: Recommendations) -> Counts:
    assert found.popular is not None
    return Counts(
        users=len(users),
        rows=int((found.items >= 0).sum()),
        popular=int(found.popular.sum()),
        short=int((found.items < 0).any(1).sum()),
        unknown=sum(len(user.unknown) for user in users),
        unproven=0 if found.proven is None else int((~found.proven & ~found.popular).sum()),
    )


def _for_spreadsheets(name: str) -> pl.Expr:
    """A column in which text cannot be evaluated as a formula; numbers stay."""
    text = pl.col(name)
    formula = text.str.contains(r"^[=+\-@\t\r]") & ~text.str.contains(r"^[+-]?\d+(\.\d+)?$")
    return pl.when(formula).then("'" + text).otherwise(text).alias(name)


def _join(parts: Path, out: Path) -> None:
    """All pieces as one file, streamed."""
    pieces = [piece.absolute() for piece in sorted(parts.glob("*.parquet"))]
    if pieces:
        table: Any = pl.scan_parquet(pieces, glob=False)
    else:
        table = pl.LazyFrame(schema=_COLUMNS)
    out.parent.mkdir(parents=True, exist_ok=True)
    with storage.replacing_file(out) as scratch:
        with scratch.open("wb") as file:
            if out.suffix == ".parquet":
                table.sink_parquet(file)
            elif out.suffix == ".csv":
                table.with_columns(_for_spreadsheets(name) for name in ("user", "source_id", "title")).sink_csv(file)
            else:
                table.sink_ndjson(file)
        storage.write_json(parts / _JOINED, {"sha256": storage.hash_of(scratch)})
