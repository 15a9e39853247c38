"""The catalog: items with an id, a title and genres. Items travel as ids; this is where an id gets its title."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from sprec.system.errors import UserError
from sprec.system.parquet import read_parquet

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
        source_ids: the ids that the items had where they came from.

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
    def items_of_title(self) -> dict[str, tuple[int, ...]]:
        """Title to the ids of all items that carry it, ascending."""
        ids: dict[str, list[int]] = {}
        for item, title in enumerate(self.titles):
            ids.setdefault(title, []).append(item)
        return {title: tuple(items) for title, items in ids.items()}

    @property
    def sharing(self) -> int:
        """How many items carry a title that another one carries, too."""
        return sum(len(items) for items in self.items_of_title.values() if len(items) > 1)

    def find(self, title: str) -> int:
        """Return the id of the item with this title.

        Raises:
            UserError: no item has it; the message names the closest titles.
        """
        if title in self.by_title:
            return self.by_title[title]
        folded = {known.casefold(): item for known, item in reversed(self.by_title.items())}
        if title.casefold() in folded:
            return folded[title.casefold()]
        close = difflib.get_close_matches(title.casefold(), folded, n=3, cutoff=0.4)
        names = ", ".join(f'"{self.titles[folded[name]]}"' for name in close)
        raise UserError(f'no item is titled "{title}"' + (f"; closest: {names}" if names else ""))

    def genre_matrix(self, selected: Sequence[str]) -> np.ndarray:
        """Share of each item in each selected genre, shape (n, |selected|), rows sum to 1 or 0.

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
        """Read ``items.parquet``.

        Raises:
            ValueError: it is no table of items that are numbered from 0.
        """
        return cls.of_frame(read_parquet(path))

    @classmethod
    def of_frame(cls, frame: pl.DataFrame) -> "Catalog":
        """The catalog that :meth:`frame` gives back.

        Raises:
            ValueError: it is no table of items that are numbered from 0.
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
        """Build a catalog from titles (and genres), numbered in this order."""
        names = tuple(titles)
        kinds = tuple(tuple(g) for g in genres) if genres is not None else ((),) * len(names)
        return cls(names, kinds, tuple(str(i) for i in range(len(names))))
