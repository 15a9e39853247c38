"""The first of the two doors between items and text: example to prompt, item to response, generated text to title."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

from sprec.data import Catalog, Wording

Style = Literal["unified", "official", "compact"]
Purpose = Literal["sft", "prefer", "generate"]

EMPTY_TITLE = "NAN"
"""The text that stands for an empty answer in grounding (official evaluation code)."""

_ASK = ">"  # without it, the model would have to count titles to know when the answer ends

_HEADER = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class PromptBuilder:
    """Writes the prompts of one domain in one style.

    ``unified`` uses one Alpaca template for SFT, rollout and preference step. ``official`` repeats the research code:
    an indented template with the loss on all tokens and no EOS in the SFT, an unindented one for generation, and bare
    instruction + input for the preference step. ``compact`` shows only titles, one per line. So for some styles texts
    depend on their ``purpose``.

    Attributes:
        catalog: has the titles.
        wording: of the domain.
        style: of the prompts.
        history: number of items that a prompt shows, the most recent ones.
    """

    catalog: Catalog
    wording: Wording
    style: Style = "unified"
    history: int = 10

    def prompt(self, history: Sequence[int], purpose: Purpose = "generate") -> str:
        """The text before the response, for a ``history`` of item ids, oldest first."""
        titles = [f'"{self.catalog.titles[item]}"' for item in history[-self.history :]]
        if self.style == "compact":
            return "".join(f"{title}\n" for title in titles) + _ASK
        text = self.wording.prefix + ", ".join(titles) + self.wording.suffix
        if self.style == "unified":
            return _alpaca(self.wording.instruction, text, indent="", gap=" ")
        if purpose == "prefer":
            return self.wording.instruction + text
        if purpose == "sft":
            return _alpaca(self.wording.instruction, text, indent=" " * 16, gap="")
        return _alpaca(self.wording.instruction, text, indent="", gap="  ")

    def response(self, item: int, purpose: Purpose = "generate") -> str:
        """The text of an answer that names this ``item``."""
        return self.respond(self.catalog.titles[item], purpose)

    def respond(self, title: str, purpose: Purpose = "generate") -> str:
        """The text of an answer that names this ``title``: quoted, then a newline.

        In the authors' files the newline is after the answer or, if the input ends with one (MovieLens), before it; the
        official style does the same.
        """
        official = self.style == "official"
        end = "" if official and "\n" in self.wording.suffix else "\n"
        return f'"{title}"{end}' + ("\n" + " " * 16 if official and purpose == "sft" else "")

    def reject(self, title: str) -> str:
        """The text of a rejected ``title`` in the preference step; the research code always ends it with a newline."""
        return f'"{title}"\n' if self.style == "official" else self.respond(title, "prefer")

    @property
    def trains_prompt(self) -> bool:
        """Whether the SFT loss covers the prompt's tokens, too (official code)."""
        return self.style == "official"

    def ends_with_eos(self, purpose: Purpose) -> bool:
        """Whether EOS follows the response in training (the official SFT never trains it)."""
        return not (self.style == "official" and purpose == "sft")


def _alpaca(instruction: str, text: str, indent: str, gap: str) -> str:
    lines = ["", "### Instruction:", instruction, "", "### Input:", text, "", "### Response:", ""]
    return f"{_HEADER}{gap}\n" + "\n".join(indent + line if line or indent else line for line in lines)


def parse_title(text: str, known: Container[str] = ()) -> str:
    """The title in a generated text, for evaluation: the text between the first double quote and its closing one.

    The closing quote is the last one of the line if that makes a title of the catalog (``Guilty", She Said``), else the
    first one that ends the line or precedes a comma (so that unknown titles with quotes survive), else the next one.
    Without a closing quote the rest of the line counts, without any quote the first line; an empty answer becomes
    ``NAN`` (as in the official evaluation).

    Args:
        text: an answer.
        known: the titles of the catalog.
    """
    after = _after_quote(text)
    if after is None:
        return text.strip().split("\n", 1)[0].strip() or EMPTY_TITLE
    return _quoted(after, known) or after.strip(' "') or EMPTY_TITLE


def parse_negative(text: str, known: Container[str] = ()) -> str | None:
    """The title in the ``text`` of a rollout, by the rules of :func:`parse_title` with the ``known`` titles.

    None if no title is quoted; the pair is then left out.
    """
    return _quoted(_after_quote(text) or "", known) or None


def _after_quote(text: str) -> str | None:
    """The rest of the line after the first double quote of a text; None if there is none."""
    _, quote, after = text.partition('"')
    return after.split("\n", 1)[0] if quote else None


def _quoted(after: str, known: Container[str]) -> str:
    """The text before the closing quote, given the text after an opening one; empty if there is none."""
    whole, last, behind = after.rpartition('"')
    if last and whole in known and not behind.strip():
        return whole
    closing = re.search(r'"(?=\s*(,|$))', after) or re.search('"', after)
    return after[: closing.start()].strip() if closing else ""
