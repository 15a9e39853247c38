"""The catalog: items with an id, a title and genres. Items travel as ids; this is where an id gets its title."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from rapidfuzz.fuzz import ratio
from rapidfuzz.process import extract

from sprec.data.titles import clean_title, same_title
from sprec.system.errors import UserError
from sprec.system.parquet import read_parquet

_CLOSE = 40
"""A title is suggested for one that was not found if this percentage of their letters agree, in order."""
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.Int64,
    "title": pl.String,
    "genres": pl.List(pl.String),
    "source_id": pl.String,
}


@dataclass(frozen=True)
class Catalog:
    """``n`` items, numbered 0..n-1: an item id is the row of the item.

    Attributes:
        titles: one title per item; two items may share a title.
        genres: the genres of each item, possibly none.
        source_ids: the ids of the items in the source.

    Examples:
        >>> catalog = Catalog.of(["Dune", "Emma"], [["fantasy"], ["romance", "classics"]])
        >>> catalog.find("emma")
        1
        >>> catalog.genre_matrix(["romance", "classics"]).tolist()
        [[0.0, 0.0], [0.5, 0.5]]
    """

    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    source_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.titles) == len(self.genres) == len(self.source_ids):
            raise ValueError("titles, genres and source_ids must have the same length")

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def by_title(self) -> dict[str, int]:
        """Title to item id; of items that share a title, the lowest id."""
        ids: dict[str, int] = {}
        for item, title in enumerate(self.titles):
            ids.setdefault(title, item)
        return ids

    @cached_property
    def by_source_id(self) -> dict[str, int]:
        """The id of an item in the source, to its id here."""
        return {source: item for item, source in reversed(list(enumerate(self.source_ids)))}

    def locate(self, name: str) -> int | None:
        """The item with this source id, else the one with this title; None if there is neither.

        Args:
            name: a source id, or a title as :meth:`lookup` takes it.
        """
        found = self.by_source_id.get(name)
        return self.lookup(name) if found is None else found

    @cached_property
    def items_of_title(self) -> dict[str, tuple[int, ...]]:
        """Title to the ids of all items that carry it, ascending."""
        ids: dict[str, list[int]] = {}
        for item, title in enumerate(self.titles):
            ids.setdefault(title, []).append(item)
        return {title: tuple(items) for title, items in ids.items()}

    @property
    def sharing(self) -> int:
        """How many items share their title with another one."""
        return len(self.twins)

    @cached_property
    def twins(self) -> dict[int, tuple[int, ...]]:
        """Each item that shares its title, to all items with this title, itself included."""
        shared = (items for items in self.items_of_title.values() if len(items) > 1)
        return {item: items for items in shared for item in items}

    def lookup(self, title: str) -> int | None:
        """The id of the item with this ``title``, None if there is none.

        The title is cleaned as in an import; case and invisible marks count only if titles differ by nothing else.
        """
        found = self.by_title.get(title, self.by_title.get(clean_title(title)))
        return self._by_form.get(same_title(title)) if found is None else found

    def find(self, title: str) -> int:
        """The id of the item with this ``title``; see :meth:`lookup`.

        Raises:
            UserError: no item has it; the message names the closest titles.
        """
        found = self.lookup(title)
        if found is not None:
            return found
        close = extract(same_title(title), self._by_form.keys(), scorer=ratio, limit=3, score_cutoff=_CLOSE)
        names = ", ".join(f'"{self.titles[self._by_form[form]]}"' for form, _, _ in close)
        raise UserError(f'no item is titled "{title:.200}"' + (f"; closest: {names}" if names else ""))

    @cached_property
    def _by_form(self) -> dict[str, int]:
        """The form that all spellings of a title have in common, to its lowest item."""
        return {same_title(title): item for title, item in reversed(self.by_title.items())}

    def genre_matrix(self, selected: Sequence[str]) -> np.ndarray:
        """Share of each item in each of the ``selected`` genres, shape (n, |selected|), rows sum to 1 or 0.

        An item counts 1/|g_i ∩ G| in each of its selected genres (paper, section on MGU).
        """
        column = {genre: j for j, genre in enumerate(selected)}
        matrix = np.zeros((len(self), len(selected)))
        for item, genres in enumerate(self.genres):
            hits = {column[genre] for genre in genres if genre in column}
            for j in hits:
                matrix[item, j] = 1 / len(hits)
        return matrix

    def frame(self) -> pl.DataFrame:
        """The catalog as a table: item_id, title, genres, source_id."""
        return pl.DataFrame(
            {
                "item_id": np.arange(len(self)),
                "title": list(self.titles),
                "genres": pl.Series(list(map(list, self.genres)), dtype=pl.List(pl.String)),
                "source_id": list(self.source_ids),
            },
            schema=_COLUMNS,
        )

    @classmethod
    def load(cls, path: Path) -> "Catalog":
        """Read the ``items.parquet`` of a dataset.

        Args:
            path: the file.

        Raises:
            ValueError: it is not a table of items that are numbered from 0.
        """
        return cls.of_frame(read_parquet(path))

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Catalog":
        """The catalog of a ``frame`` as :meth:`frame` makes it.

        Raises:
            ValueError: it is not a table of items that are numbered from 0.
        """
        if {name: frame.schema.get(name) for name in _COLUMNS} != _COLUMNS:
            raise ValueError(f"columns must be {', '.join(_COLUMNS)}")
        if frame.select(pl.exclude("genres")).null_count().sum_horizontal().sum():
            raise ValueError("an item lacks an id or a title")
        frame = frame.sort("item_id")
        if frame["item_id"].to_list() != list(range(len(frame))):
            raise ValueError("items are not numbered from 0")
        return cls(
            tuple(frame["title"].to_list()),
            tuple(tuple(genres or ()) for genres in frame["genres"].to_list()),
            tuple(frame["source_id"].to_list()),
        )

    @classmethod
    def of(cls, titles: Iterable[str], genres: Iterable[Iterable[str]] | None = None) -> "Catalog":
        """Build a catalog from ``titles`` (and their ``genres``), numbered in this order."""
        names = tuple(titles)
        kinds = tuple(tuple(g) for g in genres) if genres is not None else ((),) * len(names)
        return cls(names, kinds, tuple(str(i) for i in range(len(names))))
