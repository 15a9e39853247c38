"""Damaged files of every format: imported, or refused in one line; never a traceback, nothing beside the output.

``SPREC_FUZZ=20000 pytest tests/data/test_fuzz.py`` tries more of them.
"""

import gzip
import io
import json
import os
import random
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from chaos.records import recording
from chaos.watch import one_line_at_most
from sprec.data import Dataset
from sprec.data.logs import Cleaning, import_log
from sprec.data.readers.sprec import read
from sprec.data.readers.table import Columns, Reading
from sprec.data.readers.text import Dialect
from sprec.data.windows import Protocol, Sizes
from sprec.system import storage

INPUTS = int(os.environ.get("SPREC_FUZZ", "400"))
PROTOCOL = Protocol(history=3, min_history=1, min_length=1, sizes=Sizes(5, 5, 5, 5))
DROP = Cleaning(drop_untitled=True)
UNTIMED = replace(PROTOCOL, split="leave-one-out")
EVENTS = [(i % 3, i % 4, 1_500_000_000 + i) for i in range(20)]


def lines(rows: Any, write: Any = json.dumps) -> str:
    return "".join(write(row) + "\n" for row in rows)


def told(history: str, target: str) -> dict[str, str]:
    return {"instruction": "Recommend.", "input": f"Seen the following books: {history}.", "output": f'"{target}"\n'}


def zipped(files: Mapping[str, str]) -> bytes:
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(zipfile.ZipInfo(f"ml/{name}"), text, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def parquet(**columns: Sequence[Any]) -> bytes:
    pl.DataFrame(columns).write_parquet(file := io.BytesIO())
    return file.getvalue()


RECORDS = json.dumps([told('"Dune", "Emma"', "Dune"), told('"Emma"', "It")])
MOVIELENS_CSV = {
    "ratings.csv": "userId,movieId,rating,timestamp\n" + lines(EVENTS, lambda row: f"{row[0]},{row[1]},5,{row[2]}"),
    "movies.csv": "movieId,title,genres\n" + lines(range(4), lambda i: f'{i},"Film, {i}",A|B'),
}
LOG = "user,item,time\n" + lines(EVENTS, lambda row: ",".join(map(str, row)))
WINDOWS = "session_id:token\titem_id_list:token_seq\titem_id:token\n" + lines(
    range(6), lambda i: f"{i}\t0 1 2\t{i % 4}"
)
GAMES = lines(({"id": str(i), "app_name": f"Game {i}"} for i in range(4)), repr)
FILES: dict[str, dict[str, str | bytes]] = {
    "movielens": {
        "ratings.dat": lines(EVENTS, lambda row: f"{row[0]}::{row[1]}::5::{row[2]}"),
        "movies.dat": lines(range(4), lambda i: f"{i}::Film {i}::A|B"),
    },
    "movielens csv": {**MOVIELENS_CSV},
    "movielens zip": {"ml.zip": zipped(MOVIELENS_CSV)},
    "movielens 100k": {
        "u.data": lines(EVENTS, lambda row: f"{row[0]}\t{row[1]}\t5\t{row[2]}"),
        "u.item": lines(range(4), lambda i: f"{i}|Film {i}|01-Jan-1992||http://x|" + "|".join("01" * 9 + "0")),
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
    "amazon 2018": {
        "Things_5.json.gz": lines(
            {"reviewerID": f"A{user}", "asin": f"B{item}", "overall": 4.0, "unixReviewTime": time}
            for user, item, time in EVENTS
        ),
        "meta_Things.json.gz": lines(
            {"asin": f"B{i}", "title": f"It's {i}", "category": ["x", "y"], "brand": "z"} for i in range(4)
        ),
    },
    "amazon 2023": {
        "Things.jsonl.gz": lines(
            {"user_id": f"A{user}", "parent_asin": f"B{item}", "rating": 4.0, "timestamp": time * 1000}
            for user, item, time in EVENTS
        ),
        "meta_Things.jsonl.gz": lines(
            {"parent_asin": f"B{i}", "title": f"It's {i}", "categories": ["x", "y"], "store": "z"} for i in range(4)
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
        "steam_games.json.gz": GAMES,
    },
    "steam libraries": {
        "australian_users_items.json.gz": lines(
            ({"user_id": f"u{user}", "items": [{"item_id": str(i)} for i in range(4)]} for user in range(6)), repr
        ),
        "steam_games.json.gz": GAMES,
    },
    "recbole": {
        "s.inter": "user_id:token\titem_id:token\ttimestamp:float\n"
        + lines(EVENTS, lambda row: "\t".join(map(str, row))),
        "s.item": "item_id:token\ttitle:token_seq\tclass:token_seq\n"
        + lines(range(4), lambda i: f"{i}\tThing {i}\ta b"),
    },
    "recbole windows": {
        **{f"s.{split}.inter": WINDOWS for split in ("train", "valid", "test")},
        "s.item": "item_id:token\ttitle:token_seq\tgenres:token_seq\n"
        + lines(range(4), lambda i: f"{i}\tThing {i}\ta b"),
    },
    "table": {"log.csv": LOG},
    "table items": {
        "log.csv": LOG,
        "items.csv": "item,title,genres,detail\n" + lines(range(4), lambda i: f"{i},Thing {i},a|b,x"),
    },
    "table items jsonl": {
        "log.csv": LOG,
        "items.jsonl": lines({"item": i, "title": f"Thing {i}", "genres": ["a"], "detail": "x"} for i in range(4)),
    },
    "table parquet": {
        "log.parquet": parquet(**dict(zip(("user", "item", "time"), zip(*EVENTS, strict=True), strict=True))),
        "items.parquet": parquet(item=range(4), title=["Tea", "Pot", "Mug", "Cup"], genres=[["a"], ["b"], [], ["a"]]),
    },
    "table tsv": {"log.tsv": LOG.replace(",", "\t")},
    "table quoted": {
        "log.csv": "user,item,time,title\n"
        + lines(EVENTS, lambda row: f'"{row[0]}",{row[1]},{row[2]},"6"" {row[1]}, "')
    },
    "table escaped": {
        "log.csv": "user;item;time;title\n" + lines(EVENTS, lambda row: f'{row[0]};{row[1]};{row[2]};"6\\" {row[1]}"')
    },
    "table bare": {"log.dat": lines(EVENTS, lambda row: f"{row[0]}::{row[1]}::{row[2]}")},
    "table packed": {"log.csv": gzip.compress(LOG.encode(), mtime=0)},
    "table utf-16": {"log.csv": LOG.encode("utf-16")},
    "table array": {
        "log.json": json.dumps([{"user": user, "item": {"id": item}, "time": time} for user, item, time in EVENTS])
    },
    "table parts": {
        f"parts/{part}.parquet": parquet(user=[0, 1] * 5, item=[0, 1, 2, 3, 0] * 2, time=range(10)) for part in "ab"
    },
    "table chosen": {
        "log.csv": "user,item,day,type\n"
        + lines(EVENTS, lambda row: f"{row[0]},{row[1]},{1 + row[2] % 28}/7/2017,{'buy' if row[2] % 3 else 'view'}")
    },
    "table rows": {"log.csv": "user,item\n" + lines(EVENTS, lambda row: f"{row[0]},{row[1]}")},
    "table jsonl": {"log.jsonl": lines({"user": user, "item": item, "time": time} for user, item, time in EVENTS)},
    "sprec": {
        **{f"data/Books/{split}.json": RECORDS for split in ("train", "valid", "test", "valid_4096")},
        "eval/Books/id2name.json": json.dumps({"0": "Dune", "1": "Emma", "2": "It"}),
        "eval/Books/name2genre.json": json.dumps({"Dune": ["sci-fi"], "Emma": ["romance"]}),
        "eval/Books/genre_dict.json": json.dumps({"romance": 0}),
    },
}
READINGS = {
    "table escaped": Reading(Dialect(escape="\\")),
    "table bare": Reading(Dialect("::", header=False)),
    "table chosen": Reading(where={"type": ["buy"]}, date_format="%d/%m/%Y"),
    "table rows": Reading(order="file"),
}
COLUMNS = {
    "table bare": Columns("1", "2", "3"),
    "table array": Columns(item="item.id"),
    "table chosen": Columns(time="day"),
}
SPLINTERS = [b'"', b"'", b"\n", b"\r", b",", b"{", b"}", b"[", b"\\", b"::", b"\t", b"null", b"-1", b"1e999", b"9" * 23]
SPLINTERS += [
    b"\x00",
    b"\xff",
    b"NaN",
    b"\\ud83d",
    b"\x1f",
    b"\x1b[31m",
    b"\xef\xbb\xbf",
    b'"\n"',
    b"\\N",
    b"4,5",
    b";",
]


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


def made(name: str, content: str | bytes, rng: random.Random | None) -> bytes:
    """The bytes of a file, damaged if there is a generator; for an archive its content or the archive itself."""
    content = content.encode() if isinstance(content, str) else content
    packed = name.endswith(".gz")
    inside = rng is not None and (not packed or rng.random() < 0.8)
    content = damage(content, rng) if rng and inside else content
    content = gzip.compress(content, 1, mtime=0) if packed else content
    return damage(content, rng) if rng and not inside else content


def import_kind(kind: str, folder: Path) -> Dataset:
    format, names = kind.split()[0], sorted(FILES[kind], reverse=True)  # log.csv before items.csv
    if format == "sprec":
        return read(folder)
    alone = (format == "table" and kind != "table parts") or names == ["ml.zip"]
    source = folder / "parts" if kind == "table parts" else folder / names[0] if alone else folder
    items = folder / names[1] if alone and len(names) > 1 else None
    protocol = UNTIMED if kind in ("steam libraries", "table rows") else PROTOCOL
    columns, reading = COLUMNS.get(kind), READINGS.get(kind)
    return import_log(format, source, "log", protocol, DROP, items=items, columns=columns, reading=reading)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_imported_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    rng, imported = random.Random(kind), 0
    for name in FILES[kind]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with recording(kind) as record:
        for _ in range(INPUTS // len(FILES)):
            broken = rng.choice(list(FILES[kind]))
            for name, content in FILES[kind].items():
                (tmp_path / name).write_bytes(made(name, content, rng if name == broken else None))
            with record.trying("damaged raw logs"), one_line_at_most(tmp_path / "nothing"):
                imported += len(import_kind(kind, tmp_path).catalog) > 0
    assert imported, "every file was refused: the test proves little"
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(FILES[kind])


def forged(about: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Another description, one of whose values is something else, with the right digest."""
    odd: list[Any] = [None, True, -1, 2**70, "x", "../../x", [], {}, [[]], {"a": 1}, float("nan"), "\ud83d", 1.5]
    changed: dict[str, Any] = json.loads(json.dumps(about))
    place: Any = changed
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.4:
            break
        place = place[key]
    place[key] = rng.choice(odd)
    changed.pop("digest", None)
    return changed | {"digest": storage.digest(changed)}


def test_damaged_and_forged_datasets_are_loaded_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, loaded = random.Random("datasets"), 0
    (tmp_path / "log.csv").write_text(LOG)
    import_log("table", tmp_path / "log.csv", "log", PROTOCOL).save(tmp_path / "data")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    about = json.loads(whole["dataset.json"])
    with recording("datasets") as record:
        for number in range(INPUTS):
            broken = {name: damage(content, rng) if number % 2 else content for name, content in whole.items()}
            hashes = {name: sha256(broken[name]).hexdigest() for name in about["sha256"]}
            text = storage.as_text(forged(about | {"sha256": hashes}, rng))
            broken["dataset.json"] = text.encode("utf-8", "surrogatepass")
            for name, content in broken.items():
                (tmp_path / "data" / name).write_bytes(content)
            with record.trying("damaged and forged datasets"), one_line_at_most(tmp_path / "nothing"):
                loaded += len(Dataset.load(tmp_path / "data").train) > 0
    assert loaded, "every dataset was refused: the test proves little"
