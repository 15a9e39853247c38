"""A finished run as a recommender."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from sprec.config import Recipe, makes_backbone
from sprec.data import Catalog, Dataset, Split
from sprec.recommend.protocols import Recommendations
from sprec.runs import protocols
from sprec.runs.checks import check_beams
from sprec.runs.keys import afterwards
from sprec.runs.recipes import changed, validate
from sprec.runs.session import Session
from sprec.runs.stages import given
from sprec.runs.store import Stage, Store
from sprec.system import storage
from sprec.system.errors import UserError


class Recommender:
    """The last model of a run, with its catalog: ``Recommender.load(run).recommend(histories, k=5)``.

    It keeps no state between calls. Threads may share it: they take turns at the model.

    Args:
        session: the run.
        backbone: what grounds titles.
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
            UserError: there is no finished run, or a setting does not exist, would need another run or does not fit
                the catalog.
        """
        session = open_run(Path(run), changes)
        check_beams(session.recipe, session.dataset)
        return cls(session, backbone_of(session), Stage(Path(run), "model"))

    def recommend(self, histories: Sequence[Sequence[int | str]], k: int = 5, **settings: Any) -> list[list[int]]:
        """The k best items for each history, best first; :meth:`recommendations` tells more of them.

        Takes and raises what :meth:`recommendations` does.

        Args:
            histories: item ids or titles, oldest first; not empty.
            k: items per list.
            settings: of recommending, where they differ from the run's.
        """
        lists: list[list[int]] = self.recommendations(histories, k, **settings).items.tolist()
        return lists

    def recommendations(self, histories: Sequence[Sequence[int | str]], k: int = 5, **settings: Any) -> Recommendations:
        """The k best items for each history.

        Args:
            histories: item ids or titles, oldest first; not empty.
            k: items per list.
            settings: of recommending, where they differ from the run's: ``protocol="exact"``,
                ``exclude_history=True``.

        Returns:
            The lists; with the protocol ``exact`` also the log-probability of each item.

        Raises:
            UserError: an unknown title (the closest ones are named), an unknown id, an empty history, k is larger than
                the catalog, or a setting does not exist or does not fit.
        """
        items = [[self._item(entry) for entry in history] for history in histories]
        if not all(items):
            raise UserError("a history is empty; name at least one item")
        if not 1 <= k <= len(self.catalog):
            raise UserError(f"k={k} is not between 1 and the {len(self.catalog)} items of the catalog")
        recipe = self.session.recipe
        if settings:
            recipe = changed(recipe, [], {"recommend": settings})
            check_beams(recipe, self.session.dataset)
        wanted = recipe.recommend.model_copy(update={"top_k": k})
        with self._turn:
            examples = Split.of((history, 0) for history in items)
            return protocols.recommend(self.session, wanted, self.final, self.backbone, examples)

    def _item(self, entry: int | str) -> int:
        if isinstance(entry, str):
            return self.catalog.find(entry)
        if not 0 <= entry < len(self.catalog):
            raise UserError(f"there is no item {entry}; ids go from 0 to {len(self.catalog) - 1}")
        return entry


def open_run(root: Path, changes: Sequence[str] = ()) -> Session:
    """The recipe and data of a run that has a model.

    Args:
        root: the run directory.
        changes: other settings, as in ``sprec run --set``.

    Raises:
        UserError: there is no run with a model at this path, or a setting does not exist or would need another run.
    """
    recipe, dataset = read_run(root)
    problem = storage.verify(root)
    if problem:
        raise UserError(f"{root} is not a finished run ({problem}); finish it with the same sprec run command")
    for change in changes:
        if change.partition("=")[0].partition(".")[0] not in afterwards():
            raise UserError(
                f"--set {change} would train another model; a finished run takes {', '.join(afterwards())} only"
            )
    return Session(changed(recipe, changes), dataset, Store(root))


def read_run(root: Path) -> tuple[Recipe, Dataset]:
    """The recipe and data of a run.

    Raises:
        UserError: there is no run at this path.
    """
    try:
        content = json.loads((root / "recipe.json").read_text("utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root} is not a run: recipe.json is missing or damaged") from error
    return validate(content, str(root / "recipe.json")), Dataset.load(root / "dataset")


def backbone_of(session: Session) -> Stage:
    """The backbone stage of a finished run: its text encoder grounds generated titles.

    Raises:
        UserError: it is damaged.
    """
    if not protocols.trains_model(session.recipe):
        return Stage(Path(), "")
    if not makes_backbone(session.recipe):
        return given(session.recipe)
    folder = session.store.root / "backbone"
    problem = storage.verify(folder)
    if problem:
        raise UserError(f"{problem}; the same sprec run command repairs it")
    return Stage(folder, storage.read_manifest(folder)["key"])
