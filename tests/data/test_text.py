"""Delimited text: what quotes, escapes, separators and encodings are, and which line is wrong."""

import gzip
import io
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data.readers import files, text
from sprec.data.readers.files import Source, source_of
from sprec.data.readers.log import LINE, Faults
from sprec.data.readers.table import Columns
from sprec.data.readers.table import read as read_table
from sprec.data.readers.tables import open_table, read
from sprec.data.readers.text import Dialect, Text
from sprec.system.errors import UserError


def source(content: bytes) -> Source:
    return Source("log.csv", lambda: io.BytesIO(content), len(content))


def rows(content: str | bytes, dialect: Dialect | None = None) -> list[tuple[Any, ...]]:
    """The line number and the fields of each row."""
    data = content.encode() if isinstance(content, str) else content
    opened = Text(source(data), dialect or Dialect())
    frames = [frame.select(LINE, *map(str, range(len(opened.columns)))) for frame in opened.frames()]
    return [row for frame in frames for row in frame.rows()]


STRAY = 'item\ttitle\n02\t"Live in Rome\n03\tT03\n05\tMix 12"\n'


def test_tabs_mean_no_quoting() -> None:
    assert rows(STRAY) == [(2, "02", '"Live in Rome'), (3, "03", "T03"), (4, "05", 'Mix 12"')]


def test_tabs_under_a_quoted_header_are_quoted() -> None:
    assert rows('"a"\t"b"\n"1"\t"x\ty"\n') == [(2, "1", "x\ty")]
    assert rows('a\tb\n"1"\tx\n', Dialect(quote='"')) == [(2, "1", "x")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('a,b\n1,"x, y"\n2,"6"" x 4"""\n', [(2, "1", "x, y"), (3, "2", '6" x 4"')]),
        ('a,b\n1,6" x 4"\n2,12" Mix\n3,"x"\n', [(2, "1", '6" x 4"'), (3, "2", '12" Mix'), (4, "3", "x")]),
        ('a,b\r\n"1","x"\r\n\r\n"2",""\r\n', [(2, "1", "x"), (4, "2", "")]),
        ("\n\na,b\n1,2\n", [(4, "1", "2")]),
        ("a,b\n1\n", [(2, "1", None)]),
        ("a,b\n1,2", [(2, "1", "2")]),
        ('a,b,c\n1,"one\ntwo",x\n3,4,5\n', [(2, "1", "one\ntwo", "x"), (4, "3", "4", "5")]),
        (" a , b\n1,2\n", [(2, "1", "2")]),
        ('a;b\n1;"4,5"\n', [(2, "1", "4,5")]),
        ("a|b\n1|2\n", [(2, "1", "2")]),
    ],
)
def test_well_formed_text_is_read_as_it_is_meant(content: str, expected: list[tuple[Any, ...]]) -> None:
    found = rows(content)
    assert [row[1:] for row in found] == [row[1:] for row in expected]
    if "\n3,4,5" not in content:  # a line break in a field: its block counts rows
        assert [row[0] for row in found] == [row[0] for row in expected]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'a,b\n1,x\n2,"open\n3,y\n',
            "line 3 cannot be cut into fields .unexpected end of data.; put quotes",
        ),
        (
            'a,b\n1,"Live in Rome\n2,T02\n3,Mix 12"\n',
            "line 2 opens a quote that is closed on line 4, but each of these lines",
        ),
        ('a;b\n1;x\n2;"A \\"Level 4\\" Reader"\n', r"line 3 cannot be cut .*--escape '\\'"),
        ('a,b\n1,x\n2,"y" z\n', "line 3 cannot be cut into fields"),
        ("a,b\n1,x\n2,y,z\n", "a row has more fields than the header; put quotes .*line 3: 3 fields, not 2"),
        ('a,b\n1,6" x\n2,y,z\n', "a row has more fields than the header; put quotes .*line 3: 3 fields, not 2"),
        (b"a,b\n1,x\n2,\xff\n", "line 3 is not UTF-8; save the file as UTF-8, or pass its --encoding"),
        (b"a,\xff\n1,x\n", "line 1 is not UTF-8"),
        ("a,b\r1,x\r2,y\r", "has old Mac line endings"),
        ("u\0s\0e\0r\0,\0", "starts with null bytes"),
        ('"a,b\n1,x\n', "line 1 cannot be cut into fields"),
        (",".join("a" * 20_000), "has 20,000 columns"),
    ],
)
def test_what_cannot_be_cut_names_the_line(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(content)


def test_a_field_that_looks_like_rows_can_be_meant() -> None:
    content = 'a,b\n1,"Live in Rome\n2,T02\n3,Mix 12"\n'
    assert [row[1:] for row in rows(content, Dialect(quote='"'))] == [("1", "Live in Rome\n2,T02\n3,Mix 12")]
    assert rows(content, Dialect(quote=None)) == [(2, "1", '"Live in Rome'), (3, "2", "T02"), (4, "3", 'Mix 12"')]


def test_escapes_separators_quotes_and_headers_can_be_told() -> None:
    assert rows('a;b\n1;"A \\"Level 4\\" Reader"\n\\N;x\n', Dialect(escape="\\")) == [
        (2, "1", 'A "Level 4" Reader'),
        (3, None, "x"),
    ]
    assert rows("1::Boomerang: The Film::A|B\n", Dialect("::", header=False)) == [
        (1, "1", "Boomerang: The Film", "A|B")
    ]
    assert rows('a::b\n"1::2"::3\n', Dialect("::", quote='"')) == [(2, "1::2", "3")]
    assert rows('a::b\n"1\\"::2"::3\n', Dialect("::", quote='"', escape="\\")) == [(2, '1"::2', "3")]
    assert rows("a,b\n'1,2',3\n", Dialect(quote="'")) == [(2, "1,2", "3")]
    assert rows("a§b\n1§2\n", Dialect("§")) == [(2, "1", "2")]
    assert Text(source(b"x,y\n"), Dialect(header=False)).columns == ["1", "2"]
    assert rows("1,2,3\n4,5\n", Dialect(header=False)) == [(1, "1", "2", "3"), (2, "4", "5", None)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quote": "''"}, "the quote must be one ASCII character"),
        ({"escape": "ä"}, "the escape must be one ASCII character"),
        ({"separator": "\n"}, "cannot separate fields"),
        ({"separator": '"', "quote": '"'}, "cannot separate fields"),
        ({"quote": '"', "escape": '"'}, "quote and escape must differ"),
    ],
)
def test_impossible_dialects_are_one_line(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Dialect(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_marked_encodings_and_gzip_need_no_name(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = "item,title\n1,Café\n".encode(encoding)
    (tmp_path / "items.csv").write_bytes(gzip.compress(content) if packed else content)
    table = open_table(tmp_path / "items.csv")
    assert table.columns == ("item", "title")
    assert read(table, {"title": "title"})["title"].to_list() == ["Café"]


def test_other_encodings_are_told() -> None:
    content = "a,b\n1,Café\n".encode("cp1252")
    assert rows(content, Dialect(encoding="cp1252")) == [(2, "1", "Café")]
    assert rows("a,b\n1,é\n".encode("utf-16-le"), Dialect(encoding="utf-16-le")) == [(2, "1", "é")]
    assert rows("\ufeffa,b\n1,é\n".encode("utf-16-be"), Dialect(encoding="utf-16-be")) == [(2, "1", "é")]
    for encoding, message in (
        ("klingon", "unknown encoding 'klingon'"),
        ("zlib", "unknown encoding"),
        ("ascii", "is not ascii: .*; pass its --encoding"),
    ):
        with pytest.raises(UserError, match=message):
            rows(content, Dialect(encoding=encoding))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"SQLite format 3\0 and more", "is a SQLite database; export a table as CSV"),
        (b"PK\x03\x04xl/workbook.xml", "is a spreadsheet .* or a zip archive; export the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0old", "is an Excel workbook; export the sheet as CSV"),
        (b"PAR1", "is a Parquet file; rename it to .parquet"),
        (b"\x28\xb5\x2f\xfdx", "is compressed with Zstandard"),
        (b"BZh91AY", "is compressed with bzip2"),
        (b"\xfd7zXZ\0", "is compressed with xz"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\x80\x04\x95x", "is a Python pickle"),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_other_kinds_of_files_say_what_they_are(tmp_path: Path, start: bytes, message: str, name: str) -> None:
    for content in (start, gzip.compress(start)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / name, None, Faults())


fields = st.text(alphabet="ab\",; \t\nä|'", max_size=6)


@given(st.lists(st.tuples(fields, fields, fields), min_size=1, max_size=8), st.integers(1, 60), st.sampled_from(",;|"))
def test_what_a_program_quotes_is_read_back_whatever_the_pieces(
    table: list[tuple[str, str, str]], chunk: int, separator: str
) -> None:
    """Against polars' own writer, with pieces that end anywhere."""
    content = pl.DataFrame(table, schema=["a", "b", "c"], orient="row").write_csv(separator=separator).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "CHUNK", chunk)
        frames = list(Text(source(content), Dialect(separator, quote='"')).frames())
    found = [tuple(field or "" for field in row) for frame in frames for row in frame.drop(LINE).rows()]
    assert [row for row in found if any(row)] == [row for row in table if any(row)]


def test_strays_are_found_in_any_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote in the middle of an unquoted field turns to ``csv``, from its piece on; no row is lost or read twice."""
    rng = random.Random(0)
    lines = [f'{i},"quoted ""{i}""",{rng.random()}' if rng.random() < 0.5 else f"{i},plain {i},x" for i in range(3000)]
    lines[1700] = '1700,12" Mix,x'
    content = ("a,b,c\n" + "\n".join(lines) + "\n").encode()
    monkeypatch.setattr(text, "CHUNK", 1000)
    whole = rows(content)
    assert [row[:2] for row in whole] == [(i + 2, str(i)) for i in range(3000)]
    assert whole[1700][2] == '12" Mix'


def test_a_line_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.csv", "wb") as file:
        file.write(b"user,item,time\n")
        for _ in range(200):
            file.write(b"0" * (1 << 20))
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)"
    code = f"""
import sys
from pathlib import Path
from sprec.data.logs import import_log
from sprec.system.errors import UserError
{peak}
try:
    import_log("table", Path(sys.argv[1]))
except UserError as error:
    {peak}
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log.csv")], capture_output=True, text=True, check=True
    )
    before, after, message = done.stdout.splitlines()
    assert "line 2 is longer than 64 MiB: not a table" in message
    assert int(after) - int(before) < 400  # MiB


def test_a_bomb_of_good_rows_is_refused_long_before_its_end(tmp_path: Path) -> None:
    """Two gigabytes of rows; 256 MiB are unpacked."""
    bomb = tmp_path / "log.csv"
    row_block = gzip.compress(b"u,1,1700000000\n" * 4_000_000, 9, mtime=0)
    bomb.write_bytes(gzip.compress(b"user,item,time\n") + row_block * 36)
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        assert sum(len(frame) for frame in Text(source_of(bomb), Dialect()).frames()) < 0
    assert bomb.stat().st_size < 10_000_000


def test_limits_hold_for_archives_of_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UNPACKED", 1000)
    (tmp_path / "log.csv").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    with pytest.raises(UserError, match="unpacks to more than 200 times its size: not a log"):
        read(open_table(tmp_path / "log.csv"), {"a": "a"})


def test_headers_in_brackets_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("[user],[item],[time]\na,1,5\n")
    events = read_table(tmp_path / "log.csv", None, Faults(), Columns("[user]", "[item]", "[time]")).events
    assert [batch.select("user", "item").rows() for batch in events] == [[("a", 1)]]
    for content in ('[{"user": "a", "item": "1", "time": 5}]', ' \n{"user": "a", "item": "1", "time": 5}'):
        (tmp_path / "log.txt").write_text(content)
        events = read_table(tmp_path / "log.txt", None, Faults()).events
        assert [batch.select("user", "item").rows() for batch in events] == [[("a", 1)]]


def test_a_column_that_is_there_twice_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("item,title,title\n1,2,3\n")
    with pytest.raises(UserError, match='has 2 columns "title"; rename all but one'):
        read(open_table(tmp_path / "log.csv"), {"title": "title"})
    assert read(open_table(tmp_path / "log.csv"), {"item": "item"})["item"].to_list() == ["1"]


def test_a_folder_of_parquet_parts_is_one_table(tmp_path: Path) -> None:
    for part, values in (("part-1", [3, 4]), ("part-0", [1, 2]), ("_hidden", [9]), (".crc", [9])):
        pl.DataFrame({"a": values}).write_parquet(tmp_path / f"{part}.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    assert read(open_table(tmp_path), {"a": "a"})["a"].to_list() == [1, 2, 3, 4]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none is a folder without Parquet files"):
        open_table(tmp_path / "none")


def test_fields_of_structures_and_odd_names_of_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({" a ": [1], "*": [2], "^b$": [3], "product": [{"id": "x", "in": {"ner": 5}}]})
    frame.write_parquet(tmp_path / "t.parquet")
    names = {"a": "a", "b": "*", "c": "^b$", "d": "product.id", "e": "product.in.ner"}
    assert read(open_table(tmp_path / "t.parquet"), names).rows() == [(1, 2, 3, "x", 5)]
