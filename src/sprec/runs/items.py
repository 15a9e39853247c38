"""Changing the catalog of a finished run without training: items are added, removed and renamed; the weights stay.

A language model recommends by title, so it can recommend what it was never trained on. Recommenders of ids (SASRec,
kNN) cannot: their protocols refuse on a run whose items have changed.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sprec.data import Catalog, Dataset, Split
from sprec.data.again import read_goods
from sprec.data.titles import same_title
from sprec.runs.finished import policy_key, sealed
from sprec.runs.lineage import lineage, step
from sprec.runs.pipeline import describe
from sprec.runs.protocols import trains_model
from sprec.runs.recommender import open_run
from sprec.runs.session import Session
from sprec.runs.store import KEPT, RECIPE, Store
from sprec.runs.tilt_stage import carry_over
from sprec.system import storage
from sprec.system.errors import UserError


@dataclass(frozen=True)
class Change:
    """A change of the items of a run.

    Attributes:
        kind: ``add``, ``remove`` or ``rename``.
        items: how many.
        dataset: the data with the changed items.
        before: the previous id of each item, -1 for a new one, shape (items,).
    """

    kind: str
    items: int
    dataset: Dataset
    before: np.ndarray


def add_items(run: Path, goods: Path, out: Path) -> Change:
    """Make a run with further items at the end of its catalog; the ids of the others stay.

    Args:
        run: a finished run with a language model.
        goods: a table with the columns of the run's list of items: id, title and, if there are any, genres.
        out: folder of the new run.

    Raises:
        UserError: an id or title is known, repeated or missing, or the run recommends by ids.
    """
    dataset = open_run(run).dataset
    new = read_goods(goods, dataset.meta)
    _refuse_known(goods, new, dataset.catalog)
    catalog = dataset.catalog
    grown = Catalog(catalog.titles + new.titles, catalog.genres + new.genres, catalog.source_ids + new.source_ids)
    before = np.concatenate([np.arange(len(catalog)), np.full(len(new), -1)])
    return _write(run, out, Change("add", len(new), replace(dataset, catalog=grown), before))


def remove_items(run: Path, names: Sequence[str], out: Path) -> Change:
    """Make a run without some items; the ids of the others change, their source ids stay.

    The items are removed from histories, and examples with one as target from the splits.

    Args:
        run: a finished run with a language model.
        names: source ids or titles.
        out: folder of the new run.

    Raises:
        UserError: an item is unknown, nothing is left, or the run recommends by ids.
    """
    dataset = open_run(run).dataset
    gone = {_known(dataset.catalog, name) for name in names}
    kept = np.array([item not in gone for item in range(len(dataset.catalog))])
    if not kept.any():
        raise UserError("no item of the catalog would be left")
    catalog = dataset.catalog
    rest = np.flatnonzero(kept)
    smaller = Catalog(
        tuple(catalog.titles[item] for item in rest.tolist()),
        tuple(catalog.genres[item] for item in rest.tolist()),
        tuple(catalog.source_ids[item] for item in rest.tolist()),
    )
    splits = {name: _without(split, kept) for name, split in dataset.splits.items()}
    return _write(run, out, Change("remove", len(gone), replace(dataset, catalog=smaller, splits=splits), rest))


def rename_items(run: Path, titles: Path, out: Path) -> Change:
    """Make a run in which some items have other titles.

    Args:
        run: a finished run with a language model.
        titles: a table with the columns of the run's list of items: id and new title.
        out: folder of the new run.

    Raises:
        UserError: an id is unknown or repeated, another item has the title, or the run recommends by ids.
    """
    dataset = open_run(run).dataset
    new, catalog = read_goods(titles, dataset.meta), dataset.catalog
    renamed, changed = list(catalog.titles), set()
    for name, title in zip(new.source_ids, new.titles, strict=True):
        item = catalog.by_source_id.get(name)
        if item is None:
            raise UserError(f"{titles}: the catalog has no item {name!r:.80}; sprec items add adds it")
        if item in changed:
            raise UserError(f"{titles} names the item {name!r:.80} twice")
        renamed[item] = title
        changed.add(item)
    forms = Counter(map(same_title, renamed))
    for item in sorted(changed):
        if forms[same_title(renamed[item])] > 1:
            raise UserError(f"{titles}: another item is titled {renamed[item]!r:.80}; titles tell items apart")
    fresh = replace(dataset, catalog=replace(catalog, titles=tuple(renamed)))
    return _write(run, out, Change("rename", len(changed), fresh, np.arange(len(catalog))))


def counted(items: int) -> str:
    """The number ``items`` in words: "1 item", "2 items"."""
    return f"{items:,} item{'s' if items != 1 else ''}"


def _known(catalog: Catalog, name: str) -> int:
    item = catalog.by_source_id.get(name)
    return catalog.find(name) if item is None else item


def _refuse_known(goods: Path, new: Catalog, catalog: Catalog) -> None:
    """Raise a UserError if an id or a title occurs twice in the file, or is in the catalog."""
    forms = {same_title(title) for title in catalog.titles}
    ids = set(catalog.source_ids)
    for name, title in zip(new.source_ids, new.titles, strict=True):
        if name in ids:
            raise UserError(f"{goods}: the id {name!r:.80} is taken; sprec items rename changes a title")
        if same_title(title) in forms:
            raise UserError(f"{goods}: another item is titled {title!r:.80}; titles tell items apart")
        ids.add(name)
        forms.add(same_title(title))


def _without(split: Split, kept: np.ndarray) -> Split:
    """A split with only the kept items, by their new ids."""
    number = np.cumsum(kept) - 1
    rows = split.take(np.flatnonzero(kept[split.targets]))
    staying = kept[rows.items]
    before = np.concatenate([[0], np.cumsum(staying)])
    return Split(number[rows.items[staying]], before[rows.offsets], number[rows.targets])


def _write(run: Path, out: Path, change: Change) -> Change:
    """Write the new run: recipe, data, models, what was computed of items, and its lineage."""
    session, manifest = open_run(run), sealed(run)
    if not trains_model(session.recipe):
        raise UserError(
            f"{session.recipe.method} knows items by their ids and learns each from its log: it cannot recommend what "
            "it was not trained on; import a log that has the new items and run it anew"
        )
    if out.exists():
        raise UserError(f"{out} already exists; choose another -o")
    made = step(run, change.kind, items=change.items)
    with storage.writing(out, "make room or choose another -o"), storage.replacing(out) as scratch:
        dataset = change.dataset.save(scratch / "dataset")
        storage.write_json(scratch / RECIPE, describe(session.recipe, dataset, [*lineage(run), made]))
        for name in ("model", "backbone"):
            if (run / name).is_dir():
                storage.link_tree(run / name, scratch / name)
        if (run / "tilt").is_dir():
            carry_over(Session(session.recipe, dataset, Store(scratch)), run / "tilt", scratch / "tilt", change.before)
        _copy_embeddings(run / "cache", scratch / "cache")
        files = [file.relative_to(scratch).as_posix() for name in KEPT for file in sorted((scratch / name).rglob("*"))]
        keys = {"stages": {}, "backbone": manifest.get("backbone", ""), "policy": policy_key(run)}
        storage.seal(scratch, keys, [RECIPE, *files])
    return change


def _copy_embeddings(source: Path, target: Path) -> None:
    """Copy the embeddings, so that those of unchanged titles are not computed again."""
    for file in sorted(source.glob("*.safetensors")):
        target.mkdir(exist_ok=True)
        shutil.copy2(file, target)
