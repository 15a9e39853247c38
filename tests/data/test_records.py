from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data import Wording
from sprec.data.readers.records import TitleMatcher, read_records, wording_of
from sprec.system.errors import UserError

CHILD = 'A Child Called "It" (Dave Pelzer #1)'
TITLES = ["It", CHILD, 'Yes", "No', "Yes", "Amélie", 'Music from "Purple Rain"', "Q & A"]


def matcher(titles: list[str]) -> tuple[TitleMatcher, Counter[str]]:
    faults: Counter[str] = Counter()
    return TitleMatcher({title: item for item, title in enumerate(titles)}, faults), faults


def test_the_texts_around_the_titles_are_the_wording(rows_file: Callable[..., Path]) -> None:
    rows = read_records(rows_file([(["It", "Yes"], "Amélie")] * 2))
    assert rows[0].pieces == ("It", "Yes")
    assert rows[0].target == "Amélie"
    prefix = "The user has played the following books before: "
    assert wording_of(rows) == Wording("Recommend a book.", prefix, ", please", "books")


@pytest.mark.parametrize(
    ("history", "items"),
    [
        (["It", CHILD, "It"], [0, 1, 0]),
        (['Yes", "No', "Yes", "It"], [2, 3, 0]),
        (["Yes", "Yes", "It"], [3, 3, 0]),
    ],
)
def test_titles_with_quotes_and_separators_are_matched_whole(
    rows_file: Callable[..., Path], history: list[str], items: list[int]
) -> None:
    find, faults = matcher(TITLES)
    assert find.find_all(read_records(rows_file([(history, "It")]))[0].pieces) == (items, [])
    assert not faults


def test_repairs_are_counted_and_the_rest_is_handed_back() -> None:
    find, faults = matcher(TITLES)
    pieces = ["AmÃ©lie", 'Music from "Purple Rain', "Q &amp; A", "Unheard", "It"]
    assert find.find_all(pieces) == ([4, 5, 6, 0], ["Unheard"])
    assert faults == {"double_encoded_titles": 1, "respelled_titles": 2}


words = st.text(alphabet='ab" ,', min_size=1).filter(lambda text: any(c in "ab" for c in text))


@given(st.data())
def test_any_history_of_catalog_titles_with_quotes_inside_is_read_back(data: st.DataObject) -> None:
    """Titles may hold quotes and commas but not the separator, so that there is only one way to read them."""
    titles = data.draw(st.lists(words.filter(_unambiguous), min_size=1, max_size=6, unique=True))
    history = data.draw(st.lists(st.sampled_from(range(len(titles))), min_size=1, max_size=5))
    find, _ = matcher(titles)
    text = '", "'.join(titles[item] for item in history)
    assert find.find_all(text.split('", "')) == (history, [])


def _unambiguous(title: str) -> bool:
    # at the border to its neighbours a title must not form another separator
    return all('", "' not in text for text in (title, title + '", ', ', "' + title, title + '",', ' "' + title))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "x"', r"rows.json:1: not valid JSON \(.*\); is the file complete\?"),
        ('{"a": 1}', "must hold a JSON list of records, found dict"),
        ("[1]", "row 0: a record must be an object, found int"),
        ('[{"instruction": "", "input": "", "output": ""}, {"instruction": "", "input": 5}]', "row 1: 'input' must be"),
        ('[{"instruction": "", "input": ""}]', "row 0: 'output' must be text, found None"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_files_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_records(tmp_path / "rows.json")


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes("[é]".encode("latin-1"))
    with pytest.raises(UserError, match=r"rows.json is not UTF-8 \(byte 1\)"):
        read_records(tmp_path / "rows.json")
