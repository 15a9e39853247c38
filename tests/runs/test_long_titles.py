"""Titles that need more tokens than answers have: counted before anything is trained, and room for them by default."""

from pathlib import Path

import numpy as np
import pytest

from sprec.data import Catalog, Dataset, Split, Wording
from sprec.runs import run
from sprec.runs.recipes import resolve
from sprec.runs.recommender import Recommender

SHORT = ["Dune", "Emma", "Ulysses", "Dracula"]
LONG = [
    "The Life and Strange Surprizing Adventures of Robinson Crusoe, of York, Mariner",
    "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb",
    "Everything You Always Wanted to Know About Sex * But Were Afraid to Ask",
]
SETTINGS = ["precision=fp32", "device=cpu", "method=bigrec", "backbone.hidden=64", "backbone.layers=1",
            "backbone.heads=2", "backbone.vocabulary=300", "backbone.epochs=60", "backbone.lr=0.01", "sft.epochs=0",
            "prompt.style=compact", "recommend.encoder=tfidf", "recommend.top_k=1", "loop.iterations=0"]  # fmt: skip


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Every reader of a book reads the next one in the list, which is easy to memorise."""
    catalog, count = Catalog.of([*SHORT, *LONG]), len(SHORT) + len(LONG)
    rows = Split.of(([item], (item + 1) % count) for item in range(count))
    splits = {"train": rows + rows, "valid": rows, "test": rows, "extra": rows}
    data = Dataset("Books", catalog, splits, (), Wording("Recommend a book.", "Read: ", "\n", "books"))
    return data.save(tmp_path_factory.mktemp("books") / "data")


def test_a_model_that_knows_long_titles_can_say_them(
    books: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(resolve("demo", SETTINGS), books, tmp_path / "whole")[-1].metrics
    assert whole["HR@1"] == whole["ExactTitles"] == 1.0
    assert "cannot be answered" not in capsys.readouterr().err
    cut = run(resolve("demo", [*SETTINGS, "recommend.max_new_tokens=32"]), books, tmp_path / "cut")[-1].metrics
    assert cut["ExactTitles"] == pytest.approx(len(SHORT) / (len(SHORT) + len(LONG)))
    told = capsys.readouterr().err
    assert "! 3 of 7 titles have more than recommend.max_new_tokens=32 tokens (the longest" in told
    assert "set recommend.max_new_tokens=null" in told


def test_the_default_is_what_the_longest_title_needs(books: Dataset, tmp_path: Path) -> None:
    run(resolve("demo", [*SETTINGS, "backbone.epochs=1"]), books, tmp_path / "run")
    session = Recommender.load(tmp_path / "run").session
    policy = session.policy(Recommender.load(tmp_path / "run").final)
    lengths = np.array([len(policy.encode_completions([f'"{title}"\n'])[0]) for title in books.catalog.titles])
    assert session.answer_limit(policy, None, "x") == lengths.max() > 32
    assert session.answer_limit(policy, 40, "x") == 40


def test_short_titles_keep_the_limit_of_the_research_code(tmp_path: Path, books: Dataset) -> None:
    short = Dataset("Short", Catalog.of(SHORT), {"train": Split.of([([0], 1)]), "test": Split.of([([0], 1)])}, (),
                    books.wording).save(tmp_path / "data")  # fmt: skip
    run(resolve("demo", [*SETTINGS, "backbone.epochs=1"]), short, tmp_path / "run")
    recommender = Recommender.load(tmp_path / "run")
    policy = recommender.session.policy(recommender.final)
    assert recommender.session.answer_limit(policy, None, "x") == 32
