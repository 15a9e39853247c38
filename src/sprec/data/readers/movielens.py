"""MovieLens in all its layouts, from a folder or a zip: ``ratings.dat``/``movies.dat`` (1M, 10M), ``ratings.csv``/
``movies.csv`` (20M, 25M, 32M, latest) and ``u.data``/``u.item`` (100K).
"""

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from sprec.data.readers.columns import to_events, to_genres, with_id
from sprec.data.readers.log import ITEMS, Faults, Log
from sprec.data.readers.tables import batches, scan_text
from sprec.data.readers.tables import read as read_table
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

_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""What zipfile raises on damaged bytes, on a password and on a method of compression that it does not know."""

_INTEGERS = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}
_CSV = {"userId": pl.Int64, "movieId": pl.Int64, "rating": pl.Float64, "timestamp": pl.String}
_COLONS = {  # "1::122::5::838985046" cut at single colons: every other field is empty
    "user": pl.Int64,
    "": pl.String,
    "item": pl.Int64,
    " ": pl.String,
    "rating": pl.Float64,
    "  ": pl.String,
    "time": pl.Int64,
}


def read(source: Path, faults: Faults) -> Log:
    """Open a MovieLens folder or zip.

    Raises:
        UserError: it holds no ratings of a known layout, or no movies.
    """
    files = _Files(source)
    if "ratings.dat" in files:
        table = scan_text(files["ratings.dat"], separator=":", quote=None, header=False, columns=_COLONS)
        return _log(_events(table, "ratings.dat", faults), _movies_dat(files, faults))
    if "ratings.csv" in files:
        table = scan_text(files["ratings.csv"], columns=_CSV)
        return _log(_events(table, "ratings.csv", faults, _CSV), _movies_csv(files, faults))
    if "u.data" in files:
        table = scan_text(files["u.data"], separator="\t", quote=None, header=False, columns=_INTEGERS)
        return _log(_events(table, "u.data", faults), _u_item(files, faults))
    raise UserError(f"{source} holds no MovieLens ratings (ratings.dat, ratings.csv or u.data)")


def _log(events: Iterator[pl.DataFrame], items: pl.DataFrame) -> Log:
    return Log(events, items, noun="movies", verb="watched", whole_catalog=True)


def _events(
    table: pl.LazyFrame, name: str, faults: Faults, columns: Iterable[str] = _INTEGERS
) -> Iterator[pl.DataFrame]:
    return to_events(batches(table, name, dict(zip(_INTEGERS, columns, strict=True))), name, faults)


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
        except _UNREADABLE as error:
            raise UserError(f"{source} is not a readable zip: {error}; fetch it again") from error

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Path | bytes:
        """The file itself, or its content where it is in a zip; see :meth:`content`."""
        if self._archive or name not in self or not Path(self._names[name]).stat().st_size:
            return self.content(name)
        return Path(self._names[name])

    def content(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            UserError: missing, empty, damaged or encrypted.
        """
        if name not in self._names:
            raise UserError(f"{self._source} holds no {name}")
        try:
            path = self._names[name]
            content = self._archive.read(path) if self._archive else Path(path).read_bytes()
        except _UNREADABLE as error:
            advice = "; fetch the zip again, or unpack it and give the folder" if self._archive else ""
            raise UserError(f"cannot read {name} in {self._source}: {error}{advice}") from error
        if not content:
            raise UserError(f"{name} in {self._source} is empty")
        return content

    def text(self, name: str) -> io.StringIO:
        """The text of a file: UTF-8 (10M and later), else Latin-1 (100K, 1M)."""
        content = self.content(name)
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
    frame = read_table(scan_text(files["movies.csv"]), "movies.csv", names)
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
    frame = with_id(pl.DataFrame(rows, schema=texts, orient="row"), faults)
    return frame.with_columns(to_genres(frame["genres"], "movies"), detail=pl.lit(None, pl.String)).select(list(ITEMS))
