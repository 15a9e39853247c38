"""A dataset on disk: a catalog, splits of examples, and what is known about where they came from.

A dataset is a directory: ``items.parquet`` (item_id, title, genres, source_id), ``sequences.parquet`` (split,
history, target: item ids) and ``dataset.json`` (name, wording, genres, counts, source, warnings, hashes).
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import polars as pl

from sprec.data.about import FORMAT, Wording, read_about
from sprec.data.catalog import Catalog
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE, parse_parquet, write_parquet
from sprec.system.paths import require_name, require_path

SPLITS = ("train", "valid", "test", "extra")


class Example(NamedTuple):
    """A user's ``history`` (item ids, oldest first) and the ``target``, the item that came next."""

    history: tuple[int, ...]
    target: int


class Split(Sequence[Example]):
    """A read-only sequence of examples, stored flat: all history items in one array.

    Args:
        items: all histories one after the other, shape (sum of lengths,).
        offsets: where each history starts and the last one ends, shape (n+1,).
        targets: the items that came next, shape (n,).

    Examples:
        >>> split = Split.of([([3, 1], 2), ([0], 3)])
        >>> split[0]
        Example(history=(3, 1), target=2)
        >>> split.items.tolist(), split.offsets.tolist(), split.targets.tolist()
        ([3, 1, 0], [0, 2, 3], [2, 3])
    """

    def __init__(self, items: np.ndarray, offsets: np.ndarray, targets: np.ndarray) -> None:
        self.items = np.asarray(items, dtype=np.int64)
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.targets = np.asarray(targets, dtype=np.int64)
        if len(self.offsets) != len(self.targets) + 1 or self.offsets[-1] != len(self.items):
            raise ValueError("offsets do not fit the items and targets")

    @classmethod
    def of(cls, examples: Iterable[tuple[Sequence[int], int]]) -> "Split":
        """Build a split from ``examples``, (history, target) pairs."""
        pairs = list(examples)
        lengths = [len(history) for history, _ in pairs]
        items = [item for history, _ in pairs for item in history]
        offsets = np.concatenate([[0], np.cumsum(lengths)]) if pairs else np.zeros(1)
        return cls(np.array(items), offsets, np.array([target for _, target in pairs]))

    def __len__(self) -> int:
        return len(self.targets)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Split": ...
    def __getitem__(self, index: int | slice) -> "Example | Split":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        return Example(tuple(self.history(row).tolist()), int(self.targets[row]))

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))

    def history(self, row: int) -> np.ndarray:
        """The history of the example in a ``row``: item ids, oldest first, shape (length,)."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The examples in these ``rows``, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Split(self.items[np.repeat(self.offsets[chosen], lengths) + within], offsets, self.targets[chosen])

    def __add__(self, other: "Split") -> "Split":
        return Split(
            np.concatenate([self.items, other.items]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            np.concatenate([self.targets, other.targets]),
        )

    def frame(self, name: str) -> pl.DataFrame:
        """The split as a table: split (its ``name``), history, target."""
        pieces = [self._histories(first, first + _ROWS) for first in range(0, max(1, len(self)), _ROWS)]
        return pl.DataFrame(
            {"split": [name] * len(self), "history": pl.concat(pieces, rechunk=True), "target": self.targets},
            schema={"split": pl.String, "history": pl.List(pl.Int64), "target": pl.Int64},
        )

    def _histories(self, first: int, stop: int) -> pl.Series:
        """The histories of some rows; as lists of Python those of all rows would need ten times the memory."""
        bounds = self.offsets[first : stop + 1]
        flat, ends = self.items[bounds[0] : bounds[-1]].tolist(), (bounds - bounds[0]).tolist()
        rows = [flat[start:end] for start, end in itertools.pairwise(ends)]
        return pl.Series(rows, dtype=pl.List(pl.Int64))


_ROWS = 1 << 16
_EMPTY = Split.of([])


@dataclass(frozen=True)
class Dataset:
    """Catalog, splits and provenance of one domain.

    Attributes:
        catalog: the items.
        wording: what prompts call items and interactions.
        splits: ``train``, ``valid``, ``test`` and ``extra`` (further sequences for pre-training the scratch
            backbone and SASRec, never for the SFT; older than the test rows where an importer divides a log). A split
            may be empty.
        genres: the selected genres G of the fairness metrics, possibly none.
        warnings: what the reader repaired or dropped, with counts.
        meta: anything else worth keeping (source, options, counts of the full log).
        hash: of the files that it was loaded from; empty for one that is in memory only, changed copies included.

    Raises:
        UserError: a name that no folder can have.

    Examples:
        >>> from sprec.data.demo import demo
        >>> dataset = demo(seed=0, train=3, valid=1, test=2, extra=0, history=4).save("films")
        >>> len(dataset.train), len(dataset.test), dataset.hash == Dataset.load("films").hash
        (3, 2, True)
        >>> dataset.catalog.titles[dataset.test[0].history[0]]
        'Star Wars: Episode IV - A New Hope (1977)'
    """

    name: str
    catalog: Catalog
    splits: Mapping[str, Split]
    genres: tuple[str, ...]
    wording: Wording
    warnings: Mapping[str, int] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    hash: str = field(default="", init=False)

    def __post_init__(self) -> None:
        require_name(self.name)

    @property
    def train(self) -> Split:
        """The training examples of the SFT."""
        return self.splits.get("train", _EMPTY)

    @property
    def valid(self) -> Split:
        """The validation examples: for choosing epochs and hyper-parameters."""
        return self.splits.get("valid", _EMPTY)

    @property
    def test(self) -> Split:
        """The test cases."""
        return self.splits.get("test", _EMPTY)

    @property
    def extra(self) -> Split:
        """Further training sequences (pre-training, SASRec)."""
        return self.splits.get("extra", _EMPTY)

    def save(self, path: Path | str, *, overwrite: bool = False) -> "Dataset":
        """Write the dataset directory, completely or not at all. Returns the dataset with its hash.

        Raises:
            UserError: ``path`` exists and is not a dataset, or is one and ``overwrite`` is off.
        """
        path = require_path(path)
        if path.exists() and not (overwrite and (path / "dataset.json").is_file()):
            raise UserError(f"{path} already exists" + ("" if overwrite else "; pass --overwrite to replace it"))
        with whole_directory(path) as scratch:
            self._write(scratch)
        return Dataset.load(path)

    def _write(self, folder: Path) -> None:
        write_parquet(self.catalog.frame(), folder / "items.parquet")
        frames = [self.splits.get(name, _EMPTY).frame(name) for name in SPLITS]
        write_parquet(pl.concat(frames), folder / "sequences.parquet")
        files = {name: sha256((folder / name).read_bytes()).hexdigest() for name in _TABLES}
        about = {
            "format": FORMAT,
            "name": self.name,
            "wording": asdict(self.wording),
            "genres": list(self.genres),
            "counts": {"items": len(self.catalog)} | {name: len(split) for name, split in self.splits.items()},
            "warnings": dict(self.warnings),
            "meta": dict(self.meta),
            "sha256": files,
            "bytes": {name: (folder / name).stat().st_size for name in _TABLES},
            "versions": storage.versions(),
        }
        about["digest"] = storage.digest(about)
        (folder / "dataset.json").write_text(storage.as_text(about), "utf-8")

    @classmethod
    def load(cls, path: Path | str) -> "Dataset":
        """Read the dataset directory ``path``; check its hashes, and that every item of a row is in the catalog.

        Raises:
            UserError: it is not a dataset, is damaged, or was written by a newer version.
        """
        path = require_path(path)
        about = read_about(path)
        digest = sha256()
        items, sequences = (_verified(path / name, about.sha256.get(name, ""), digest) for name in _TABLES)
        digest.update(json.dumps([about.name, asdict(about.wording), about.genres], sort_keys=True).encode())
        try:
            catalog = Catalog.of_frame(parse_parquet(items))
            splits = _splits_of(parse_parquet(sequences), len(catalog))
        except (ValueError, *UNREADABLE) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the tables of {path} are not a dataset: {reason}; import the dataset again") from error
        loaded = cls(about.name, catalog, splits, tuple(about.genres), about.wording, about.warnings, about.meta)
        object.__setattr__(loaded, "hash", digest.hexdigest())  # no argument, so that replace() drops it
        return loaded


_TABLES = ("items.parquet", "sequences.parquet")


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to write to, which replaces ``path`` when the block succeeds and is removed when it fails.

    The old ``path`` stays until its successor is complete and on the disk.

    Raises:
        UserError: nothing can be written, for example because the disk is full.
    """
    try:
        with storage.replacing(path) as scratch:
            yield scratch
    except (OSError, pl.exceptions.ComputeError) as error:  # polars reports a full disk as either
        raise UserError(f"cannot write {path}: {error}") from error


def _verified(file: Path, expected: str, digest: Any) -> bytes:
    """The content of a file, which must have the expected hash; ``digest`` takes it in."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    digest.update(content)
    if sha256(content).hexdigest() != expected:
        raise UserError(f"{file} does not match the hash in dataset.json: damaged or edited; import the dataset again")
    return content


def _splits_of(frame: pl.DataFrame, items: int) -> dict[str, Split]:
    """The splits in a table whose items must be in a catalog of this size."""
    columns = {"split": pl.String, "history": pl.List(pl.Int64), "target": pl.Int64}
    if {name: frame.schema.get(name) for name in columns} != columns:
        raise ValueError(f"columns must be {', '.join(columns)}")
    if sum(frame.null_count().row(0)) or frame["history"].list.eval(pl.element().is_null()).list.any().any():
        raise ValueError("a row lacks an item")
    unknown = set(frame["split"].unique().to_list()) - set(SPLITS)
    if unknown:
        raise ValueError(f"there is no split {min(unknown)!r}")
    splits = {name: _split_of(frame.filter(pl.col("split") == name)) for name in SPLITS}
    for name, split in splits.items():
        ids = np.concatenate([split.items, split.targets])
        if len(ids) and not 0 <= ids.min() <= ids.max() < items:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"{name} refers to item {wrong}, but the catalog has {items:,} items")
    return splits


def _split_of(frame: pl.DataFrame) -> Split:
    lengths = frame["history"].list.len().to_numpy()
    items = frame["history"].explode().drop_nulls()  # an empty history explodes to a null
    return Split(items.to_numpy(), np.concatenate([[0], np.cumsum(lengths)]), frame["target"].to_numpy())
