"""The runs that are served: loaded once, and replaced while requests go on."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sprec.recommend.protocols import PROTOCOLS, Need
from sprec.runs import Recommender, tilt_stage
from sprec.runs.protocols import offered
from sprec.serve.exposure import Exposure, recorded
from sprec.system.errors import UserError


@dataclass(frozen=True)
class ServedRun:
    """A run in memory.

    Attributes:
        name: of its folder.
        recommender: the run.
        protocols: those that requests may ask for.
        tilts: those of them that have a tilt.
        titles: of the catalog, without case.
        ranks: popularity rank of each item in the training data, from 1.
        exposure: by the test lists that the run has on record.
    """

    name: str
    recommender: Recommender
    protocols: tuple[str, ...]
    tilts: tuple[str, ...]
    titles: list[str]
    ranks: list[int]
    exposure: Sequence[Exposure]

    @classmethod
    def load(cls, path: Path, changes: Sequence[str], protocols: Sequence[str]) -> "ServedRun":
        """Load a run and let it recommend once by each protocol: no request waits for a model, a trie or a tilt.

        Args:
            path: a finished run.
            changes: other settings, as in ``sprec recommend --set``.
            protocols: those that requests may name, if the run can use them; empty for all that it can use.

        Raises:
            UserError: there is no finished run, or it can use none of the protocols.
        """
        recommender = Recommender.load(path, changes)
        can = offered(recommender.session)
        own = recommender.session.recipe.recommend.protocol
        served = tuple(name for name in can if name in protocols or not protocols or name == own)
        for name in served:
            recommender.recommend([[0]], 1, protocol=name, tilt=False)  # tilts come next
        tilts = tuple(name for name in served if _has_tilt(recommender, name))
        counts, catalog = recommender.session.counts, recommender.catalog
        order = sorted(range(len(catalog)), key=lambda item: (-counts[item], item))
        ranks = [0] * len(catalog)
        for rank, item in enumerate(order, start=1):
            ranks[item] = rank
        titles = [title.casefold() for title in catalog.titles]
        exposure = recorded(recommender.session)
        return cls(path.resolve().name, recommender, served, tilts, titles, ranks, exposure)

    def search(self, text: str, limit: int) -> list[int]:
        """Items whose titles contain a text: first those that begin with it, then by popularity.

        Args:
            text: case does not matter.
            limit: maximum number of items.
        """
        wanted = text.casefold()
        hits = [item for item, title in enumerate(self.titles) if wanted in title]
        return sorted(hits, key=lambda item: (not self.titles[item].startswith(wanted), self.ranks[item]))[:limit]


def _has_tilt(recommender: Recommender, protocol: str) -> bool:
    """Whether there is a tilt: the run's own, or one that is learned now, in seconds, for protocols without a model."""
    row, own = PROTOCOLS[protocol], recommender.session.recipe.recommend
    if not row.tilted or (Need.MODEL in row.needs and not (own.tilt and own.protocol == protocol)):
        return False
    settings = own.model_copy(update={"protocol": protocol, "tilt": True})
    try:
        offset = tilt_stage.served(recommender.session, settings, recommender.final, recommender.backbone)
    except UserError:  # too few users, items or candidates to learn one
        return False
    return offset is not None and bool(offset.any())


class Runs:
    """The runs that were named at the start, by name; the first one answers requests that name none.

    Args:
        paths: finished runs.
        changes: other settings, for all of them.
        protocols: those that requests may ask for; empty for all.

    Raises:
        UserError: a run cannot be loaded, two have one name, or there is no such protocol.
    """

    def __init__(self, paths: Sequence[Path], changes: Sequence[str] = (), protocols: Sequence[str] = ()) -> None:
        self._paths, self._changes, self._protocols = list(paths), list(changes), list(protocols)
        names = [path.resolve().name for path in self._paths]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f'two runs are called "{twice[0]}"; rename one of the folders')
        for name in self._protocols:
            if name not in PROTOCOLS:
                raise UserError(f'there is no protocol "{name}"; protocols: {", ".join(PROTOCOLS)}')
        self._loading = threading.Lock()
        self.served = self._load()

    def _load(self) -> dict[str, ServedRun]:
        loaded = [ServedRun.load(path, self._changes, self._protocols) for path in self._paths]
        return {one.name: one for one in loaded}

    def reload(self) -> None:
        """Load all runs again from their folders, and serve them from now on; requests continue meanwhile.

        Raises:
            UserError: one cannot be loaded; then all stay as they are.
        """
        with self._loading:
            self.served = self._load()

    def find(self, name: str | None) -> ServedRun:
        """A run by name, the first one by default.

        Args:
            name: of its folder.

        Raises:
            UserError: there is none.
        """
        served = self.served
        if name is None:
            return next(iter(served.values()))
        if name not in served:
            raise UserError(f'there is no run "{name:.80}"; runs: {", ".join(served)}')
        return served[name]
