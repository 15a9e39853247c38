"""Files of objects, one per line or in one array: JSON, or the Python literals that some publishers call JSON."""

import ast
import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sprec.data.readers.files import DAMAGED, LONGEST_LINE, chunks, source_of, start_of
from sprec.data.readers.log import Faults
from sprec.data.titles import is_broken
from sprec.system.errors import UserError

# runs of strings without double quotes and escapes, up to a string that has them (or is double-quoted), or the end
_RUN = re.compile(
    r"""((?:[^'"]*+'[^'"\\]*+')*+[^'"]*+)('[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"|\Z)""", re.DOTALL
)
_SURROGATE = re.compile(r"\\(?:u|U0000)[dD][89a-fA-F]")  # may be half of a pair
_ARRAY_CHUNK = 1 << 20
_OPENING = re.compile(rb"\s*(?:\{\s*[\"'}]|\[\s*[\[{\]])")  # a header may begin with [name], as SQL Server writes it
_BLANK = re.compile(r"[ \t\n\r]*")


def read_lines(path: Path, encoding: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of a plain or gzipped file, as UTF-8; blank lines are skipped.

    Args:
        path: the file.
        encoding: see :func:`~sprec.data.readers.files.chunks`.

    Raises:
        UserError: it is missing, empty or not text, has an endless line, or is a damaged or incomplete archive.
    """
    source, number, rest = source_of(path), 0, b""
    try:
        for piece in chunks(source, encoding):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                number += 1
                if line and not line.isspace():
                    yield number, line
            if len(rest) > LONGEST_LINE:
                raise UserError(
                    f"{path}: line {number + 1} is longer than {LONGEST_LINE >> 20} MiB; no object is that long"
                )
    except DAMAGED as error:
        raise UserError(f"{path} is damaged or incomplete after line {number}: {error}") from error
    if rest and not rest.isspace():
        yield number + 1, rest


def holds_objects(path: Path) -> bool:
    """Whether the file ``path`` is JSON, by its name or its start."""
    plain = path.name.lower().removesuffix(".gz")
    return plain.endswith((".jsonl", ".ndjson", ".json")) or _OPENING.match(start_of(path)) is not None


def read_objects(path: Path, faults: Faults, encoding: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file of JSON objects or Python dict literals, one per line, or of a JSON array.

    Args:
        path: the file.
        faults: counts lines and elements that are not objects.
        encoding: see :func:`read_lines`.

    Raises:
        UserError: see :func:`read_lines`; or the array is not valid JSON.
    """
    if start_of(path).lstrip()[:1] == b"[":
        yield from _elements(path, faults, encoding)
        return
    for number, line in read_lines(path, encoding):
        try:
            record = parse(line.decode("utf-8"))
        except ValueError as error:  # from decoding, JSON or the literal
            faults.add("malformed_lines", f"{path.name}:{number}: {error}")
            continue
        yield number, record


def _elements(path: Path, faults: Faults, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array, element by element, with the lines on which they start."""
    array, objects = _Array(path, encoding), 0
    for number, element in array:
        if isinstance(element, dict):
            objects += 1
            yield number, element
        else:
            faults.add("malformed_lines", f"{path.name}:{number}: not an object: {element!r:.60}")
    if objects and array.goes_on():
        raise array.wrong("something follows the array; write one array, or one object a line")


class _Array:
    """A JSON array that is read piece by piece."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._path = path
        self._text, self._at, self._line = "", 0, 1
        self._pieces = self._read(encoding)
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        self._next()
        self._at += 1  # its bracket
        while (mark := self._next()) != "]":
            line, element = self._line, self._element()
            yield line, element
            mark = self._next()
            if mark not in (",", "]"):
                raise self.wrong(
                    "no comma between two elements of the array"
                    if mark
                    else "the array has no end; is the file complete?"
                )
            self._at += mark == ","
        self._at += 1

    def goes_on(self) -> bool:
        """Whether anything follows the array."""
        return self._next() != ""

    def wrong(self, what: str) -> UserError:
        """An error that names the current line."""
        return UserError(f"{self._path}:{self._line}: {what}")

    def _read(self, encoding: str) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for piece in chunks(source_of(self._path), encoding, _ARRAY_CHUNK):
                yield decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path} is not UTF-8: {error}; pass its --encoding") from error
        except DAMAGED as error:
            raise UserError(f"{self._path} is damaged or incomplete after line {self._line}: {error}") from error

    def _more(self) -> bool:
        """Read another piece and drop what has been parsed."""
        piece = next(self._pieces, None)
        self._text, self._at = self._text[self._at :] + (piece or ""), 0
        return piece is not None

    def _next(self) -> str:
        """The next character that is not white space, without consuming it; empty at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank is not None
            self._line += blank[0].count("\n")
            self._at = blank.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _element(self) -> Any:
        while True:
            try:
                element, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # a number at the end may go on
                    if _SURROGATE.search(self._text, self._at, end):
                        element = _without_halves(element)
                    break
            except (ValueError, RecursionError) as error:
                tried = len(self._text) - self._at
                more = self._more() if tried <= LONGEST_LINE and not isinstance(error, RecursionError) else False
                while more and len(self._text) < 2 * tried:
                    more = self._more()
                if len(self._text) - self._at <= tried:
                    raise self.wrong(f"not valid JSON ({error!s:.80}); is the file complete?") from error
        self._line += self._text.count("\n", self._at, end)
        self._at = end
        return element


def parse(line: str) -> dict[str, Any]:
    """The object on a ``line``: JSON, else a Python literal. Nothing is ever evaluated.

    Texts with a lone surrogate (half of a character), which cannot be encoded, become None.

    Raises:
        ValueError: it is neither, or not an object.
    """
    try:
        try:
            record = json.loads(line)
        except ValueError:
            record = _parse_literal(line)
        if _SURROGATE.search(line):
            record = _without_halves(record)
    except RecursionError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"not an object: {line.strip()[:60]!r}")
    return record


def _without_halves(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_halves(inner) for key, inner in value.items() if not is_broken(str(key))}
    if isinstance(value, list):
        return [_without_halves(inner) for inner in value]
    return None if isinstance(value, str) and is_broken(value) else value


def _parse_literal(line: str) -> Any:
    """A Python literal, by rewriting it as JSON (several times faster than parsing Python), else by ``ast``."""
    try:
        return json.loads(literal_to_json(line), strict=False)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        pass
    try:
        return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def literal_to_json(line: str) -> str:
    """Rewrite a ``line`` like ``{u'a': "b's", 'c': None}`` as JSON: requote strings, rename the constants.

    Raises:
        ValueError: a string does not end.
    """
    parts: list[str] = []  # alternately the text between two strings and a string without its quotes
    length = 0
    for plain, special in _RUN.findall(line):
        length += len(plain) + len(special)
        parts += plain.split("'")
        if not special:  # the end
            break
        parts.append(json.dumps(ast.literal_eval(special))[1:-1])
    if length != len(line):
        raise ValueError("a string without an end")
    between = "\0".join(parts[::2]).replace("None", "null").replace("True", "true").replace("False", "false")
    parts[::2] = between.replace("u\0", "\0").split("\0")
    return '"'.join(parts)
