"""SPRec's records (instruction, input, output): the texts of a row, and matching the titles in them to items.

Titles are in double quotes and may contain quotes and commas themselves. So the text between the first and the last
quote is split at ``", "``, and the longest run of pieces that is a title is taken.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sprec.data.about import Wording
from sprec.data.readers.files import read_json
from sprec.data.titles import clean_title, is_junk, repair_encoding
from sprec.system.errors import UserError

SEPARATOR = '", "'
FIELDS = ("instruction", "input", "output")
_NOUN = re.compile(r"following (\w+)")


class Record(NamedTuple):
    """One row: ``instruction``, ``prefix`` and ``suffix`` around its ``history`` (pieces, oldest first), ``target``."""

    instruction: str
    prefix: str
    pieces: tuple[str, ...]
    suffix: str
    target: str


def read_records(path: Path) -> list[Record]:
    """Read the file ``path``, a JSON list of ``{instruction, input, output}``.

    Raises:
        UserError: it is not such a list; names the file and the row (from 0).
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a JSON list of records, found {type(rows).__name__}")
    return [_record(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a record must be an object, found {type(row).__name__}")
    for name in FIELDS:
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: '{name}' must be text, found {row.get(name)!r:.40}")
    prefix, pieces, suffix = _cut(row["input"])
    return Record(row["instruction"], prefix, pieces, suffix, _unquote(row["output"]))


def _cut(text: str) -> tuple[str, tuple[str, ...], str]:
    first, last = text.find('"'), text.rfind('"')
    if first == last:  # no quote, or a single one
        return text, (), ""
    return text[:first], tuple(text[first + 1 : last].split(SEPARATOR)), text[last + 1 :]


def _unquote(output: str) -> str:
    text = output.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def wording_of(records: Iterable[Record]) -> Wording:
    """The most frequent wording of ``records``; the noun is the word after "following" in the prefix."""
    around = Counter((row.instruction, row.prefix, row.suffix) for row in records)
    (instruction, prefix, suffix), _ = around.most_common(1)[0]
    noun = _NOUN.search(prefix)
    return Wording(instruction, prefix, suffix, noun[1] if noun else "items")


def known_title(pieces: Sequence[str], known: Callable[[str], bool]) -> int:
    """How many leading ``pieces`` make up the longest ``known`` title; 0 if none does."""
    return next((n for n in range(len(pieces), 0, -1) if known(SEPARATOR.join(pieces[:n]))), 0)


class TitleMatcher:
    """Finds the item of a title in a record, and counts repairs.

    Args:
        items: every known spelling of every title, to its item id.
        faults: counts repairs: ``double_encoded_titles`` and ``respelled_titles`` (quotes lost at the ends, HTML
            entities, white space).
    """

    def __init__(self, items: Mapping[str, int], faults: Counter[str]) -> None:
        self._items = items
        self._faults = faults
        self._respelled: dict[str, int] = {}
        for title, item in items.items():
            self._respelled.setdefault(_plain(title), item)
        self._most_pieces = 1 + max((title.count(SEPARATOR) for title in items), default=0)

    def find(self, text: str) -> int | None:
        """The item with the title ``text``, or None; repairs are counted."""
        item, fault = self._look_up(text)
        if fault:
            self._faults[fault] += 1
        return item

    def find_all(self, pieces: Sequence[str]) -> tuple[list[int], list[str]]:
        """The items of a history in ``pieces``, and the pieces that belong to no item."""
        items, unknown = [], []
        at = 0
        while at < len(pieces):
            window = pieces[at : at + self._most_pieces]
            length = known_title(window, lambda text: self._look_up(text)[0] is not None)
            item = self.find(SEPARATOR.join(window[:length])) if length else None
            if item is None:
                unknown.append(pieces[at])
            else:
                items.append(item)
            at += max(length, 1)
        return items, unknown

    def _look_up(self, text: str) -> tuple[int | None, str]:
        if text in self._items:
            return self._items[text], ""
        decoded = repair_encoding(text)
        if decoded in self._items:
            return self._items[decoded], "double_encoded_titles"
        plain = _plain(decoded)
        return (self._respelled[plain], "respelled_titles") if plain in self._respelled else (None, "")


def _plain(title: str) -> str:
    return clean_title(title).strip('" ')


def kind_of_unknown(title: str) -> str:
    """``junk`` for a ``title`` that cannot be one (a scraped tag), ``unknown`` for one that no item has."""
    return "junk" if is_junk(title) else "unknown"
