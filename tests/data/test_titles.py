import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprec.data.titles import clean_title, distinguish, is_junk, repair_encoding, repair_scraped, shorten


@pytest.mark.parametrize(
    ("scraped", "title"),
    [
        ('Seal,Hits,Warner Bros.,6839909,Pop,Rock & Pop - General" />', "Seal - Hits"),
        (
            'Pat Metheny, Anna Maria Jopek,Upojenie (Re-Issue),Nonesuch,Jazz" />',
            "Pat Metheny, Anna Maria Jopek - Upojenie (Re-Issue)",
        ),
        ('Jimi Hendrix,Axis: Bold As Love Mini Lp Cd" />', "Jimi Hendrix - Axis: Bold As Love Mini Lp Cd"),
        ("Emerson, Lake & Palmer", "Emerson, Lake & Palmer"),
        ("Eels,Beautiful Freak", "Eels,Beautiful Freak"),
    ],
)
def test_a_scraped_attribute_list_becomes_artist_and_title(scraped: str, title: str) -> None:
    assert repair_scraped(scraped) == title


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("AmÃ©lie (2001)", "Amélie (2001)"),
        ("Amélie (2001)", "Amélie (2001)"),
        ("千と千尋の神隠し", "千と千尋の神隠し"),
        ("plain", "plain"),
    ],
)
def test_double_encoding_is_undone_and_nothing_else_is_touched(wrong: str, right: str) -> None:
    assert repair_encoding(wrong) == right


@given(st.text())
def test_every_text_survives_double_encoding(title: str) -> None:
    if repair_encoding(title) == title:  # a text that looks double-encoded itself cannot be told from one that is
        assert repair_encoding(title.encode().decode("latin-1")) == title


def test_clean_title_is_one_line_without_entities() -> None:
    assert clean_title(" Folie &agrave;  Deux\n(Live)\t") == "Folie à Deux (Live)"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp;amp; Sons", "Tom & Sons"),
        ("Tom &amp;amp;amp; Sons", "Tom & Sons"),
        ("Love&notes", "Love&notes"),  # not Love\u00ac\u200bes: an entity ends in a semicolon
        ("Love&amp;notes", "Love&notes"),
        ("Cafe\u0301", "Café"),
        ("Red \x1b[31mAlert\x1b[0m", "Red Alert"),
        ("\x1b]0;owned\x07Mug", "Mug"),
        ("\x1b]8;;http://x\x1b\\Link\x1b]8;;\x1b\\", "Link"),
        ("\x9b2JTea\x1bc", "Tea"),
        ("abc\u202egpj.exe", "abc gpj.exe"),
        ("\u2066x\u2069 \ufeffy", "x y"),
        ("\u200eElton – John", "\u200eElton – John"),
        ("न्‍य", "न्‍य"),  # a joiner that the script needs
        ("Mug </s> one", "Mug </s> one"),
        ("a\0b\x7fc", "a b c"),
    ],
)
def test_titles_are_one_clean_line(raw: str, clean: str) -> None:
    assert clean_title(raw) == clean


@given(st.text(alphabet="a&;#x12 mp\x1b[]m0\x07\u202e\u0301e"))
def test_clean_titles_are_printable_and_stay_as_they_are(text: str) -> None:
    clean = clean_title(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") or letter == "\u202e" for letter in clean)
    assert unicodedata.is_normalized("NFC", clean)
    assert clean_title(clean) == clean


@given(st.text())
def test_clean_title_leaves_no_white_space_at_the_ends_or_doubled(title: str) -> None:
    cleaned = clean_title(title)
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned
    assert "\n" not in cleaned


@pytest.mark.parametrize(
    "junk",
    [
        "",
        " ",
        ", ",
        "...",
        '<span class="a-size-medium',
        " <div>",
        "var aPageStart = (new Date()).getTime();",
        "\n  var ue_t0=ue_t0||+new Date();",
        "(function(e){var d=e;})(window)",
        "function f() { return 1 }",
        ".a-box-inner { background-color: #fff }",
        "Tea </script> x",
        "document.write('x')",
    ],
)
def test_what_cannot_be_a_title_is_junk(junk: str) -> None:
    assert is_junk(junk)


@pytest.mark.parametrize(
    "title",
    [
        "1984",
        "½",
        "愛",
        "#1 Hits",
        "x < y",
        "I <3 Dance",
        "Mug </s> one",
        "The Zeta Function (Dover Books)",
        "Let X = 5",
        "var. edulis",
        "Rear Window",
        "The Document",
        ".hack//SIGN",
        "{ } by Someone",
    ],
)
def test_odd_titles_are_not_junk(title: str) -> None:
    assert not is_junk(title)


def test_long_titles_are_cut_at_a_word() -> None:
    assert shorten("The Lord of the Rings: The Return", 24) == "The Lord of the Rings…"
    assert shorten("Supercalifragilistic", 6) == "Super…"
    assert shorten("Short", 5) == "Short"


@given(st.text(), st.integers(1, 30))
def test_a_cut_title_fits(title: str, limit: int) -> None:
    assert len(shorten(title, limit)) <= limit
    assert (shorten(title, limit) == title) == (len(title) <= limit)


def test_shared_titles_get_their_detail_and_then_their_id() -> None:
    titles = ["Emma", "Emma", "Emma", "Dune", "Emma"]
    details = ["1996", "2009", "2009", "1984", None]
    expected = ["Emma (1996)", "Emma (2009) [b]", "Emma (2009) [c]", "Dune", "Emma"]
    assert distinguish(titles, details, list("abcde")) == expected


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from([None, "1"])), max_size=6))
def test_titles_told_apart_by_id_are_unique(items: list[tuple[str, str | None]]) -> None:
    titles, details = [title for title, _ in items], [detail for _, detail in items]
    made = distinguish(titles, details, [str(i) for i in range(len(items))])
    assert len(set(made)) == len(made)
    assert all(new.startswith(old) for new, old in zip(made, titles, strict=True))
