"""``sprec bench serve``: the service under load beside the batch command, in turn, on one machine."""

import asyncio
import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sprec.config import Recommend
from sprec.runs import Recommender
from sprec.serve.batch import recommend_to_all
from sprec.serve.served import ServedRun
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import bar

PROTOCOLS = ("knn", "sasrec", Recommend().protocol, "exact")
"""What is measured by default, as far as the runs offer it, and each tilt."""
_PIECES = 5.0
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Load:
    """How the service is measured.

    Attributes:
        clients: numbers of clients that ask at once, each its next question when the last one is answered.
        seconds: of each measurement.
        repeats: of all measurements, in turn; medians are kept.
        histories: that the batch command gets.
        k: items per list.
        soak: minutes of a gentle load at the end, in which the memory is watched; 0 for none.
        rate: requests per second of this load.
    """

    clients: tuple[int, ...] = (1, 8, 64)
    seconds: float = 5.0
    repeats: int = 3
    histories: int = 500
    k: int = 10
    soak: float = 0.0
    rate: float = 10.0


@dataclass(frozen=True)
class Way:
    """A way to recommend that is measured.

    Attributes:
        run: name of the run.
        protocol: of it.
        tilted: whether the tilt is on.
    """

    run: str
    protocol: str
    tilted: bool

    def body(self, history: Sequence[str], k: int) -> dict[str, Any]:
        """A request for ``k`` items for one history."""
        return {"histories": [history], "k": k, "run": self.run, "protocol": self.protocol, "tilt": self.tilted}


def measure(runs: Sequence[Path], protocols: Sequence[str], load: Load) -> dict[str, Any]:
    """Measure the service and the batch command, in turn.

    Args:
        runs: finished runs; a protocol that several offer is measured with the first one.
        protocols: those to measure; :data:`PROTOCOLS` if empty.
        load: how.

    Returns:
        The record: machine, versions, date, and for each protocol the lists per second of the batch command and, for
        each number of clients, latencies in milliseconds and lists per second.

    Raises:
        UserError: a run cannot be loaded, or offers none of the protocols, or the service does not start.
    """
    served = {path.resolve().name: ServedRun.load(path, (), protocols or PROTOCOLS) for path in runs}
    ways = _ways(served, protocols or PROTOCOLS)
    histories = {name: _histories(one.recommender, load.histories) for name, one in served.items()}
    batch = {way: _recommender(served[way.run], way) for way in ways}
    found: dict[tuple[Way, int], list[dict[str, float]]] = {}
    with _serving(runs) as port, bar("bench serve", len(ways) * load.repeats) as progress:
        for _, way in itertools.product(range(load.repeats), ways):
            own = histories[way.run]
            found.setdefault((way, 0), []).append(_batch(batch[way], own, load.k))
            for clients in load.clients:
                found.setdefault((way, clients), []).append(_clients(port, way, own, clients, load))
            progress.advance(note=way.protocol)
        soak = _soak(port, ways, histories, load) if load.soak else None
    return {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "load": os.getloadavg()[0]},
        "versions": storage.versions(),
        "date": date.today().isoformat(),
        "settings": dict(vars(load)),
        "data": {one.recommender.session.dataset.name: len(one.recommender.catalog) for one in served.values()},
        "protocols": [_row(way, load, found) for way in ways],
        "soak": soak,
    }


def _row(way: Way, load: Load, found: dict[tuple[Way, int], list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of the repetitions; shares are medians of ratios within a repetition."""

    def middle(entries: Sequence[dict[str, float]]) -> dict[str, float]:
        return {name: median(entry[name] for entry in entries) for name in entries[0]}

    batch, rows = found[way, 0], []
    for clients in load.clients:
        own = found[way, clients]
        shares = [one["per_second"] / whole["per_second"] for one, whole in zip(own, batch, strict=True)]
        rows.append({"clients": clients, **middle(own), "of_batch": median(shares)})
    return {**vars(way), "batch_per_second": middle(batch)["per_second"], "service": rows}


def _ways(served: dict[str, ServedRun], protocols: Sequence[str]) -> list[Way]:
    """The protocols, each with the first run that offers it, without a tilt and with one."""
    ways: dict[tuple[str, bool], Way] = {}
    for name, one in served.items():
        for protocol in [known for known in one.protocols if known in protocols]:
            ways.setdefault((protocol, False), Way(name, protocol, False))
            if protocol in one.tilts:
                ways.setdefault((protocol, True), Way(name, protocol, True))
    if not ways:
        raise UserError(f"none of the runs offers {', '.join(protocols)}; name others with --protocol")
    return list(ways.values())


def _histories(recommender: Recommender, count: int) -> list[list[str]]:
    """The histories of the test split, repeated as often as is needed."""
    catalog, cases = recommender.catalog, recommender.session.dataset.test
    return [[catalog.source_ids[item] for item in cases[number % len(cases)].history] for number in range(count)]


def _recommender(served: ServedRun, way: Way) -> Recommender:
    """A run that recommends in a way, warm."""
    settings = [f"recommend.protocol={way.protocol}", f"recommend.tilt={str(way.tilted).lower()}"]
    recommender = Recommender.load(served.recommender.session.store.root, settings)
    recommender.recommend([[0]], 1)
    return recommender


def _batch(recommender: Recommender, histories: Sequence[Sequence[str]], k: int) -> dict[str, float]:
    """Lists per second of ``sprec recommend --histories`` without its start."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "histories.jsonl"
        file.write_text("".join(json.dumps({"user": n, "history": h}) + "\n" for n, h in enumerate(histories)))
        started = time.perf_counter()
        recommend_to_all(recommender, Path(folder) / "lists.parquet", histories=file, k=k)
        return {"per_second": len(histories) / (time.perf_counter() - started)}


def _clients(port: int, way: Way, histories: Sequence[Sequence[str]], clients: int, load: Load) -> dict[str, float]:
    """Latencies and lists per second while some clients ask without a pause."""
    requests = itertools.cycle([_request(way.body(history, load.k)) for history in histories])
    started = time.perf_counter()
    seconds = asyncio.run(_ask(port, requests, clients, started + load.seconds))
    return {**latencies(seconds), "per_second": len(seconds) / (time.perf_counter() - started)}


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the high percentiles of durations, in milliseconds.

    Args:
        seconds: how long each request took.
    """
    values = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
    return dict(zip(("p50", "p95", "p99"), values.tolist(), strict=True))


async def _ask(port: int, requests: Iterator[bytes], clients: int, until: float) -> list[float]:
    """How long each request took, of clients that ask until a time."""
    taken: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            started = time.perf_counter()
            await _exchange(reader, writer, next(requests))
            taken.append(time.perf_counter() - started)
            if time.perf_counter() > until:
                break
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return taken


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send a request and read its answer."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise UserError(f"the service answered {head[9:12].decode()}: {body[:200].decode(errors='replace')}")
    return body


def _request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = ("POST /v1/recommend HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


def _soak(port: int, ways: Sequence[Way], histories: dict[str, list[list[str]]], load: Load) -> dict[str, Any]:
    """A gentle load on all protocols in turn, and the memory of the service, in MiB, as it goes on."""
    bodies = [way.body(histories[way.run][number], load.k) for number in range(load.histories) for way in ways]
    requests = itertools.cycle([_request(body) for body in bodies])
    memory, taken, started = [], list[float](), time.monotonic()
    with bar("gentle load", load.soak * 60) as progress:
        while time.monotonic() - started < load.soak * 60:
            taken += asyncio.run(_gently(port, requests, load.rate))
            memory.append((round(time.monotonic() - started, 1), _memory(port)))
            progress.advance(_PIECES)
    first = next((size for when, size in memory if when >= 60), memory[0][1])
    return {
        "minutes": load.soak,
        "requests": len(taken),
        **latencies(taken),
        "memory": memory,
        "growth_after_first_minute": memory[-1][1] - first,
    }


async def _gently(port: int, requests: Iterator[bytes], rate: float) -> list[float]:
    """One client for some seconds, a request after the other at a rate."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken, until = list[float](), time.perf_counter() + _PIECES
    while (started := time.perf_counter()) < until:
        await _exchange(reader, writer, next(requests))
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, 1 / rate - taken[-1]))
    writer.close()
    return taken


def _memory(port: int) -> float:
    """Resident memory of the service in MiB, by its own metrics."""

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = await _exchange(reader, writer, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        writer.close()
        return found

    found = re.search(r"^process_resident_memory_bytes (\S+)", asyncio.run(ask()).decode(), re.MULTILINE)
    return round(float(found[1]) / 2**20, 1) if found else float("nan")


@contextmanager
def _serving(runs: Sequence[Path]) -> Iterator[int]:
    """The port of a service in a process of its own."""
    command = [sys.executable, "-m", "sprec", "serve", *map(str, runs), "--port", "0", "--timeout", "120"]
    environment = {name: value for name, value in os.environ.items() if name != "SPREC_TOKEN"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr
        printed = ""
        for line in process.stderr:
            printed += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1])
                return
        raise UserError(f"the service did not start: {printed.strip().splitlines()[-1:] or ['it says nothing']}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
