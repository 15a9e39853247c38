"""A finished run as a recommender."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from sprec.config import Recommend
from sprec.data import Catalog, Split
from sprec.methods.histories import padded
from sprec.recommend.protocols import Recommendations
from sprec.runs import protocols, tilt_stage, weights_stage
from sprec.runs.checks import check_protocol_fits
from sprec.runs.finished import backbone_of, read_run
from sprec.runs.keys import afterwards
from sprec.runs.recipes import PERMISSIONS, changed
from sprec.runs.session import Session
from sprec.runs.store import Stage, Store
from sprec.system import storage
from sprec.system.errors import UserError

Entry = int | str
"""An item by its id (its row in the catalog), its title, or its source id."""


class Recommender:
    """The last model of a run, with its catalog: ``Recommender.load(run).recommend(histories, k=5)``.

    It keeps no state between calls. Threads may share it; they use the model one at a time.

    Args:
        session: the run.
        backbone: encodes titles in grounding.
        final: the model.
    """

    def __init__(self, session: Session, backbone: Stage, final: Stage) -> None:
        self.session, self.backbone, self.final = session, backbone, final
        self._turn = Lock()

    @property
    def catalog(self) -> Catalog:
        """The items that can be recommended."""
        return self.session.dataset.catalog

    @classmethod
    def load(cls, run: Path | str, changes: Sequence[str] = ()) -> "Recommender":
        """Load a run directory.

        Args:
            run: a finished run.
            changes: other settings, as in ``sprec run --set``: ``recommend.protocol=exact``.

        Raises:
            UserError: there is no finished run, or a setting does not exist, would need another run, or does not fit
                the catalog.
        """
        session = open_run(Path(run), changes)
        check_protocol_fits(session.recipe, session.dataset)
        return cls(session, backbone_of(session), Stage(Path(run), "model"))

    def recommend(self, histories: Sequence[Sequence[Entry]], k: int = 5, **options: Any) -> list[list[int]]:
        """The k best items for each history, best first; :meth:`recommendations` returns more about them.

        Args:
            histories: item ids or titles, oldest first.
            k: items per list.
            options: as for :meth:`recommendations`.

        Raises:
            UserError: see there.
        """
        lists: list[list[int]] = self.recommendations(histories, k, **options).items.tolist()
        return lists

    def recommendations(
        self,
        histories: Sequence[Sequence[Entry]],
        k: int = 5,
        *,
        allow: Sequence[Entry] | None = None,
        block: Sequence[Entry] = (),
        blocks: Sequence[Sequence[Entry]] | None = None,
        genres: Sequence[str] = (),
        unknown: Literal["raise", "skip"] = "raise",
        tilt_strength: float = 1.0,
        **settings: Any,
    ) -> Recommendations:
        """The k best items for each history. Users without a history get popular items.

        Items are filtered before the search: a list has k items if k are left.

        Args:
            histories: item ids or titles, oldest first.
            k: items per list.
            allow: the items that may be recommended, by id or title; by default all.
            block: items that must not be recommended.
            blocks: further items that must not be, per history.
            genres: recommend only items with one of these genres.
            unknown: ``skip`` leaves out items of histories that are not in the catalog.
            tilt_strength: factor of the tilt, if there is one: 0 for none, 1 as it was learned.
            settings: of recommending, if they differ from the run's: another ``protocol``, ``exclude_history=True``.

        Returns:
            The lists, padded with -1; with the protocol ``exact`` also the log-probability of each item.

        Raises:
            UserError: a title is unknown (the closest ones are named), an id or genre is unknown, k is larger than the
                catalog, nothing may be recommended, or a setting does not exist or does not fit.
        """
        items = [
            self._items(history, unknown, _number("history", row, histories)) for row, history in enumerate(histories)
        ]
        if not 1 <= k <= len(self.catalog):
            raise UserError(f"k={k} is not between 1 and the {len(self.catalog)} items of the catalog")
        recipe = self.session.recipe
        if settings:
            recipe = changed(recipe, [], {"recommend": settings})
            check_protocol_fits(recipe, self.session.dataset)
        wanted = recipe.recommend.model_copy(update={"top_k": k})
        allowed = None if allow is None else self._items(allow, unknown)
        barred = barred_items(self.catalog, allowed, self._items(block, unknown), genres)
        own = None
        if blocks is not None:
            each = [self._items(own, unknown, _number("blocks", row, blocks)) for row, own in enumerate(blocks)]
            own = self._padded(each, len(items))
        with self._turn:
            return self._lists(items, wanted, barred, own, tilt_strength)

    def _lists(
        self,
        histories: Sequence[Sequence[int]],
        settings: Recommend,
        barred: np.ndarray,
        blocked: np.ndarray | None,
        tilt_strength: float,
    ) -> Recommendations:
        """The lists by the protocol of the settings; by popularity for users without a history."""
        popular = np.array([not history for history in histories], dtype=bool)

        def part(rows: np.ndarray, settings: Recommend) -> tuple[np.ndarray, Recommendations]:
            examples = Split.of((histories[row], 0) for row in rows)
            also = None if blocked is None else blocked[rows]
            offset = tilt_stage.served(self.session, settings, self.final, self.backbone)
            if offset is not None:
                offset = tilt_strength * offset
            weighted = weights_stage.served(self.session, settings, self.final, self.backbone)
            return rows, protocols.recommend(
                self.session, weighted, self.final, self.backbone, examples, barred=barred, blocked=also, offset=offset
            )

        parts = []
        if not popular.all() or not len(popular):
            parts.append(part(np.flatnonzero(~popular), settings))
        if popular.any():
            rows, found = part(np.flatnonzero(popular), settings.model_copy(update={"protocol": "popularity"}))
            parts.append((rows, replace(found, scores=None)))  # popularity is on another scale
        return replace(joined(parts), popular=popular)

    def _padded(self, rows: Sequence[Sequence[int]], count: int) -> np.ndarray:
        """Items of each history as one array, padded with the size of the catalog."""
        if len(rows) != count:
            raise UserError(f"blocks has {len(rows)} entries for {count} histories; give one for each")
        return padded(Split.of((row, 0) for row in rows), max(map(len, rows), default=0), len(self.catalog))

    def _items(self, entries: Sequence[Entry], unknown: str, where: str = "") -> list[int]:
        try:
            return [item for entry in entries if (item := self._item(entry, unknown)) is not None]
        except UserError as error:
            raise UserError(f"{where}{error}") from error

    def _item(self, entry: Entry, unknown: str) -> int | None:
        if isinstance(entry, str):
            found = self.catalog.lookup(entry)
            found = self.catalog.by_source_id.get(entry) if found is None else found
            return self.catalog.find(entry) if found is None and unknown == "raise" else found
        if 0 <= entry < len(self.catalog):
            return int(entry)
        if unknown == "raise":
            raise UserError(f"there is no item {entry}; ids go from 0 to {len(self.catalog) - 1}")
        return None


def _number(what: str, row: int, rows: Sequence[object]) -> str:
    """Which of several inputs an error is about: counted from 0, as Python does."""
    return f"{what} {row}: " if len(rows) > 1 else ""


def barred_items(
    catalog: Catalog, allow: Sequence[int] | None, block: Sequence[int], genres: Sequence[str] = ()
) -> np.ndarray:
    """Which items no list may contain, shape (items,), bool.

    Args:
        catalog: the items.
        allow: those that may be recommended; None for all.
        block: those that must not be.
        genres: only items with one of these genres may be recommended; all if empty.

    Raises:
        UserError: no item has one of the genres, or no item is left.
    """
    barred = np.zeros(len(catalog), dtype=bool)
    if allow is not None:
        barred[:] = True
        barred[list(allow)] = False
    barred[list(block)] = True
    if genres:
        known = {genre for own in catalog.genres for genre in own}
        for genre in genres:
            if genre not in known:
                close = ", ".join(get_close_matches(genre, known, n=3)) or ", ".join(sorted(known)[:10])
                raise UserError(f'no item has the genre "{genre}"; there are {close}')
        barred |= np.array([not set(genres) & set(own) for own in catalog.genres])
    if barred.all():
        raise UserError("no item of the catalog is left that may be recommended; allow more")
    return barred


def joined(parts: Sequence[tuple[np.ndarray, Recommendations]]) -> Recommendations:
    """Join lists of equal length that were made for different rows.

    Values that only some of the protocols have are missing (empty, -inf, not proven) in the rows of the others.

    Args:
        parts: different rows that together are 0..n-1, and their lists.
    """
    count, k = sum(len(rows) for rows, _ in parts), parts[0][1].items.shape[1]

    def whole(name: str, shape: tuple[int, ...], missing: float | bool) -> np.ndarray | None:
        if all(getattr(found, name) is None for _, found in parts):
            return None
        values = np.full(shape, missing)
        for rows, found in parts:
            if getattr(found, name) is not None:
                values[rows] = getattr(found, name)
        return values

    items = np.full((count, k), -1, dtype=np.int64)
    titles = [""] * count if any(found.titles for _, found in parts) else []
    for rows, found in parts:
        items[rows] = found.items
        for row, title in zip(rows.tolist(), found.titles, strict=False):
            titles[row] = title
    return Recommendations(
        items,
        titles,
        whole("log_probs", (count, k), -np.inf),
        proven=whole("proven", (count,), False),
        scores=whole("scores", (count, k), -np.inf),
    )


def open_run(root: Path, changes: Sequence[str] = ()) -> Session:
    """The recipe and data of a run that has a model.

    Args:
        root: the run directory.
        changes: other settings, as in ``sprec run --set``; the only way to permit a model's code or pickles.

    Raises:
        UserError: there is no run with a model at this path, or a setting does not exist or would need another run.
    """
    recipe, dataset = read_run(root)
    problem = storage.verify(root)
    if problem:
        raise UserError(f"{root} is not a finished run ({problem}); finish it with the same sprec run command")
    for change in changes:
        name = change.partition("=")[0]
        if name.partition(".")[0] not in afterwards() and name not in PERMISSIONS:
            raise UserError(
                f"--set {change} would train another model; a finished run takes {', '.join(afterwards())} only"
            )
    return Session(changed(recipe, changes), dataset, Store(root))
