"""The state that the routes of the service share: the runs, the queue of the model, and measurements."""

import math
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from sprec.serve.batcher import Batcher, Limits, Lists, Query
from sprec.serve.exposure import K
from sprec.serve.schemas import (
    Answer,
    Asked,
    Evaluation,
    Exposed,
    ExposureOfRun,
    Found,
    Item,
    List,
    Name,
    Run,
    RunList,
)
from sprec.serve.served import Runs, ServedRun
from sprec.system.errors import UserError

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HISTORIES = tuple(2**power for power in range(10))


class Meter:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.seconds = Histogram(
            "sprec_request_seconds", "Time to answer a request.", ("route", "status"), buckets=_SECONDS, registry=own
        )
        self.batches = Histogram("sprec_batch_histories", "Histories per batch.", buckets=_HISTORIES, registry=own)
        self.lists = Counter("sprec_lists", "Lists recommended.", ("run", "protocol"), registry=own)
        self.waiting = Gauge("sprec_requests_waiting", "Requests that wait for the model.", registry=own)
        self.reloads = Counter("sprec_reloads", "Reloads of the runs.", ("outcome",), registry=own)

    def text(self) -> bytes:
        """All of it in the format of Prometheus."""
        return generate_latest(self.registry)


class Service:
    """Runs as a service, whatever the transport.

    Args:
        runs: the runs that are served.
        limits: what a request may ask for.
    """

    def __init__(self, runs: Runs, limits: Limits) -> None:
        self.runs, self.limits, self.meter = runs, limits, Meter()
        self.batcher = Batcher(limits, self.meter.batches.observe)
        self.meter.waiting.set_function(lambda: len(self.batcher))

    def reload(self) -> None:
        """Load the runs again.

        Raises:
            UserError: one cannot be loaded; then all stay as they are.
        """
        try:
            self.runs.reload()
        except UserError:
            self.meter.reloads.labels("refused").inc()
            raise
        self.meter.reloads.labels("done").inc()

    async def recommend(self, asked: Asked) -> Answer:
        """Answer a request.

        Args:
            asked: the request.

        Raises:
            UserError: it exceeds a limit, there is no such run, protocol or tilt, or nothing may be recommended.
            QueueFullError: too many requests are waiting.
            DeadlineError: it took too long.
        """
        problem = asked.beyond(self.limits)
        if problem:
            raise UserError(problem)
        served = self.runs.find(asked.run)
        protocol = asked.protocol or served.recommender.session.recipe.recommend.protocol
        if protocol not in served.protocols:
            known = ", ".join(served.protocols)
            raise UserError(f'{served.name} does not recommend by "{protocol:.40}"; protocols: {known}')
        query = _query(asked, served, protocol)
        lists = await self.batcher.ask(query)
        self.meter.lists.labels(served.name, protocol).inc(len(query.histories))
        return Answer(run=served.name, protocol=protocol, lists=_lists(served, lists, _unknown(asked, served)))

    def items(self, run: str | None, text: str | None, wanted: list[int], limit: int) -> list[Found]:
        """Items of a run's catalog by their rows, or else by a part of their title.

        Args:
            run: its name; None for the first one.
            text: a part of the title, if any.
            wanted: rows of the catalog, if any.
            limit: items that are found at most.

        Raises:
            UserError: there is no such run or row, or neither a text nor rows.
        """
        served = self.runs.find(run)
        catalog = served.recommender.catalog
        if not wanted and text is None:
            raise UserError("give q, a part of the title, or item, a row of the catalog")
        for item in wanted:
            if not 0 <= item < len(catalog):
                raise UserError(f"there is no item {item}; items go from 0 to {len(catalog) - 1}")
        return [Found(**_facts(served, item)) for item in wanted or served.search(text or "", limit)]

    def exposure(self, run: str | None) -> ExposureOfRun:
        """Whom a run exposes, by the test lists that it has on record.

        Args:
            run: its name; None for the first one.

        Raises:
            UserError: there is no such run.
        """
        served = self.runs.find(run)
        evaluations = [
            Evaluation(
                **{name: value for name, value in vars(one).items() if name != "top"},
                top=[Exposed(**_facts(served, item), share=share) for item, share in one.top],
            )
            for one in served.exposure
        ]
        return ExposureOfRun(run=served.name, k=K, items=len(served.recommender.catalog), evaluations=evaluations)

    def list_runs(self) -> RunList:
        """What is served."""
        return RunList(
            runs=[
                Run(
                    name=one.name,
                    method=one.recommender.session.recipe.method,
                    dataset=one.recommender.session.dataset.name,
                    items=len(one.recommender.catalog),
                    protocol=one.recommender.session.recipe.recommend.protocol,
                    protocols=list(one.protocols),
                    tilts=list(one.tilts),
                )
                for one in self.runs.served.values()
            ]
        )


def _facts(served: ServedRun, item: int) -> dict[str, Any]:
    """What the page shows of an item."""
    catalog = served.recommender.catalog
    return {
        "item": item,
        "source_id": catalog.source_ids[item],
        "title": catalog.titles[item],
        "genres": list(catalog.genres[item]),
        "popularity": served.ranks[item],
    }


def _query(asked: Asked, served: ServedRun, protocol: str) -> Query:
    """A request in items of the catalog."""
    catalog = served.recommender.catalog

    def items(names: list[Name]) -> list[int]:
        return [item for item in (catalog.locate(str(name)) for name in names) if item is not None]

    return Query(
        histories=[items(history) for history in asked.histories],
        blocks=[items(asked.block)] * len(asked.histories),
        recommender=served.recommender,
        k=min(asked.k, len(catalog)),
        allow=None if asked.allow is None else tuple(sorted(set(items(asked.allow)))),
        genres=tuple(sorted(set(asked.genres))),
        settings=(("protocol", protocol), ("exclude_history", not asked.repeat), *_tilt(asked, served, protocol)),
    )


def _tilt(asked: Asked, served: ServedRun, protocol: str) -> tuple[tuple[str, Any], ...]:
    """Whether to tilt, and how strongly; tilts that would have to be learned first do not count."""
    has = protocol in served.tilts
    strength = float(has and served.recommender.session.recipe.recommend.tilt if asked.tilt is None else asked.tilt)
    if strength and not has:
        known = ", ".join(served.tilts) or "none"
        raise UserError(f'{served.name} has no tilt of "{protocol}"; protocols with one: {known}')
    return (("tilt", strength > 0), ("tilt_strength", strength))


def _unknown(asked: Asked, served: ServedRun) -> list[list[str]]:
    """The entries of each history that are not in the catalog."""
    catalog = served.recommender.catalog
    return [[str(name) for name in history if catalog.locate(str(name)) is None] for history in asked.histories]


def _lists(served: ServedRun, answer: Lists, unknown: list[list[str]]) -> list[List]:
    catalog, found = served.recommender.catalog, answer.found
    lists = []
    for row, names in enumerate(unknown, start=answer.first):
        scores = [math.nan] * found.items.shape[1] if found.scores is None else found.scores[row].tolist()
        items = [
            Item(
                item=item,
                source_id=catalog.source_ids[item],
                title=catalog.titles[item],
                score=score if math.isfinite(score) else None,
            )
            for item, score in zip(found.items[row].tolist(), scores, strict=True)
            if item >= 0
        ]
        popular = bool(found.popular is not None and found.popular[row])
        proven = None if found.proven is None or popular else bool(found.proven[row])
        lists.append(List(items=items, proven=proven, popular=popular, unknown=names))
    return lists
