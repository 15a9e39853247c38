"""Delimited text, in blocks of complete rows of a few megabytes, whose quotes are checked before they are parsed.

A block in which every quote opens a field, closes one or is doubled inside one is parsed by polars. Any other block,
and text with escapes, goes to Python's ``csv`` in strict mode, which reads a quote inside an unquoted field as a letter
and names the line of a quote that is never closed.
"""

import csv
import io
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from sprec.data.readers.files import CHUNK, DAMAGED, LONGEST_LINE, Source, chunks
from sprec.data.readers.log import LINE
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE

_SEPARATORS = ",;\t|"
_UNIT = "\x1f"
"""The unit separator, which replaces a separator of several characters during parsing."""
_BATCH = 100_000
"""Rows per batch of Python's ``csv``."""
_WIDEST = 10_000
"""A file with more columns is not a table."""
_QUOTED = "; put quotes around fields with quotes, line breaks or the separator and double the quotes inside"
_ADVICE = f"{_QUOTED}, or pass --quote none if quotes have no meaning, --escape '\\' if backslashes escape them"


@dataclass(frozen=True)
class Dialect:
    """How text is split into rows and fields.

    Attributes:
        separator: between fields, one character or more; empty for the most frequent of ``, ; tab |`` in the first
            line.
        quote: around fields; None for no quotes; empty for ``"``, or none if the separator is a tab or several
            characters (unless the first line is quoted).
        escape: makes the next character literal; empty for none.
        header: the first line names the columns; if not, they are called 1, 2, 3, ...
        encoding: of the text; empty for that of the byte order mark, else UTF-8.
        ragged: fields beyond those of the first line are ignored; if not, they are an error.

    Raises:
        UserError: quote or escape has several characters, or is also the separator.
    """

    separator: str = ""
    quote: str | None = ""
    escape: str = ""
    header: bool = True
    encoding: str = ""
    ragged: bool = False

    def __post_init__(self) -> None:
        for name, mark in (("quote", self.quote or ""), ("escape", self.escape)):
            if len(mark.encode()) > 1 or mark in ("\n", "\r"):
                raise UserError(f"the {name} must be one ASCII character, got {mark!r:.40}")
        if "\n" in self.separator or (self.separator and self.separator in (self.quote, self.escape)):
            raise UserError(f"{self.separator!r:.40} cannot separate fields beside this quote and escape")
        if self.escape and self.escape == self.quote:
            raise UserError("quote and escape must differ; that quotes are doubled inside of fields needs no escape")


class Text:
    """Delimited text, opened.

    Args:
        source: the bytes.
        dialect: how they are split.

    Attributes:
        columns: their names, stripped.

    Raises:
        UserError: it is not text, is empty, or its first line cannot be parsed.
    """

    def __init__(self, source: Source, dialect: Dialect) -> None:
        self._source = source
        self._careful = not dialect.quote  # an explicit quote is obeyed, line breaks included
        blank, line = self._first_line(dialect.encoding)
        first = self._decoded(line.rstrip(b"\r\n"), 1)
        separator = dialect.separator or max(_SEPARATORS, key=first.count)
        self._dialect = replace(dialect, separator=separator, quote=_quote_of(first, separator, dialect.quote))
        try:
            names = [name.strip().strip("\ufeff") for name in next(self._cut([first]), [])]
        except csv.Error as error:
            raise self._wrong(1, f"cannot be cut into fields ({error}){_ADVICE}") from error
        if len(names) > _WIDEST:
            raise UserError(f"{source.name} has {len(names):,} columns; is {separator!r} its separator (--separator)?")
        self.columns = names if dialect.header else [str(number + 1) for number in range(len(names))]
        self._skip = len(blank) + len(line) if dialect.header else 0
        self._first = 1 + blank.count(b"\n") + 1 if dialect.header else 1

    def _first_line(self, encoding: str) -> tuple[bytes, bytes]:
        """The blank start, and the first line after it."""
        start = b""
        with closing(self._pieces(encoding, 1 << 16)) as pieces:
            for piece in pieces:
                start += piece
                if b"\n" in start.lstrip(b"\r\n") or len(start) > LONGEST_LINE:
                    break
        text = start.lstrip(b"\r\n")
        line = text[: text.find(b"\n") + 1] or text
        if b"\r" in line.rstrip(b"\r\n"):
            raise UserError(f"{self._source.name} has old Mac line endings; save it with Unix or Windows line endings")
        return start[: len(start) - len(text)], line

    def _pieces(self, encoding: str, chunk: int = 0) -> Generator[bytes]:
        try:
            yield from chunks(self._source, encoding, chunk or CHUNK)
        except DAMAGED as error:
            raise UserError(
                f"cannot read {self._source.name}: {error}; it is damaged or incomplete; write or fetch it again"
            ) from error

    def _rows(self) -> Iterator[bytes]:
        """The pieces after the header."""
        skip = self._skip
        for piece in self._pieces(self._dialect.encoding):
            yield piece[skip:]
            skip = max(0, skip - len(piece))

    def _decoded(self, content: bytes, line: int) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            at = line + content.count(b"\n", 0, error.start)
            raise self._wrong(
                at, "is not UTF-8; save the file as UTF-8, or pass its --encoding (cp1252, latin-1)"
            ) from error

    def _wrong(self, line: int, what: str) -> UserError:
        return UserError(f"cannot read {self._source.name}: line {line} {what}")

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows in batches: the columns by place (``0``, ``1``, ...) as text, and line numbers.

        Raises:
            UserError: a row cannot be parsed, or the file is damaged.
        """
        pieces, rest, line, last = self._rows(), b"", self._first, False
        while not last:
            piece = next(pieces, None)
            last = piece is None
            buffer = rest + (piece or b"")
            end = self._end_of_rows(buffer, line, last=last)
            if end is None:
                yield from self._by_csv(self._lines(buffer, pieces, line), line)
                return
            block, rest = buffer[:end], buffer[end:]
            if block:
                yield self._parsed(block, line)
            line += block.count(b"\n")
            self._require_end(rest, line)

    def _require_end(self, rest: bytes, line: int) -> None:
        if len(rest) > LONGEST_LINE:
            long = f"is longer than {LONGEST_LINE >> 20} MiB"
            raise self._wrong(line, f"{long}: not a table, or a quote is never closed{_ADVICE}")

    def _end_of_rows(self, buffer: bytes, line: int, *, last: bool) -> int | None:
        """How many bytes are complete rows with well-placed quotes; None if ``csv`` must parse them."""
        quote = self._dialect.quote
        if self._dialect.escape:
            return None
        if quote is None or quote.encode() not in buffer:
            return len(buffer) if last else buffer.rfind(b"\n") + 1
        letters = np.frombuffer(buffer, np.uint8)
        quotes, breaks = np.flatnonzero(letters == ord(quote)), np.flatnonzero(letters == ord("\n"))
        inside = np.searchsorted(quotes, breaks) % 2 == 1
        ends = breaks[~inside] + 1
        end = len(buffer) if last else int(ends[-1]) if len(ends) else 0
        quotes = quotes[quotes < end]
        if not _well_placed(letters[:end], quotes, self._dialect.separator.encode()):
            return None
        for row in np.unique(np.searchsorted(ends, breaks[inside & (breaks < end)])).tolist():
            start = int(ends[row - 1]) if row else 0
            content = buffer[start : ends[row] if row < len(ends) else end]
            at = line + buffer.count(b"\n", 0, start)
            self._refuse_swallowed(self._decoded(content, at).removesuffix("\n").split("\n"), at)
        return end

    def _parsed(self, block: bytes, line: int) -> pl.DataFrame:
        """A block parsed by polars, without its empty rows."""
        separator = self._dialect.separator
        if len(separator.encode()) > 1:
            block = block.replace(_UNIT.encode(), b" ").replace(separator.encode(), _UNIT.encode())
            separator = _UNIT
        head = separator.join(map(str, range(len(self.columns)))).encode() + b"\n"
        try:
            frame = pl.read_csv(
                head + block,
                separator=separator,
                quote_char=self._dialect.quote,
                infer_schema=False,
                truncate_ragged_lines=self._dialect.ragged,
                row_index_name=LINE,
                row_index_offset=line,
            )
        except UNREADABLE as error:
            for _ in self._by_csv(io.StringIO(self._decoded(block, line), newline="\n"), line):
                pass  # names the line
            raise UserError(f"cannot read {self._source.name}: {str(error).splitlines()[0]}") from error
        if separator != self._dialect.separator and self._dialect.quote:
            frame = frame.with_columns(pl.col(pl.String).str.replace_all(_UNIT, self._dialect.separator, literal=True))
        return frame if not frame["0"].null_count() else frame.filter(~pl.all_horizontal(pl.exclude(LINE).is_null()))

    def _lines(self, rest: bytes, pieces: Iterator[bytes], line: int) -> Iterator[str]:
        """The remaining lines, with their ends."""
        while True:
            whole, end, rest = rest.rpartition(b"\n")
            yield from io.StringIO(self._decoded(whole + end, line), newline="\n")
            line += whole.count(b"\n") + len(end)
            self._require_end(rest, line)
            piece = next(pieces, None)
            if piece is None:
                break
            rest += piece
        if rest:
            yield self._decoded(rest, line)

    def _by_csv(self, lines: Iterable[str], line: int) -> Iterator[pl.DataFrame]:
        """Rows parsed by Python's ``csv``; ``line`` is the number of the first."""
        batch: list[list[str | int | None]] = []
        seen: list[str] = []
        rows = self._cut(_noted(lines, seen))
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise self._wrong(line, f"cannot be cut into fields ({error}){_ADVICE}") from error
            if row is None:
                break
            if any(row):
                batch.append([line, *self._fitted(row, seen, line)])
            line += len(seen)
            seen.clear()
            if len(batch) == _BATCH:
                yield self._frame(batch)
                batch = []
        if batch:
            yield self._frame(batch)

    def _fitted(self, row: list[str], lines: list[str], line: int) -> list[str | None]:
        """A row with as many fields as there are columns."""
        width = len(self.columns)
        if len(row) > width and not self._dialect.ragged:
            where = f"line {line}: {len(row)} fields, not {width}"
            how = "put quotes around fields that hold the separator"
            raise UserError(f"cannot read {self._source.name}: a row has more fields than the header; {how} ({where})")
        self._refuse_swallowed(lines, line)
        return [*(field or None for field in row[:width]), *[None] * (width - len(row))]

    def _frame(self, rows: list[list[str | int | None]]) -> pl.DataFrame:
        schema = {LINE: pl.Int64} | {str(place): pl.String for place in range(len(self.columns))}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _cut(self, lines: Iterable[str]) -> Iterator[list[str]]:
        own = self._dialect
        separator = own.separator if len(own.separator) == 1 else _UNIT
        replaced = separator != own.separator
        if replaced:
            lines = (line.replace(_UNIT, " ").replace(own.separator, _UNIT) for line in lines)
        if own.escape:  # a null of MySQL, before its N becomes a letter
            around = re.escape(separator)
            null = re.compile(rf"(^|{around}){re.escape(own.escape)}N(?=[{around}\r\n]|$)")
            lines = (null.sub(r"\1", line) for line in lines)
        csv.field_size_limit(LONGEST_LINE)
        rows = csv.reader(
            lines,
            delimiter=separator,
            quotechar=own.quote,
            escapechar=own.escape or None,
            quoting=csv.QUOTE_MINIMAL if own.quote else csv.QUOTE_NONE,
            strict=True,
        )
        return ([field.replace(_UNIT, own.separator) for field in row] for row in rows) if replaced else rows

    def _refuse_swallowed(self, lines: list[str], line: int) -> None:
        """Refuse a row of several lines each of which looks like a row: its outer quotes hardly belong together."""
        separator, last = self._dialect.separator, line + len(lines) - 1
        alike = all(part.count(separator) == len(self.columns) - 1 for part in lines)
        if self._careful and len(lines) > 1 and alike:
            raise self._wrong(
                line,
                f"opens a quote that is closed on line {last}, but each of these lines looks like a row; pass "
                "--quote none if quotes have no meaning, --quote '\"' if this is a single field",
            )


def _quote_of(first: str, separator: str, wanted: str | None) -> str | None:
    """The quote of a text with this first line."""
    if wanted != "":
        return wanted
    quoted = all(len(field) > 1 and field[0] == field[-1] == '"' for field in first.split(separator))
    return '"' if quoted or (separator != "\t" and len(separator) == 1) else None


def _well_placed(letters: np.ndarray, quotes: np.ndarray, separator: bytes) -> bool:
    """Whether each of these quotes opens a field, closes one or is doubled inside one."""
    opening, closing = quotes[::2], quotes[1::2]
    before = letters[opening[opening > 0] - 1]
    after = letters[closing[closing < len(letters) - 1] + 1]
    beside = [ord("\n"), *letters[quotes[:1]]]
    return bool(
        len(opening) == len(closing)
        and np.isin(before, [*beside, separator[-1]]).all()
        and np.isin(after, [*beside, ord("\r"), separator[0]]).all()
    )


def _noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    """The lines, each appended to ``seen`` as it is taken."""
    for line in lines:
        seen.append(line)
        yield line
