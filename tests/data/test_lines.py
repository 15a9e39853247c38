import ast
import contextlib
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data.readers import lines
from sprec.data.readers.lines import literal_to_json, parse, read_lines, read_objects
from sprec.data.readers.log import Faults
from sprec.system.errors import UserError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
records = st.dictionaries(st.text(), values, max_size=5)


@given(records)
def test_python_literals_and_json_are_read_alike(record: dict[str, Any]) -> None:
    assert parse(repr(record)) == record
    assert parse(json.dumps(record)) == record
    assert parse(json.dumps(record, ensure_ascii=False)) == record


quoting = st.text(alphabet="\"'\\unNTe:, {}[]\n\x00é")


@given(st.dictionaries(quoting, quoting | st.none() | st.booleans(), max_size=4))
def test_strings_that_look_like_syntax_survive(record: dict[str, Any]) -> None:
    assert parse(repr(record)) == record


def test_texts_with_half_of_a_character_are_missing() -> None:
    line = r'{"a": "x\ud83d", "b": "\ud83d\ude00", "c": ["\udc00", {"d": "\uD800y"}, "y"], "\ud800": 1, "e": "\\ud800"}'
    whole = {"a": None, "b": "\U0001f600", "c": [None, {"d": None}, "y"], "e": r"\ud800"}
    assert parse(line) == parse(line.replace('"', "'")) == whole
    assert parse(r"{u'a': u'\U0000d83d', 'b': None, None: 1}") == {"a": None, "b": None, None: 1}


halves = st.text(alphabet="a\ud83d\ude00\"'\\u")


@given(st.dictionaries(halves, halves | st.lists(halves), max_size=4))
def test_whatever_is_read_can_be_written(record: dict[str, Any]) -> None:
    for line in (repr(record), json.dumps(record)):
        assert json.dumps(parse(line), ensure_ascii=False).encode()


def test_python_2_strings_are_read() -> None:
    line = """{u'id': u'1', u"it's": u'caf\\xe9 "None"', 'menu': None, 'flu': [True, u'x']}"""
    assert parse(line) == {"id": "1", "it's": 'café "None"', "menu": None, "flu": [True, "x"]}
    assert json.loads(literal_to_json(line)) == ast.literal_eval(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[1, 2]",
        "'text'",
        "{'a': 1",
        "{'a': __import__('os').getcwd()}",
        "{'a': 'no end}",
        "{[1]: 2}",
        "(" * 5000,
        "[" * 100_000,
        '{"a": ' * 100_000,
    ],
)
def test_other_lines_are_refused_and_nothing_is_run(line: str) -> None:
    with pytest.raises(ValueError, match="not an object"):
        parse(line)


@given(st.text() | st.text(alphabet="{}[]()'\",:u0\\NoneTrue"))
def test_parse_never_raises_anything_else(line: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse(line), dict)


def test_bad_lines_are_counted_and_the_first_ones_shown(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(b'{"a": 1}\n\n{bad}\n{"a": 2}\n\xff\xfe\n[1]\n{"a"\n' + b'{"a": 3}')
    faults = Faults()
    assert list(read_objects(path, faults)) == [(1, {"a": 1}), (4, {"a": 2}), (8, {"a": 3})]
    assert faults.counts == {"malformed_lines": 4}
    assert [place.split(" ")[0] for place in faults.examples["malformed_lines"]] == [
        "log.json:3:",
        "log.json:5:",
        "log.json:6:",
    ]


def test_gzip_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.json.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert [record["a"] for _, record in read_objects(path, Faults())] == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ['{"a": "é"}\n{"a": "ü"}\n', '[{"a": "é"},\n{"a": "ü"}]'])
def test_marked_encodings_of_lines_and_arrays_are_read(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "log.json"
    for content in (text.encode(encoding), gzip.compress(text.encode(encoding))):
        path.write_bytes(content)
        assert list(read_objects(path, Faults())) == [(1, {"a": "é"}), (2, {"a": "ü"})]
    path.write_bytes(text.encode("cp1252"))
    assert [record["a"] for _, record in read_objects(path, Faults(), "cp1252")] == ["é", "ü"]


@given(st.lists(records, max_size=5), st.integers(1, 40), st.sampled_from([None, 1]))
def test_arrays_are_read_as_json_reads_them_whatever_the_pieces(
    made: list[dict[str, Any]], chunk: int, indent: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_ARRAY_CHUNK", chunk)
        path = Path(folder) / "log.json"
        path.write_text(json.dumps(made, indent=indent))
        assert [record for _, record in read_objects(path, Faults())] == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', r"log.json:1: the array has no end"),
        ('[{"a": 1}\n{"a": 2}]', r"log.json:2: no comma between two elements"),
        ('[{"a": 1},\n{"a": }]', r"log.json:2: not valid JSON"),
        ('[{"a": 1}]\n[{"a": 2}]', r"log.json:2: something follows the array"),
        ("[" * 100_000, r"log.json:1: not valid JSON \(maximum recursion depth"),
    ],
)
def test_broken_arrays_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_objects(tmp_path / "log.json", Faults()))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "log.json.gz is empty"),
        (cut(gzip.compress(bytes(range(256)) * 4000 + b"\n", mtime=0)), "is damaged or incomplete after line"),
        (gzip.compress(b"x\n", mtime=0)[:-4] + b"0000", "is damaged or incomplete after line"),
    ],
    ids=["empty", "cut", "wrong checksum"],
)
def test_damaged_archives_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.json.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_lines(tmp_path / "log.json.gz"))
