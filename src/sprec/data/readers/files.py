"""Opening users' files: the first bytes, not the name, tell what a file is, and it is read in pieces."""

import codecs
import contextlib
import gzip
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sprec.system.errors import UserError
from sprec.system.paths import require_path
from sprec.system.progress import bar

CHUNK = 1 << 24
"""Bytes that are read at once."""
LONGEST_LINE = 1 << 26
"""A file with a longer line or field, in bytes, is not a log."""
UNPACKED, RATIO = 1 << 28, 200
"""An archive may unpack to this many bytes, and to this many times its own size (logs reach 20 times)."""

DAMAGED = (
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions of reading damaged bytes, a file with a password or an unknown method of compression."""

_GZIP = b"\x1f\x8b"
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # first: UTF-16's mark begins the first
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FOREIGN = (
    (b"PK\x03\x04", "a spreadsheet (.xlsx) or a zip archive; export the sheet as CSV, or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; export the sheet as CSV"),
    (
        b"SQLite format 3\0",
        'a SQLite database; export a table as CSV: sqlite3 -header -csv FILE "select * from NAME"',
    ),
    (b"PAR1", "a Parquet file; rename it to .parquet"),
    (b"ARROW1", "an Arrow file; convert it to Parquet"),
    (b"Obj\x01", "an Avro file; convert it to Parquet"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; decompress it first (zstd -d)"),
    (b"BZh", "compressed with bzip2; decompress it first (bunzip2)"),
    (b"\xfd7zXZ", "compressed with xz; decompress it first (unxz)"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened; export the table as CSV or Parquet"),
    (b"%PDF", "a PDF"),
    (b"<!doctype html", "a web page, perhaps instead of a download; fetch the file again"),
    (b"<html", "a web page, perhaps instead of a download; fetch the file again"),
)


@dataclass(frozen=True)
class Source:
    """Bytes that can be read again from the start: a file, or a file in a zip.

    Attributes:
        name: for messages.
        open: opens it.
        size: in bytes, as stored.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int


def require_file(path: Path) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        UserError: it is missing or a folder, or files cannot have this name.
    """
    if require_path(path).is_file():
        return path
    raise UserError(f"{path} is {'a folder, a file is needed' if path.is_dir() else 'missing'}")


def source_of(path: Path) -> Source:
    """The file ``path`` as a source.

    Raises:
        UserError: it is missing, a folder or empty.
    """
    size = require_file(path).stat().st_size
    if not size:
        raise UserError(f"{path} is empty")
    return Source(str(path), lambda: path.open("rb"), size)


def start_of(path: Path, length: int = 1 << 12) -> bytes:
    """The first ``length`` bytes of the text ``path``, unpacked and as UTF-8; empty if they cannot be read."""
    with contextlib.suppress(*DAMAGED), contextlib.closing(chunks(source_of(path), chunk=length)) as pieces:
        return next(pieces, b"")[:length]
    return b""


def chunks(source: Source, encoding: str = "", chunk: int = CHUNK) -> Generator[bytes]:
    """The bytes of a text as UTF-8, piece by piece; gzip is unpacked, a byte order mark dropped.

    Args:
        source: what to read.
        encoding: of the text; by default according to its byte order mark, else UTF-8 (not checked here).
        chunk: bytes per piece, roughly.

    Raises:
        UserError: it is not text, the encoding does not exist or does not fit, or an archive unpacks to an absurd size.
        BaseException: one of :data:`DAMAGED`.
    """
    with source.open() as raw, bar(f"reading {Path(source.name).name}", source.size) as progress:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        decode = None
        read = at = 0
        while piece := stream.read(chunk):
            read += len(piece)
            if packed:
                refuse_bomb(source.name, read, raw.tell())
            if decode is None:
                decode = _decoder(piece, encoding, source.name)
                piece = decode(piece).removeprefix(codecs.BOM_UTF8)
            else:
                piece = decode(piece)
            yield piece
            progress.advance(raw.tell() - at)
            at = raw.tell()
        if decode is not None:
            yield decode(b"")


def _decoder(start: bytes, encoding: str, name: str) -> Callable[[bytes], bytes]:
    """A function that turns the pieces of a text with this start into UTF-8; an empty piece is the last."""
    head = start[:16].lower()
    for mark, what in _FOREIGN:
        if head.startswith(mark.lower()):
            raise UserError(f"{name} is {what}")
    found = encoding or next((marked for mark, marked in _MARKS.items() if start.startswith(mark)), "")
    if not found:
        if b"\0" in head:
            raise UserError(f"{name} starts with null bytes: not text, or unmarked UTF-16 (--encoding utf-16-le)")
        return bytes
    try:
        decoder = codecs.getincrementaldecoder(found)()
        "".encode(found)  # refuses codecs that are none of text, like zlib
    except LookupError as error:
        raise UserError(f"unknown encoding {found!r:.40}; common ones are utf-8, utf-16, cp1252 and latin-1") from error

    def decode(piece: bytes) -> bytes:
        try:
            return decoder.decode(piece, final=not piece).encode()
        except UnicodeError as error:
            raise UserError(f"{name} is not {found}: {error}; pass its --encoding") from error

    return decode


def refuse_bomb(name: str, unpacked: int, packed: int) -> None:
    """Raise a UserError if an archive unpacks to an absurd size.

    Args:
        name: of the archive, for messages.
        unpacked: bytes so far.
        packed: bytes from which they were unpacked.
    """
    if unpacked > max(UNPACKED, RATIO * packed):
        raise UserError(f"{name} unpacks to more than {RATIO} times its size: not a log")


def read_json(path: Path) -> Any:
    """Read the file ``path``, one JSON document.

    Raises:
        UserError: missing, unreadable, not UTF-8, truncated or otherwise not JSON.
    """
    try:
        return json.loads(require_file(path).read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); is the file complete?") from error
    except ValueError as error:  # a number with thousands of digits
        raise UserError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid JSON: nested too deeply") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the file ``path``, one JSON object.

    Raises:
        UserError: see :func:`read_json`; or it is not an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content
