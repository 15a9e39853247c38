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


@given(st.text())
def test_clean_title_leaves_no_white_space_at_the_ends_or_doubled(title: str) -> None:
    cleaned = clean_title(title)
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned
    assert "\n" not in cleaned


@pytest.mark.parametrize("junk", ["", " ", ", ", "...", '<span class="a-size-medium', " <div>"])
def test_what_cannot_be_a_title_is_junk(junk: str) -> None:
    assert is_junk(junk)


@pytest.mark.parametrize("title", ["1984", "½", "愛", "#1 Hits", "x < y"])
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
