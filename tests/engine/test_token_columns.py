"""Token ids in files: what was put in comes out, once made, whatever happened to the files; and groups as views."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sprec.engine import columns
from sprec.engine.columns import Column
from sprec.engine.layout.groups import Groups, PromptGroup, lengths_of, sizes_of

Encode = Callable[[slice], Sequence[Sequence[int]]]


def texts(count: int, vocabulary: int = 300, longest: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, vocabulary, rng.integers(0, longest)).tolist() for _ in range(count)]


def column(folder: Path, encode: Encode, count: int) -> Column:
    return Column(folder, count, encode, "tokenise")


def refused(rows: slice) -> list[list[int]]:
    raise AssertionError(f"{rows} was asked for")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 5)
    monkeypatch.setattr(columns, "_MAPPED", 2)


@pytest.mark.parametrize("count", [0, 1, 5, 23])
@pytest.mark.parametrize("vocabulary", [200, 60_000, 128_256])
def test_what_was_put_in_comes_out(tmp_path: Path, count: int, vocabulary: int) -> None:
    given = texts(count, vocabulary)
    found = column(tmp_path / "key", given.__getitem__, count)
    assert list(found) == given
    assert found[2:20:3] == given[2:20:3]
    rows: Any = np.arange(count)  # batches are arrays
    assert [found[row] for row in rows] == given
    assert found.lengths.tolist() == lengths_of(given).tolist() == [len(one) for one in given]
    with pytest.raises(IndexError):
        found[count]
    again = column(tmp_path / "key", refused, count)
    assert list(again) == given
    assert len(again._mapped) <= 2


def test_a_process_that_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    given, asked = texts(23), list[int]()

    def failing(rows: slice) -> list[list[int]]:
        if rows.start == 15:
            raise KeyboardInterrupt
        return given[rows]

    with pytest.raises(KeyboardInterrupt):
        column(tmp_path, failing, 23)
    (tmp_path / ".000004-x.npy.0123abcd.tmp").write_bytes(b"half")
    kept = len(list(tmp_path.glob("*.npy")))

    def counting(rows: slice) -> list[list[int]]:
        asked.append(rows.start)
        return given[rows]

    assert list(column(tmp_path, counting, 23)) == given
    assert 15 in asked
    assert len(asked) == 5 - kept
    assert len(list(tmp_path.iterdir())) == 5


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [flip, Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-2]), lambda file: file.write_bytes(b"")],
)
def test_a_damaged_chunk_is_made_again(
    harm: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As soon as it is read; the others are not touched."""
    given, asked = texts(23), list[slice]()

    def counting(rows: slice) -> list[list[int]]:
        asked.append(rows)
        return given[rows]

    found = column(tmp_path, counting, 23)
    asked.clear()
    (file,) = tmp_path.glob("000002-*")
    harm(file)
    assert found[3] == given[3]
    assert not asked
    assert list(found) == given
    assert asked == [slice(10, 15)]
    assert f"! {file} is damaged or missing; made again" in capsys.readouterr().err.replace("\n", "")
    assert list(column(tmp_path, refused, 23)) == given


def test_a_token_takes_two_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 1000)
    given = np.random.default_rng(0).integers(0, 49_152, (2000, 215)).tolist()
    column(tmp_path, given.__getitem__, 2000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 2 * 128 + 2000 * (215 + 1) * 2  # headers of 128


@pytest.mark.parametrize("whole", [False, True])
def test_groups_are_views(tmp_path: Path, whole: bool) -> None:
    asked, answers = [[1, 2, 3], [4], [5, 6]], [[7, 9], [8, 8, 9], [9]]
    which = np.array([[1, -1], [0, 2], [2, -1]], dtype=np.int32)
    expected = [
        PromptGroup([1, 2, 3], ([8, 8, 9],)), PromptGroup([4], ([7, 9], [9])), PromptGroup([5, 6], ([9],)),
    ]  # fmt: skip
    if whole:
        expected = [PromptGroup(g.prompt[:1], tuple([*g.prompt[1:], *c] for c in g.completions)) for g in expected]
    kept = column(tmp_path / "asked", asked.__getitem__, 3), column(tmp_path / "answers", answers.__getitem__, 3)
    for given in (Groups(asked, answers, which, whole=whole), Groups(*kept, which, whole=whole)):
        assert list(given) == expected
        assert given[1:] == expected[1:]
        assert [given[row] for row in (2, 0)] == [expected[2], expected[0]]
        assert sizes_of(given).tolist() == [6, 4, 3] == sizes_of(expected).tolist()
