"""Datasets in other formats: the SPRec layout, RecBole's atomic files, TRL's JSON lines, plain Parquet."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from sprec.data.catalog import Catalog
from sprec.data.dataset import Dataset, Split, whole_directory
from sprec.data.titles import distinguish
from sprec.system.errors import UserError
from sprec.system.parquet import write_parquet
from sprec.system.paths import require_path

_SPREC = {"train": "train", "valid": "valid", "test": "test", "extra": "valid_4096"}


def export(
    dataset: Dataset,
    folder: Path,
    format: str,
    *,
    prompt: Callable[[Sequence[int]], str] | None = None,
    response: Callable[[int], str] | None = None,
) -> Path:
    """Write a dataset to a new folder, completely or not at all; returns the folder.

    Args:
        dataset: what to write.
        folder: must not exist yet.
        format: ``sprec``, ``recbole``, ``trl`` or ``parquet``.
        prompt: turns a history (item ids) into its prompt, for ``trl``.
        response: turns an item into its answer, for ``trl``.

    Raises:
        UserError: an unknown format, a folder that exists, or a full disk.
    """
    if require_path(folder).exists():
        raise UserError(f"{folder} already exists; name a new folder")
    with whole_directory(folder) as scratch:
        if format == "sprec":
            _to_sprec(dataset, scratch)
        elif format == "recbole":
            _to_recbole(dataset, scratch)
        elif format == "parquet":
            _to_parquet(dataset, scratch)
        elif format == "trl" and prompt and response:
            _to_trl(dataset, scratch, prompt, response)
        else:
            raise UserError(f'unknown export format "{format}"; formats: sprec, recbole, trl, parquet')
    return folder


def unique_titles(catalog: Catalog) -> list[str]:
    """The titles of a ``catalog``; a title that several items share is followed by the item's id."""
    return distinguish(catalog.titles, [None] * len(catalog), catalog.source_ids)


def _to_sprec(dataset: Dataset, folder: Path) -> None:
    """``data/NAME`` and ``eval/NAME`` as in the repository of SPRec; titles are unique (the format knows no ids)."""
    titles = unique_titles(dataset.catalog)
    records = {split: _records(dataset, rows, titles) for split, rows in dataset.splits.items()}
    records["extra"] = records.get("valid", []) + records.get("extra", [])  # the official file holds both, too
    for split, name in _SPREC.items():
        _write_json(folder / "data" / dataset.name / f"{name}.json", records.get(split, []))
    facts = folder / "eval" / dataset.name
    ids = dataset.catalog.source_ids
    _write_json(facts / "id2name.json", dict(zip(ids, titles, strict=True)))
    _write_json(facts / "name2id.json", dict(zip(titles, ids, strict=True)))
    _write_json(facts / "name2genre.json", dict(zip(titles, map(list, dataset.catalog.genres), strict=True)))
    _write_json(facts / "genre_dict.json", dict.fromkeys(dataset.genres, 0))


def _records(dataset: Dataset, split: Split, titles: Sequence[str]) -> list[dict[str, str]]:
    wording = dataset.wording
    return [
        {
            "instruction": wording.instruction,
            "input": wording.prefix + ", ".join(f'"{titles[item]}"' for item in row.history) + wording.suffix,
            "output": f'"{titles[row.target]}"\n',
        }
        for row in split
    ]


def _to_recbole(dataset: Dataset, folder: Path) -> None:
    """``NAME.item`` and RecBole's benchmark files ``NAME.{train,valid,test,extra}.inter``, a window per line.

    RecBole splits lists at spaces, so spaces inside a genre become no-break spaces.
    """
    catalog, name = dataset.catalog, dataset.name
    spaced = any(character.isspace() for id_ in catalog.source_ids for character in id_)
    ids = tuple(map(str, range(len(catalog)))) if spaced else catalog.source_ids
    genres = [" ".join(genre.replace(" ", "\u00a0") for genre in own) for own in catalog.genres]
    items = ["\t".join(row) for row in zip(ids, catalog.titles, genres, strict=True)]
    _write_lines(folder / f"{name}.item", ["item_id:token\ttitle:token_seq\tgenres:token_seq", *items])
    for part, split in dataset.splits.items():
        rows = [f"{i}\t{' '.join(ids[item] for item in row.history)}\t{ids[row.target]}" for i, row in enumerate(split)]
        header = "session_id:token\titem_id_list:token_seq\titem_id:token"
        _write_lines(folder / f"{name}.{part}.inter", [header, *rows])


def _to_trl(
    dataset: Dataset, folder: Path, prompt: Callable[[Sequence[int]], str], response: Callable[[int], str]
) -> None:
    """``{train,valid,test,extra}.jsonl`` in TRL's prompt-completion form, plus the item ids."""
    for name, split in dataset.splits.items():
        rows = [
            {
                "prompt": prompt(row.history),
                "completion": response(row.target),
                "history": list(row.history),
                "target": row.target,
            }
            for row in split
        ]
        _write_lines(folder / f"{name}.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])


def _to_parquet(dataset: Dataset, folder: Path) -> None:
    """``items.parquet`` and a table per split with ids and titles side by side."""
    write_parquet(dataset.catalog.frame(), folder / "items.parquet")
    titles = dataset.catalog.titles
    for name, split in dataset.splits.items():
        histories = [[titles[item] for item in row.history] for row in split]
        named = {
            "history_titles": pl.Series(histories, dtype=pl.List(pl.String)),
            "target_title": pl.Series([titles[item] for item in split.targets], dtype=pl.String),
        }
        write_parquet(split.frame(name).drop("split").with_columns(**named), folder / f"{name}.parquet")


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
