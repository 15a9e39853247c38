"""MovieLens in all its layouts, from a folder or a zip: ``ratings.dat``/``movies.dat`` (1M, 10M), ``ratings.csv``/
``movies.csv`` (20M, 25M, 32M, latest) and ``u.data``/``u.item`` (100K).
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import polars as pl

from sprec.data.readers.columns import to_events, to_genres, with_id
from sprec.data.readers.files import DAMAGED, Source, chunks, refuse_bomb
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.tables import batches, text_table
from sprec.data.readers.tables import read as read_table
from sprec.data.readers.text import Dialect
from sprec.system.errors import UserError

GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The flags at the end of a line of ``u.item``, in the order of ``u.genre``."""

_ROLES = ("user", "item", "rating", "time")
_CSV = ("userId", "movieId", "rating", "timestamp")
_PLACES = ("1", "2", "3", "4")
_COLONS = Dialect("::", quote=None, header=False, ragged=True)
_TABS = Dialect("\t", quote=None, header=False, ragged=True)
_COMMAS = Dialect(",", quote='"', ragged=True)


def read(source: Path, faults: Faults) -> Log:
    """Open a MovieLens folder or zip, ``source``; dropped rows count in ``faults``.

    Raises:
        UserError: it holds no ratings of a known layout, or no movies.
    """
    files = _Files(source)
    if "ratings.dat" in files:
        return _log(_events(files, "ratings.dat", _COLONS, _PLACES, faults), _movies_dat(files, faults))
    if "ratings.csv" in files:
        return _log(_events(files, "ratings.csv", _COMMAS, _CSV, faults), _movies_csv(files, faults))
    if "u.data" in files:
        return _log(_events(files, "u.data", _TABS, _PLACES, faults), _u_item(files, faults))
    raise UserError(f"{source} holds no MovieLens ratings (ratings.dat, ratings.csv or u.data)")


def _log(events: Iterator[pl.DataFrame], items: pl.DataFrame) -> Log:
    return Log(events, items, noun="movies", verb="watched", whole_catalog=True)


def _events(
    files: "_Files", name: str, dialect: Dialect, columns: Sequence[str], faults: Faults
) -> Iterator[pl.DataFrame]:
    table = text_table(files[name], dialect)
    return to_events(batches(table, dict(zip(_ROLES, columns, strict=True))), name, faults)


class _Files:
    """The files of a folder (or a folder in it) or of a zip, by their bare names."""

    def __init__(self, source: Path) -> None:
        self._archive = self._open_zip(source) if source.is_file() else None
        if self._archive:
            self._names = {PurePosixPath(name).name: name for name in self._archive.namelist()}
        elif source.is_dir():
            found = sorted([*source.glob("*"), *source.glob("*/*")], key=lambda path: -len(path.parts))
            self._names = {path.name: str(path) for path in found if path.is_file()}
        else:
            raise UserError(f"{source} is missing; give a MovieLens folder or zip")
        self._source = source

    @staticmethod
    def _open_zip(source: Path) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(source)
        except DAMAGED as error:
            raise UserError(f"{source} is not a readable zip: {error}; fetch it again") from error

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Source:
        """The bytes of a file.

        Raises:
            UserError: it is missing, empty, or absurdly large once unpacked.
        """
        if name not in self:
            raise UserError(f"{self._source} holds no {name}")
        path, called = self._names[name], f"{name} in {self._source}"
        if self._archive is None:
            size, opened = Path(path).stat().st_size, Path(path).open
            return Source(called, lambda: opened("rb"), self._filled(name, size))
        archive, entry = self._archive, self._archive.getinfo(path)
        refuse_bomb(called, entry.file_size, entry.compress_size)
        size = self._filled(name, entry.compress_size if entry.file_size else 0)
        return Source(called, lambda: cast(BinaryIO, archive.open(entry)), size)

    def _filled(self, name: str, size: int) -> int:
        if not size:
            raise UserError(f"{name} in {self._source} is empty")
        return size

    def text(self, name: str) -> io.StringIO:
        """The text of a file: UTF-8 (10M and later), else Latin-1 (100K, 1M)."""
        try:
            content = b"".join(chunks(self[name]))
        except DAMAGED as error:
            raise UserError(f"cannot read {name} in {self._source}: {error}; fetch it again") from error
        try:
            return io.StringIO(content.decode("utf-8"))
        except UnicodeDecodeError:
            return io.StringIO(content.decode("latin-1"))


def _movies_dat(files: _Files, faults: Faults) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(files.text("movies.dat"), 1):
        fields = line.rstrip("\n").split("::")
        if len(fields) < 3:
            faults.add("malformed_lines", f"movies.dat:{number}: {line.strip()[:60]!r}")
            continue
        rows.append((fields[0], "::".join(fields[1:-1]), fields[-1]))
    return _items(rows, faults)


def _movies_csv(files: _Files, faults: Faults) -> pl.DataFrame:
    names = {"item": "movieId", "title": "title", "genres": "genres"}
    frame = read_table(text_table(files["movies.csv"], replace(_COMMAS, ragged=False)), names)
    return _items(frame.select(list(names)).rows(), faults)


def _u_item(files: _Files, faults: Faults) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(files.text("u.item"), 1):
        fields = line.rstrip("\n").split("|")
        if len(fields) != 5 + len(GENRES_100K):
            faults.add("malformed_lines", f"u.item:{number}: {len(fields)} fields instead of {5 + len(GENRES_100K)}")
            continue
        kinds = [genre for genre, flag in zip(GENRES_100K, fields[5:], strict=True) if flag == "1"]
        rows.append((fields[0], fields[1], "|".join(genre for genre in kinds if genre != "unknown")))
    return _items(rows, faults)


def _items(rows: Sequence[tuple[str | None, ...]], faults: Faults) -> pl.DataFrame:
    texts = dict.fromkeys(("item", "title", "genres"), pl.String)
    frame = with_id(pl.DataFrame(rows, schema=texts, orient="row"), "movies", faults)
    return frame.with_columns(to_genres(frame["genres"], "movies"), detail=pl.lit(None, pl.String)).select(list(ITEMS))
