"""Damaged files of every format: imported, or refused in one line; never a traceback, nothing beside the output.

``SPREC_FUZZ=20000 pytest tests/data/test_fuzz.py`` tries more of them.
"""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from chaos.records import recording
from chaos.watch import one_line_at_most
from sprec.data.logs import import_log
from sprec.data.readers.sprec import read
from sprec.data.windows import Protocol, Sizes

INPUTS = int(os.environ.get("SPREC_FUZZ", "270"))
PROTOCOL = Protocol(history=3, min_history=1, min_length=1, sizes=Sizes(5, 5, 5, 5))
EVENTS = [(i % 3, i % 4, 1_500_000_000 + i) for i in range(20)]


def lines(rows: Any, write: Any = json.dumps) -> str:
    return "".join(write(row) + "\n" for row in rows)


def told(history: str, target: str) -> dict[str, str]:
    return {"instruction": "Recommend.", "input": f"Seen the following books: {history}.", "output": f'"{target}"\n'}


RECORDS = json.dumps([told('"Dune", "Emma"', "Dune"), told('"Emma"', "It")])
FILES: dict[str, dict[str, str]] = {
    "movielens": {
        "ratings.dat": lines(EVENTS, lambda row: f"{row[0]}::{row[1]}::5::{row[2]}"),
        "movies.dat": lines(range(4), lambda i: f"{i}::Film {i}::A|B"),
    },
    "movielens csv": {
        "ratings.csv": "userId,movieId,rating,timestamp\n" + lines(EVENTS, lambda row: f"{row[0]},{row[1]},5,{row[2]}"),
        "movies.csv": "movieId,title,genres\n" + lines(range(4), lambda i: f'{i},"Film, {i}",A|B'),
    },
    "goodreads": {
        "goodreads_interactions.json.gz": lines(
            {"user_id": f"u{user}", "book_id": str(item), "date_added": f"Thu Jul 13 19:40:{time % 60:02} -0700 2017"}
            for user, item, time in EVENTS
        ),
        "goodreads_books.json.gz": lines({"book_id": str(i), "title": f"Book {i}"} for i in range(4)),
        "goodreads_book_genres_initial.json.gz": lines([{"book_id": "1", "genres": {"poetry": 1}}]),
    },
    "amazon": {
        "Things_5.json.gz": lines(
            {"reviewerID": f"A{user}", "asin": f"B{item}", "overall": 4.0, "unixReviewTime": time}
            for user, item, time in EVENTS
        ),
        "meta_Things.json.gz": lines(
            ({"asin": f"B{i}", "title": f"It's {i}", "categories": [["x"]]} for i in range(4)), repr
        ),
    },
    "steam": {
        "steam_reviews.json.gz": lines(
            (
                {"username": user, "product_id": str(item), "date": f"2017-07-{1 + time % 28:02}"}
                for user, item, time in EVENTS
            ),
            lambda row: repr(row).replace(": '", ": u'"),
        ),
        "steam_games.json.gz": lines(({"id": str(i), "app_name": f"Game {i}"} for i in range(4)), repr),
    },
    "recbole": {
        "s.inter": "user_id:token\titem_id:token\ttimestamp:float\n"
        + lines(EVENTS, lambda row: "\t".join(map(str, row))),
        "s.item": "item_id:token\ttitle:token_seq\tclass:token_seq\n"
        + lines(range(4), lambda i: f"{i}\tThing {i}\ta b"),
    },
    "table": {"log.csv": "user,item,time\n" + lines(EVENTS, lambda row: ",".join(map(str, row)))},
    "table jsonl": {"log.jsonl": lines({"user": user, "item": item, "time": time} for user, item, time in EVENTS)},
    "sprec": {
        **{f"data/Books/{split}.json": RECORDS for split in ("train", "valid", "test", "valid_4096")},
        "eval/Books/id2name.json": json.dumps({"0": "Dune", "1": "Emma", "2": "It"}),
        "eval/Books/name2genre.json": json.dumps({"Dune": ["sci-fi"], "Emma": ["romance"]}),
        "eval/Books/genre_dict.json": json.dumps({"romance": 0}),
    },
}
SPLINTERS = [b'"', b"'", b"\n", b"\r", b",", b"{", b"}", b"[", b"\\", b"::", b"\t", b"null", b"-1", b"1e999", b"9" * 23]
SPLINTERS += [b"\x00", b"\xff", b"NaN"]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change, insert, delete, repeat or cut bytes, once or a few times."""
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(damaged) + 1)
        harm = rng.randrange(6)
        if harm == 0:
            damaged[at : at + 1] = bytes([rng.randrange(256)])
        elif harm == 1:
            damaged[at:at] = rng.choice(SPLINTERS)
        elif harm == 2:
            del damaged[at : at + rng.randrange(20)]
        elif harm == 3:
            damaged[at:at] = damaged[: rng.randrange(30)]
        elif harm == 4 and rng.random() < 0.3:
            del damaged[at:]
    return bytes(damaged)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_imported_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    format, rng = kind.split()[0], random.Random(kind)
    imported = 0
    for name in FILES[kind]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with recording(kind) as record:
        for _ in range(INPUTS // len(FILES)):
            broken = rng.choice(list(FILES[kind]))
            for name, text in FILES[kind].items():
                content = damage(text.encode(), rng) if name == broken else text.encode()
                (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
            source = tmp_path / broken if format == "table" else tmp_path
            with record.trying("damaged raw logs"), one_line_at_most(tmp_path / "nothing"):
                dataset = read(source) if format == "sprec" else import_log(format, source, protocol=PROTOCOL)
                imported += len(dataset.catalog) > 0
    assert imported, "every file was refused: the test proves little"
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(FILES[kind])
