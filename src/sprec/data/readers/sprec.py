"""The official SPRec layout: ``data/<D>/{train,valid,test,valid_4096}.json`` and
``eval/<D>/{id2name,...}.json``.

Without an ``eval`` folder the catalog consists of the titles in the records. Every fault in the files is repaired or
its row dropped, and counted in ``Dataset.warnings``; faults under a key that ends in ``_kept`` are only counted.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sprec.data.catalog import Catalog
from sprec.data.dataset import Dataset, Split
from sprec.data.genres import NO_GENRE, check_genres, count_genres, hierarchical_parents, select_genres
from sprec.data.readers.files import read_json_object
from sprec.data.readers.records import (
    SEPARATOR,
    Record,
    TitleMatcher,
    kind_of_unknown,
    known_title,
    read_records,
    wording_of,
)
from sprec.data.titles import clean_title, is_broken, is_junk, repair_encoding, repair_scraped
from sprec.system.errors import UserError
from sprec.system.paths import require_name, require_path

FILES = {"train": "train.json", "valid": "valid.json", "test": "test.json", "extra": "valid_4096.json"}
LONG = 150
"""Titles with more characters count as long."""


def read(
    source: Path,
    name: str | None = None,
    *,
    genres: Sequence[str] | None = None,
    drop_repeats: bool = False,
    drop_seen_targets: bool = False,
) -> Dataset:
    """Read one dataset of the official SPRec layout.

    Every row whose target is in the repaired catalog is kept; unknown titles are removed from histories. The split
    ``extra`` is ``valid_4096.json`` without the rows of ``valid.json``.

    Args:
        source: the folder that holds ``data/<name>`` and perhaps ``eval/<name>``, or the folder of the
            records.
        name: the dataset; may be left out if ``source`` holds only one.
        genres: the genres of the fairness metrics; by default those of ``genre_dict.json``, else the 10 most
            frequent ones of the training set.
        drop_repeats: of items that follow themselves in a history, keep the first.
        drop_seen_targets: drop rows whose target is already in the history.

    Raises:
        UserError: a file is missing or malformed, a genre unknown, or no training or test row is left.
    """
    folder, facts, name = _locate(require_path(source), name)
    require_name(name)
    records = _read_splits(folder)
    faults: Counter[str] = Counter()
    catalog, items = _catalog_of_files(facts, faults) if facts else _catalog_of_records(records, faults)
    faults["catalog_shared_titles_kept"] = len(catalog) - len(catalog.by_title)
    faults["catalog_quoted_titles_kept"] = sum('"' in title for title in catalog.titles)
    faults["catalog_long_titles_kept"] = sum(len(title) > LONG for title in catalog.titles)
    matcher = TitleMatcher(items, faults)
    rules = _Rules(drop_repeats, drop_seen_targets)
    splits = {split: rules.apply(_match(rows, matcher, split, faults), faults) for split, rows in records.items()}
    for split in ("train", "test"):
        if not len(splits[split]):
            raise UserError(f"{folder / FILES[split]}: no row is left whose target is in the catalog")
    return Dataset(
        name=name,
        catalog=catalog,
        splits=splits,
        genres=_select(catalog, splits["train"], genres, facts),
        wording=wording_of(records["train"]),
        warnings={fault: count for fault, count in sorted(faults.items()) if count},
        meta={
            "source": {"format": "sprec", "path": str(source)},
            "options": {"drop_repeats": drop_repeats, "drop_seen_targets": drop_seen_targets},
            "rows_read": {split: len(rows) for split, rows in records.items()},
        },
    )


def _locate(source: Path, name: str | None) -> tuple[Path, Path | None, str]:
    """The folder of the records, the folder of the metadata if there is one, and the name of the dataset."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; give the one that holds data/<name>/train.json")
    if (source / FILES["train"]).is_file():
        return source, None, name or source.resolve().name
    root = source / "data" if (source / "data").is_dir() else source
    names = sorted(path.parent.name for path in root.glob(f"*/{FILES['train']}"))
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        problem = "give --name" if name is None else f'no dataset "{name}"'
        raise UserError(f"{root}: {problem}; datasets: {', '.join(names) or 'none (no */train.json)'}")
    facts = source / "eval" / name
    return root / name, facts if facts.is_dir() else None, name


def _read_splits(folder: Path) -> dict[str, list[Record]]:
    records = {split: read_records(folder / FILES[split]) for split in ("train", "test")}
    for split in ("valid", "extra"):
        path = folder / FILES[split]
        records[split] = read_records(path) if path.exists() else []
    for split in ("train", "test"):
        if not records[split]:
            raise UserError(f"{folder / FILES[split]} holds no records")
    held_out = {(row.pieces, row.target) for row in records["valid"]}
    records["extra"] = [row for row in records["extra"] if (row.pieces, row.target) not in held_out]
    return records


def _catalog_of_files(facts: Path, faults: Counter[str]) -> tuple[Catalog, dict[str, int]]:
    """The catalog in ``id2name.json`` and ``name2genre.json``, and every spelling of its titles to the item."""
    names = read_json_object(facts / "id2name.json")
    kinds = read_json_object(facts / "name2genre.json") if (facts / "name2genre.json").exists() else {}
    titles: dict[str, str] = {}
    for source_id, title in names.items():
        if not isinstance(title, str):
            raise UserError(f"{facts / 'id2name.json'}: the title of {source_id} must be text, found {title!r:.40}")
        if is_junk(title) or is_broken(source_id):
            faults["catalog_junk_titles_dropped"] += 1
        elif title in titles:
            faults["catalog_duplicate_titles_merged"] += 1
        else:
            titles[title] = source_id
    clean = [_clean(title, faults) for title in titles]
    genres = [_genres_of(kinds.get(title), facts) for title in titles]
    if kinds:
        faults["catalog_items_without_genre"] = sum(not own for own in genres)
    catalog = Catalog(tuple(clean), tuple(genres), tuple(titles.values()))
    return catalog, catalog.by_title | {title: item for item, title in enumerate(titles)}


def _clean(title: str, faults: Counter[str]) -> str:
    repaired = repair_scraped(title)
    faults["catalog_scraped_titles_repaired"] += repaired != title
    cleaned = clean_title(repaired)
    faults["catalog_titles_tidied"] += cleaned != repaired
    return cleaned


def _genres_of(kinds: object, facts: Path) -> tuple[str, ...]:
    if kinds is None:
        return ()
    kinds = _list_in_text(kinds) if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not all(isinstance(genre, str) and not is_broken(genre) for genre in kinds):
        raise UserError(
            f"{facts / 'name2genre.json'}: the genres of a title must be a list of texts, found {kinds!r:.40}"
        )
    return tuple(dict.fromkeys(clean_title(genre) for genre in kinds if genre != NO_GENRE))


def _list_in_text(text: str) -> object:
    """The list in a text like ``"['Action', 'Indie']"``, Steam's form of genres; other texts unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _catalog_of_records(
    records: Mapping[str, Sequence[Record]], faults: Counter[str]
) -> tuple[Catalog, dict[str, int]]:
    """A catalog of all titles that occur; a target is a whole title, so targets tell how to cut histories."""
    rows = [row for split in FILES for row in records[split]]
    targets = dict.fromkeys(row.target for row in rows if not is_junk(row.target))
    most = 1 + max((title.count(SEPARATOR) for title in targets), default=0)
    titles = dict(targets)
    for row in rows:
        titles.update(dict.fromkeys(_titles_in(row.pieces, targets, most)))
    decoded = [repair_encoding(title) for title in titles]
    faults["double_encoded_titles"] += sum(title != good for title, good in zip(titles, decoded, strict=True))
    clean = [_clean(title, faults) for title in decoded]
    catalog = Catalog.of(dict.fromkeys(clean))
    return catalog, {title: catalog.by_title[name] for title, name in zip(titles, clean, strict=True)}


def _titles_in(pieces: Sequence[str], whole: Mapping[str, None], most: int) -> Iterable[str]:
    at = 0
    while at < len(pieces):
        length = known_title(pieces[at : at + most], whole.__contains__) or 1
        title = SEPARATOR.join(pieces[at : at + length])
        if not is_junk(title):
            yield title
        at += length


def _match(
    records: Iterable[Record], matcher: TitleMatcher, split: str, faults: Counter[str]
) -> list[tuple[list[int], int]]:
    rows = []
    for record in records:
        target = matcher.find(record.target)
        history, unknown = matcher.find_all(record.pieces)
        if target is None:
            faults[f"{split}_rows_dropped_{kind_of_unknown(record.target)}_target"] += 1
            continue
        faults.update(f"{split}_history_titles_dropped_{kind_of_unknown(title)}" for title in unknown)
        if history:
            rows.append((history, target))
        else:
            faults[f"{split}_rows_dropped_empty_history"] += 1
    return rows


@dataclass(frozen=True)
class _Rules:
    drop_repeats: bool
    drop_seen_targets: bool

    def apply(self, rows: Iterable[tuple[list[int], int]], faults: Counter[str]) -> Split:
        kept = []
        for history, target in rows:
            unique = [item for at, item in enumerate(history) if at == 0 or item != history[at - 1]]
            repeats = len(history) - len(unique)
            faults["consecutive_repeats_" + ("dropped" if self.drop_repeats else "kept")] += repeats
            seen = target in history
            faults["seen_targets_" + ("dropped" if self.drop_seen_targets else "kept")] += seen
            if not (seen and self.drop_seen_targets):
                kept.append((unique if self.drop_repeats else history, target))
        return Split.of(kept)


def _select(catalog: Catalog, train: Split, genres: Sequence[str] | None, facts: Path | None) -> tuple[str, ...]:
    if genres:
        return check_genres(catalog, genres)
    if facts and (facts / "genre_dict.json").exists():
        return check_genres(catalog, list(read_json_object(facts / "genre_dict.json")))
    return select_genres(count_genres(catalog, train), exclude=hierarchical_parents(catalog))
