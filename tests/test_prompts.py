"""Prompts are what the styles promise, and generated text is read back as specified."""

import json
from pathlib import Path

import pytest

from sprec.data import Catalog, Wording
from sprec.data.readers.records import Record, wording_of
from sprec.prompts import PromptBuilder, parse_negative, parse_title

CATALOG = Catalog.of(["Dune", "Red Rising", 'The "Quoted" One'])
WORDING = Wording("Recommend a new book.", "The user has read: ", ", what next?")

HEADER = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
BODY = (
    "### Instruction:\nRecommend a new book.\n\n"
    '### Input:\nThe user has read: "Dune", "Red Rising", what next?\n\n### Response:\n'
)


def builder(style: str, history: int = 10) -> PromptBuilder:
    return PromptBuilder(CATALOG, WORDING, style, history)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["sft", "prefer", "generate"])
def test_unified_uses_one_template_for_all_stages(stage: str) -> None:
    unified = builder("unified")
    assert unified.prompt([0, 1], stage) == f"{HEADER} \n\n{BODY}"  # type: ignore[arg-type]
    assert unified.response(0, stage) == '"Dune"\n'  # type: ignore[arg-type]
    assert unified.ends_with_eos(stage)  # type: ignore[arg-type]
    assert not unified.trains_prompt


def test_official_differs_per_stage_as_the_research_code_does() -> None:
    official = builder("official")
    indent = " " * 16
    indented = "\n".join(indent + line for line in ("\n" + BODY).split("\n"))
    assert official.prompt([0, 1], "sft") == f"{HEADER}\n{indented}"
    assert official.response(0, "sft") == '"Dune"\n\n' + indent
    assert official.prompt([0, 1], "generate") == f"{HEADER}  \n\n{BODY}"
    assert (
        official.prompt([0, 1], "prefer") == 'Recommend a new book.The user has read: "Dune", "Red Rising", what next?'
    )
    assert official.response(0, "prefer") == '"Dune"\n'
    assert official.trains_prompt
    assert not official.ends_with_eos("sft")
    assert official.ends_with_eos("prefer")


def test_compact_shows_titles_only() -> None:
    assert builder("compact").prompt([0, 1]) == '"Dune"\n"Red Rising"\n>'
    assert builder("compact").response(2) == '"The "Quoted" One"\n'


def test_the_most_recent_items_are_shown() -> None:
    assert builder("compact", history=1).prompt([0, 1]) == '"Red Rising"\n>'


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('"Dune"\n', "Dune"),
        ('  "Dune"  ', "Dune"),
        ('"Dune", "Red Rising"\n', "Dune"),
        ('I say "Dune" to you', "Dune"),
        ('"The "Quoted" One"\n', 'The "Quoted" One'),
        ('""Great Performances" Cats (1998)"\n', '"Great Performances" Cats (1998)'),  # quotes of the title stay
        ('Sure!\n"Dune"\n', "Dune"),
        ('"Dune', "Dune"),
        ('"Dune\n"Emma"', "Dune"),
        ("Dune\nRed Rising", "Dune"),
        ("", "NAN"),
        ('""', "NAN"),
        ("\n\n", "NAN"),
    ],
)
def test_titles_are_read_from_generated_text(text: str, title: str) -> None:
    assert parse_title(text) == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('"Dune"\n', "Dune"),
        ('Sure!\n"Dune"', "Dune"),
        ('"Dune\n"Emma"', None),
        ('"The "Quoted" One"\n', 'The "Quoted" One'),
        ('"Dune', None),
        ("Dune", None),
        ('""', None),
    ],
)
def test_negatives_need_a_quoted_title(text: str, title: str | None) -> None:
    assert parse_negative(text) == title


def test_every_title_of_a_catalog_survives_the_round_trip() -> None:
    for style in ("unified", "official", "compact"):
        for item, title in enumerate(CATALOG.titles):
            assert parse_title(builder(style).response(item)) == title
            assert parse_negative(builder(style).response(item)) == title


SAID = Catalog.of(['Guilty", She Said', "Guilty", 'One, "Two", Three', 'Who "Says"', "Dune"])


@pytest.mark.parametrize("style", ["unified", "official", "compact"])
def test_a_title_with_a_quote_and_a_comma_inside_is_read_whole(style: str) -> None:
    """A right answer that is cut would be the rejected one."""
    told = PromptBuilder(SAID, WORDING, style)  # type: ignore[arg-type]
    for item, title in enumerate(SAID.titles):
        assert parse_title(told.response(item), SAID.by_title) == title
        assert parse_negative(told.response(item), SAID.by_title) == title


def test_what_is_no_title_of_the_catalog_is_cut_as_before() -> None:
    assert parse_title('"Dune", "Guilty"\n', SAID.by_title) == "Dune"
    assert parse_negative('"Dune", "Emma"\n', SAID.by_title) == "Dune"
    assert parse_title('"Guilty", She Said', SAID.by_title) == "Guilty", "the answer has not ended"


def test_official_answers_end_as_those_of_the_authors_files() -> None:
    """The input of MovieLens ends with a newline, and its output does not; what is rejected does (data_generate.py)."""
    movies = PromptBuilder(CATALOG, Wording("i", "Watched:", "\n "), "official")
    assert movies.response(0, "prefer") == '"Dune"'
    assert movies.response(0, "sft") == '"Dune"\n' + " " * 16
    assert movies.reject("Dune") == '"Dune"\n'
    assert builder("official").reject("Dune") == '"Dune"\n'
    unified = PromptBuilder(CATALOG, Wording("i", "Watched:", "\n "), "unified")
    assert unified.response(0) == unified.reject("Dune") == '"Dune"\n'


@pytest.mark.parametrize("name", ["CDs_and_Vinyl", "Goodreads", "MovieLens", "Steam"])
def test_official_answers_are_those_of_the_authors(name: str, shared_data: Path) -> None:
    rows = json.loads((shared_data / "sprec" / "data" / name / "train.json").read_text("utf-8"))
    outputs = [row["output"] for row in rows]
    titles = [output.strip().removeprefix('"').removesuffix('"') for output in outputs]
    told = PromptBuilder(Catalog.of(titles), wording_of(map(_record, rows)), "official")
    written = [told.response(item, "prefer") for item in range(len(titles))]
    # a few outputs have blanks around the title, which are not kept
    assert sum(one == other for one, other in zip(written, outputs, strict=True)) > 0.99 * len(outputs)


def _record(row: dict[str, str]) -> Record:
    before, _, rest = row["input"].partition('"')
    return Record(row["instruction"], before, (), rest.rpartition('"')[2], "")
