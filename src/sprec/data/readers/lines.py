"""Files of one object a line, plain or gzipped: JSON, or the Python literals that some publishers call JSON."""

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sprec.data.readers.files import require_file
from sprec.data.readers.log import Faults
from sprec.data.titles import is_broken
from sprec.system.errors import UserError
from sprec.system.progress import bar

# runs of strings without double quotes and escapes, up to a string that has them (or is double-quoted), or the end
_RUN = re.compile(
    r"""((?:[^'"]*+'[^'"\\]*+')*+[^'"]*+)('[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"|\Z)""", re.DOTALL
)
_SURROGATE = re.compile(r"\\(?:u|U0000)[dD][89a-fA-F]")  # perhaps half of a pair
_REPORT_EVERY = 20_000


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of a plain or gzipped file; blank lines are skipped.

    Raises:
        UserError: missing, empty, or a damaged or cut-off archive.
    """
    if not require_file(path).stat().st_size:
        raise UserError(f"{path} is empty")
    number = 0
    with path.open("rb") as raw, bar(f"reading {path.name}", path.stat().st_size) as progress:
        stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        at = 0
        try:
            for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):
                if not number % _REPORT_EVERY:
                    progress.advance(raw.tell() - at)
                    at = raw.tell()
                if not line.isspace():
                    yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is damaged or incomplete after line {number}: {error}") from error


def read_objects(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file of JSON objects or Python dict literals; other lines are counted."""
    for number, line in read_lines(path):
        try:
            record = parse(line.decode("utf-8"))
        except ValueError as error:  # of decoding, of JSON and of the literal alike
            faults.add("malformed_lines", f"{path.name}:{number}: {error}")
            continue
        yield number, record


def parse(line: str) -> dict[str, Any]:
    """The object on a line: JSON, else a Python literal. Nothing is ever evaluated.

    Texts with half of a character (a lone surrogate), which no file can hold, become None.

    Raises:
        ValueError: neither, or not an object.
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
    """Rewrite ``{u'a': "b's", 'c': None}`` as JSON: strings are requoted, the constants between them renamed.

    Raises:
        ValueError: a string does not end.
    """
    parts: list[str] = []  # in turns what stands between two strings and a string without its quotes
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
