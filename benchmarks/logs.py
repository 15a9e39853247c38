"""Logs of real size, generated, imported and measured.

    python benchmarks/logs.py ml-10m         MovieLens-10M's format and exact size (10,000,054 ratings)
    python benchmarks/logs.py amazon         1M reviews as JSON and 100k items as Python literals, gzipped
    python benchmarks/logs.py parquet-100m   100M rows in one Parquet file

Each log is written below --folder (kept for the next time) and imported in a process of its own with 2 threads. For
each there is a line of JSON: seconds by the clock and of the processor, peak memory of the import, windows. Several
logs with --rounds take turns, and the lines have medians. ``benchmarks/results/logs.json`` has those of all three; the
documentation quotes the seconds of the processor, which other work on the machine hardly changes.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

DAY = 86_400
WORDS = ("Blue", "Night", "River", "Stone", "Golden", "Silent", "Summer", "Winter")
GENRES = ("Drama", "Comedy", "Thriller", "Romance", "Action", "Crime", "Horror", "Fantasy", "War", "Mystery")

Log = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Users, items and times in seconds, shuffled."""


def draw(users: int, items: int, rows: int, shortest: int, rng: np.random.Generator) -> Log:
    """A log of exactly these sizes: every user has ``shortest`` rows or more, no user meets an item twice.

    Users start anywhere within 14 years and rate for up to a year; items are a step through a permutation, so that
    they are distinct for a user without any search.
    """
    spare = rng.pareto(1.2, users)
    spare = np.minimum(spare / spare.sum() * (rows - shortest * users), items - shortest - 1).astype(np.int64)
    lengths = shortest + spare
    missing = rows - lengths.sum()
    while missing > 0:
        room = np.flatnonzero(lengths < items)
        more = rng.choice(room, min(missing, len(room)), replace=False)
        lengths[more] += 1
        missing = rows - lengths.sum()
    user = np.repeat(np.arange(users, dtype=np.int32), lengths)
    position = np.arange(rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first = rng.integers(items, size=users)[user]
    item = ((first + position * _step(items)) % items).astype(np.int32)
    start = rng.integers(14 * 365 * DAY, size=users)
    moment = 800_000_000 + start[user] + rng.integers(365 * DAY, size=rows)
    order = rng.permutation(rows)
    return user[order], item[order], moment[order]


def _step(items: int) -> int:
    """A step that visits every item before it repeats one."""
    return next(step for step in range(items // 3, items) if np.gcd(step, items) == 1)


def titles(items: int) -> list[str]:
    """Distinct made-up titles."""
    return [
        f"{WORDS[i % len(WORDS)]} {WORDS[i // len(WORDS) % len(WORDS)]}: Part {i} ({1930 + i % 80})"
        for i in range(items)
    ]


def ml_10m(folder: Path, rows: int) -> None:
    """``ratings.dat`` and ``movies.dat``; at full size 69,878 users, 10,681 items, 10,000,054 ratings."""
    share = rows / 10_000_054
    users, items = max(1, round(69_878 * share)), 10_681
    user, item, moment = draw(users, items, rows, 20, np.random.default_rng(0))
    frame = pl.DataFrame({"user": user + 1, "item": item + 1, "rating": 3 + (user + item) % 5 * 0.5, "time": moment})
    lines = frame.select(pl.concat_str("user", "item", "rating", "time", separator="::"))
    lines.write_csv(folder / "ratings.dat", include_header=False, quote_style="never")
    kinds = [f"{GENRES[i % 10]}|{GENRES[(i + 1 + i % 5) % 10]}" for i in range(items)]
    movies = [f"{i + 1}::{title}::{kind}\n" for i, (title, kind) in enumerate(zip(titles(items), kinds, strict=True))]
    (folder / "movies.dat").write_text("".join(movies), "utf-8")


def amazon(folder: Path, rows: int) -> None:
    """``reviews_Things_5.json.gz`` (strict JSON) and ``meta_Things.json.gz`` (Python literals), as in 2014."""
    items = rows // 10
    log = draw(rows // 12, items, rows, 5, np.random.default_rng(0))
    _write_gz(folder / "reviews_Things_5.json.gz", _reviews(log))
    _write_gz(folder / "meta_Things.json.gz", _metadata(items))


def _reviews(log: Log) -> Iterator[str]:
    text = 'I bought this after reading the other reviews and it "does" what it says. ' * 6
    for user, item, moment in zip(*(column.tolist() for column in log), strict=True):
        review = {
            "reviewerID": f"A{user:013d}",
            "asin": f"B{item:09d}",
            "reviewerName": "A. Customer",
            "helpful": [0, 0],
            "reviewText": text,
            "overall": 1.0 + (user + item) % 5,
            "summary": "As described",
            "unixReviewTime": moment,
        }
        yield json.dumps(review)


def _metadata(items: int) -> Iterator[str]:
    for i, title in enumerate(titles(items)):
        record = {
            "asin": f"B{i:09d}",
            "title": title if i % 3 else f'{title} - The People\'s "Choice"',
            "price": 9.99,
            "imUrl": f"http://images.example/{i}.jpg",
            "related": {kind: [f"B{(i + 7 * j) % items:09d}" for j in range(40)] for kind in ("also_bought", "viewed")},
            "salesRank": {"Things": i},
            "categories": [["Things", GENRES[i % 10]], ["Things", GENRES[i % 7], f"{GENRES[i % 7]} II"]],
            "description": 'It\'s what you "need".\n' * 5 if i % 2 else "Plain and good. " * 8,
        }
        yield repr(record)


def _write_gz(path: Path, lines: Iterator[str]) -> None:
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for line in lines:
            file.write(line + "\n")


def parquet_100m(folder: Path, rows: int) -> None:
    """``log.parquet`` (user, item, time) and ``items.csv``: 1M users and 100k items at full size."""
    users, items = max(1, rows // 100), 100_000
    user, item, moment = draw(users, items, rows, 12, np.random.default_rng(0))
    frame = pl.DataFrame({"user": user, "item": item, "time": moment})
    frame.write_parquet(folder / "log.parquet", row_group_size=1_000_000)
    kinds = pl.Series([GENRES[i % 10] for i in range(items)])
    pl.DataFrame({"item": np.arange(items), "title": titles(items), "genres": kinds}).write_csv(folder / "items.csv")


LOGS: dict[str, tuple[Callable[[Path, int], None], int, list[str]]] = {
    "ml-10m": (ml_10m, 10_000_054, ["movielens", "."]),
    "amazon": (amazon, 1_000_000, ["amazon", ".", "--min-length", "5", "--min-history", "1"]),
    "parquet-100m": (parquet_100m, 100_000_000, ["table", "log.parquet", "--items", "items.csv"]),
}


def measure(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Import the log in ``folder`` in a process of its own: what it took, and what came out.

    Args:
        folder: of the log; the dataset is written there, too.
        arguments: of ``sprec data import``.

    Returns:
        ``seconds`` by the clock, ``cpu_seconds`` of all cores, ``peak_gib`` of memory, and the counts of the log.
    """
    code = "from sprec.cli.data import app; app()"
    target = folder / "dataset"
    command = [sys.executable, "-c", code, "import", *arguments, "-o", str(target), "--overwrite"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"POLARS_MAX_THREADS": "2"})
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    about = json.loads((target / "dataset.json").read_text("utf-8"))
    cpu = used.ru_utime + used.ru_stime
    taken = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gib": round(used.ru_maxrss / 2**20, 2)}
    return {**taken, **about["meta"]["log"]}


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of several of the same log: medians of what they took."""
    taken = {name: median(one[name] for one in rounds) for name in ("seconds", "cpu_seconds", "peak_gib")}
    return {**rounds[0], **taken, "rounds": len(rounds)}


def generated(log: str, rows: int, parent: Path) -> Path:
    """The folder of a log, which is generated where it is not there."""
    folder = parent / f"{log}-{rows}"
    if not (folder / "complete").exists():
        print(f"generating {rows:,} rows in {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        # in a process of its own: what this one once needed counts as the peak of the processes that it starts
        process = multiprocessing.get_context("spawn").Process(target=LOGS[log][0], args=(folder, rows))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{log} could not be generated")
        (folder / "complete").touch()
    return folder


def main() -> None:
    """Generate, import in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", choices=LOGS)
    parser.add_argument("--rows", type=int, help="fewer rows, for a try")
    parser.add_argument("--rounds", type=int, default=1, help="imports of each log")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "sprec-logs")
    given = parser.parse_args()
    folders = {log: generated(log, given.rows or LOGS[log][1], given.folder) for log in given.logs}
    taken: dict[str, list[dict[str, Any]]] = {log: [] for log in given.logs}
    for _ in range(given.rounds):
        for log, folder in folders.items():
            taken[log].append(measure(folder, LOGS[log][2]))
            print(f"{log}: {taken[log][-1]}", file=sys.stderr, flush=True)
    machine = {
        "date": date.today().isoformat(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "polars": pl.__version__,
    }
    for log, rounds in taken.items():
        print(json.dumps({"log": log, **medians(rounds), **machine}))


if __name__ == "__main__":
    main()
