"""The record of a run, small enough to commit: the lists of its last evaluation and all its metrics.

Together with the dataset, records suffice for every table and figure; the models can be deleted. A job that has a
record, made by the same recipe from the same data, is not run again.

At first a record is a JSON file, ``records/DATASET/METHOD/PROTOCOL/seedN.json``. :func:`pack` moves those of a dataset
into a Parquet file, ``records/DATASET.parquet``; both are found in the same way.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sprec.config import SCHEMA, HuggingFace, Recipe
from sprec.data import Dataset
from sprec.evaluation import CUTOFFS, Cases
from sprec.runs.cases import cases_of
from sprec.runs.finished import backbone_of, read_run, stage_of
from sprec.runs.keys import EVERYTHING, settings_of
from sprec.runs.pipeline import Result, load_results, result_of
from sprec.runs.pipeline import record as result_record
from sprec.runs.protocols import trains_model
from sprec.runs.session import Session
from sprec.runs.stages import RECOMMENDATIONS, given, read_recommendations
from sprec.runs.store import Store
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.parquet import UNREADABLE, read_parquet, write_parquet
from sprec.system.progress import say


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        key: hash of recipe and data.
        lists: items of the last evaluation, best first, (n, k).
        results: the metrics of every evaluated stage.
        seconds: wall time of the run; 0 if it was already finished.
        precision: of the forward passes, ``bf16`` or ``fp32``.
        backbone: digest of the weights of the backbone that the run made or shares with another run; empty if the
            recipe makes none. Training it again elsewhere gives other weights by the same recipe.
        proven: share of the lists of which the search has proven that no better one exists; None where nothing was
            searched, or an earlier version wrote the record.
    """

    key: str
    lists: np.ndarray
    results: Sequence[Result]
    seconds: float
    precision: str
    backbone: str = ""
    proven: float | None = None

    def cases(self, dataset: Dataset, split: str = "test", ks: Sequence[int] = CUTOFFS) -> Cases:
        """The cases of its lists: the first of a ``split`` of the ``dataset``, at cut-offs ``ks``."""
        return cases_of(self.lists, dataset.splits[split][: len(self.lists)], dataset, ks)

    @property
    def digest(self) -> str:
        """The hash of the record's content, by which edited lists are noticed."""
        results = [result_record(result) for result in self.results]
        content = [self.key, self.backbone, self.precision, round(self.seconds, 1), results, self.lists.tolist()]
        return storage.digest(content + [self.proven] * (self.proven is not None))

    def write(self, file: Path) -> None:
        """Write the record to a ``file``, completely or not at all."""
        lists = ",\n".join(json.dumps(row, separators=(",", ":")) for row in self.lists.tolist())
        head: dict[str, Any] = {"key": self.key, "backbone": self.backbone, "precision": self.precision}
        head |= {"seconds": round(self.seconds, 1), "results": [result_record(result) for result in self.results]}
        head |= {"proven": self.proven} if self.proven is not None else {}
        head["digest"] = self.digest
        text = json.dumps(head, ensure_ascii=False, indent=1)
        with storage.writing(file, _GOES_ON):
            file.parent.mkdir(parents=True, exist_ok=True)
            storage.write_text(file, f'{text[:-2]},\n "lists": [\n{lists}\n]\n}}\n')

    @classmethod
    def read(cls, file: Path) -> "Record":
        """Read a ``file`` of :meth:`write`.

        Raises:
            UserError: the file is not a record, or was edited.
        """
        try:
            found: Any = storage.read_json(file)
            record = cls._of(found, found["results"])
            whole = found.get("digest") == record.digest
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not the record of a run; remove it to run this one again") from error
        if not whole:
            raise UserError(f"{file} is damaged or was edited; remove it to run this one again")
        return record

    @classmethod
    def _of(cls, found: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> "Record":
        lists, backbone = np.array(found["lists"], dtype=np.int64), found.get("backbone", "")
        made = [result_of(**entry) for entry in results]
        proven = found.get("proven")
        return cls(found["key"], lists, made, found["seconds"], found["precision"], backbone, proven)


def key_of(recipe: Recipe, dataset: Dataset) -> str:
    """The key of a record: a hash of all settings of a ``recipe`` that affect numbers, and of the ``dataset``."""
    backbone = given(recipe).key if isinstance(recipe.backbone, HuggingFace) and trains_model(recipe) else ""
    return storage.digest([SCHEMA, settings_of(recipe, EVERYTHING), backbone, dataset.hash])[:16]


def find(file: Path, key: str) -> Record | None:
    """The record of a job, None if it is missing, damaged, or of another recipe or other data.

    Args:
        file: of the record, which may be in the dataset's Parquet file instead.
        key: of :func:`key_of`.
    """
    try:
        record = at(file)
    except UserError as error:
        say(f"! {error}")
        return None
    return record if record is not None and record.key == key else None


def at(file: Path) -> Record | None:
    """The record in a file, whatever its recipe; None if there is none.

    Args:
        file: as in :func:`find`.

    Raises:
        UserError: it is not a record, or was edited.
    """
    return Record.read(file) if file.is_file() else _packed(file)


def stored(folder: Path, *, unsigned: bool = False) -> dict[str, Record]:
    """Every record below a folder ``records``, packed or not: DATASET/METHOD/PROTOCOL/seedN to the record.

    Args:
        folder: the folder.
        unsigned: accept packed records without a digest, which earlier versions wrote.

    Raises:
        UserError: a file is not a record, or was edited.
    """
    found = {
        f"{file.stem}/{place}": record
        for file in folder.glob("*.parquet")
        for place, record in _archive(file, unsigned=unsigned).items()
    }
    for file in folder.rglob("*.json"):
        found[file.relative_to(folder).with_suffix("").as_posix()] = Record.read(file)
    return dict(sorted(found.items()))


def pack(folder: Path, records: Mapping[str, Record] | None = None) -> list[Path]:
    """Move the records below a folder ``records`` into one Parquet file for each dataset.

    Args:
        folder: has a folder of JSON files for each dataset; packed records stay.
        records: to write instead of those in the folder (:func:`stored`).

    Returns:
        The files written.

    Raises:
        UserError: a file is not a record, or nothing can be written.
    """
    by_dataset: dict[str, dict[str, Record]] = {}
    for name, record in (stored(folder) if records is None else records).items():
        dataset, _, place = name.partition("/")
        by_dataset.setdefault(dataset, {})[place] = record
    files = []
    with storage.writing(folder, "the records are where they were"):
        for dataset, own in by_dataset.items():
            files.append(folder / f"{dataset}.parquet")
            with storage.replacing_file(files[-1]) as scratch:
                write_parquet(_frame(own), scratch)
            for place in own:
                (folder / dataset / f"{place}.json").unlink(missing_ok=True)
            for emptied in [*sorted((folder / dataset).rglob("*/"), reverse=True), folder / dataset]:
                with suppress(OSError):  # it contains other files
                    emptied.rmdir()
    return files


_GOES_ON = "the run itself is complete, the same command goes on"
_COLUMNS: Mapping[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("place", "key", "backbone", "precision", "results", "digest"), pl.String),
    "seconds": pl.Float64,
    "proven": pl.Float64,
    "lists": pl.List(pl.List(pl.Int32)),
}


def _frame(records: Mapping[str, Record]) -> pl.DataFrame:
    rows = [
        {
            "place": place,
            "key": own.key,
            "backbone": own.backbone,
            "precision": own.precision,
            "results": json.dumps([result_record(result) for result in own.results]),
            "seconds": round(own.seconds, 1),
            "proven": own.proven,
            "lists": own.lists.tolist(),
            "digest": own.digest,
        }
        for place, own in records.items()
    ]
    return pl.DataFrame(rows, schema=_COLUMNS)


def _packed(file: Path) -> Record | None:
    """The record from the Parquet file of its dataset."""
    folder = next((path for path in file.parents if path.parent.name == "records"), file.parent)
    archive = folder.parent / f"{folder.name}.parquet"
    place = file.relative_to(folder).with_suffix("").as_posix()
    return _archive(archive).get(place) if archive.is_file() else None


def _archive(file: Path, *, unsigned: bool = False) -> Mapping[str, Record]:
    """The records of a Parquet file by their paths, read once unless the file changes."""
    return _read_archive(file, file.stat().st_mtime_ns, unsigned)


@lru_cache(maxsize=8)
def _read_archive(file: Path, changed: int, unsigned: bool) -> Mapping[str, Record]:
    try:
        frame = read_parquet(file)
        signed = not unsigned or "digest" in frame.columns
        added = {"proven"} | (set() if signed else {"digest"})  # columns that earlier versions did not write
        rows = frame.select(*(name for name in _COLUMNS if name in frame.columns or name not in added)).rows(named=True)
        found = {row["place"]: Record._of(row, storage.parsed(row["results"])) for row in rows}
        edited = [row["place"] for row in rows if signed and row["digest"] != found[row["place"]].digest]
    except (OSError, ValueError, KeyError, TypeError, *UNREADABLE) as error:
        raise UserError(f"{file} does not hold records of runs; remove it to run these again") from error
    if edited:
        raise UserError(f"{file}: the record of {edited[0]} is damaged or was edited; put the file back, or remove it")
    return found


def of_run(run: Path, key: str, seconds: float, precision: str) -> Record:
    """The record of a finished ``run``, with its ``key``, ``seconds`` and ``precision``.

    Raises:
        UserError: the run is not finished, or its last lists are damaged or another run's.
    """
    results = load_results(run)
    folder = stage_of(run, f"evaluate-{results[-1].stage}-{results[-1].iteration}").folder
    found = read_recommendations(folder / RECOMMENDATIONS)
    proven = None if found.proven is None else float(found.proven.mean())
    return Record(key, found.items, results, seconds, precision, weights_of(run), proven)


def weights_of(run: Path) -> str:
    """Digest of the weights of a ``run``'s backbone, made in the run or given to it; empty without one."""
    backbone = backbone_of(Session(*read_run(run), Store(run)))
    if backbone.folder == Path():
        return backbone.key[:16]
    files = storage.read_manifest(backbone.folder)["files"]
    weights = {name: about["sha256"] for name, about in files.items() if name.startswith("model/")}
    return storage.digest(weights)[:16]
