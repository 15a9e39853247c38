"""Top-k lists of any recommender, in files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sprec.data import Catalog, Dataset, Split
from sprec.evaluation import CUTOFFS, Cases
from sprec.runs.cases import cases_of
from sprec.runs.stages import measured
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE, read_parquet
from sprec.system.paths import require_path
from sprec.system.progress import say


@dataclass(frozen=True)
class Lists:
    """Lists for some examples of a split.

    Attributes:
        rows: of the split, ascending, (n,).
        items: item ids, best first, padded with -1, (n, k).
        titles: the titles that a model wrote, equally many for each example; empty if unknown.
    """

    rows: np.ndarray
    items: np.ndarray
    titles: Sequence[str] = ()

    def cases(self, dataset: Dataset, split: str, rows: np.ndarray, ks: Sequence[int]) -> Cases:
        """The input of the metrics.

        Args:
            dataset: of the items.
            split: of the cases.
            rows: the cases that count; all must be there.
            ks: cut-offs, up to the length of the lists.
        """
        places = np.searchsorted(self.rows, rows)
        titles = np.reshape(np.array(self.titles, object), (len(self.rows), -1))[places].ravel().tolist()
        return cases_of(self.items[places], dataset.splits[split].take(rows), dataset, ks, titles)


def score_lists(file: Path, dataset: Dataset, split: str = "test", ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """The metrics of the lists in a file (:func:`read_lists`), over the cases that it covers.

    Args:
        file: the lists.
        dataset: has the catalogue and the cases.
        split: the cases are rows of it.
        ks: cut-offs, up to the length of the lists.

    Raises:
        UserError: the file does not fit the split, or there is no such split.
    """
    found, count = read_lists(file, dataset, split), len(dataset.splits[split])
    if len(found.rows) < count:
        few = f"{len(found.rows):,} of the {count:,} cases of {split}"
        say(f"{few} are covered; DivRatio and ORRatio depend on how many")
    return measured(found.items, dataset.splits[split].take(found.rows), dataset, ks, found.titles)


def read_lists(file: Path, dataset: Dataset, split: str = "test") -> Lists:
    """Read top-k lists: JSON lines, or a Parquet file like those of runs.

    Both have ``case`` (row of the split) and ``items`` (ids or titles, best first), and if a model wrote titles
    ``title`` or, for several per case, ``samples``.

    Args:
        file: Parquet if it ends in ``.parquet``.
        dataset: has the items.
        split: the cases are rows of it.

    Raises:
        UserError: a line is unreadable, a case or item is unknown (names the line), a case occurs twice, only some
            cases have titles, or there is no such split.
    """
    if split not in dataset.splits or not len(dataset.splits[split]):
        raise UserError(f"{dataset.name} has no examples in a split {split!r}")
    lists: dict[int, list[int]] = {}
    titles: dict[int, list[str]] = {}
    for where, entry in _entries(require_path(file)):
        case = _case(entry, where, dataset.splits[split], split)
        if case in lists:
            raise UserError(f"{where}: case {case} occurs twice")
        lists[case] = _items(entry["items"], where, dataset.catalog)
        titles[case] = _titles(entry, where)
    if not lists:
        raise UserError(f"{file} has no recommendations")
    if len({len(own) for own in titles.values()}) > 1:
        raise UserError(f'{file}: every case must have a "title", or as many "samples", or none may')
    rows, width = sorted(lists), max(1, *map(len, lists.values()))
    items = np.array([lists[row] + [-1] * (width - len(lists[row])) for row in rows])
    _say_repeats(file, items)
    return Lists(np.array(rows), items, [title for row in rows for title in titles[row]])


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries, each with its place for messages."""
    try:
        if file.suffix == ".parquet":
            for number, row in enumerate(read_parquet(file).iter_rows(named=True)):
                yield f"{file}, row {number}", row
            return
        lines = file.read_text("utf-8-sig").split("\n")  # titles may contain other line separators
    except UNREADABLE as error:
        raise UserError(f"{file} is not a Parquet file, or is damaged") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", dict(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f'{file}, line {number}: not a JSON object with "case" and "items"') from error


def _case(entry: dict[str, Any], where: str, rows: Split, split: str) -> int:
    if not {"case", "items"} <= set(entry):
        raise UserError(f'{where}: "case" or "items" is missing')
    case = entry["case"]
    if type(case) is not int or not 0 <= case < len(rows):
        raise UserError(f"{where}: case {case!r} is not a row of the {split} split (0 to {len(rows) - 1})")
    return case


def _items(items: Any, where: str, catalog: Catalog) -> list[int]:
    """The ids of a list, which ends at the first -1, the padding of runs."""
    if not isinstance(items, list) or not items:
        raise UserError(f'{where}: "items" must be a list of ids or titles')
    while items and type(items[-1]) is int and items[-1] == -1:
        items = items[:-1]
    return [_item(item, where, catalog) for item in items]


def _item(item: Any, where: str, catalog: Catalog) -> int:
    if isinstance(item, str):
        try:
            return catalog.find(item)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    if type(item) is int and 0 <= item < len(catalog):
        return item
    raise UserError(f"{where}: there is no item {item!r}")


def _titles(entry: dict[str, Any], where: str) -> list[str]:
    titles = entry.get("samples") or ([] if entry.get("title") is None else [entry["title"]])
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise UserError(f'{where}: "title" must be text, "samples" a list of it')
    return titles


def _say_repeats(file: Path, lists: np.ndarray) -> None:
    ordered = np.sort(lists, axis=1)
    repeats = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeats.any():
        some = f"{repeats.sum():,} of {len(lists):,} lists"
        say(f"! {file.name}: {some} name an item more than once; each time counts as a recommendation")
