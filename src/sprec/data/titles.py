"""Cleaning titles: repair what scraping and wrong decoding left in them."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from sprec.system.errors import printable

_SCRAPED_TAIL = '" />'
_FIELD = re.compile(",(?! )")
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
# from scraped pages of shops: var aPageStart = ..., function () { ..., .a-row { ... }
_SCRIPT = re.compile(
    r"\bvar\s+[\w$]+\s*=|\bfunction\s*\w*\s*\([^)]*\)\s*\{|</?(?:script|style)\b|\bgetTime\(\)"
    r"|\b(?:document|window)\.\w+[.(=]|^\s*[.#@][\w-]+[^{}]*\{[^}]*:",
    re.IGNORECASE,
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clean_title(title: str) -> str:
    """A ``title`` as one clean line.

    HTML entities are decoded (also doubly encoded ones), characters composed (NFC), white space folded; control
    characters, terminal sequences and direction overrides are removed.
    """
    seen = None
    while title != seen:  # ends: each round removes characters, or changes none
        seen = title
        title = printable(_ENTITY.sub(lambda found: html.unescape(found[0]), title))
    return unicodedata.normalize("NFC", " ".join(title.split()))


def same_title(title: str) -> str:
    """A form that all spellings of a ``title`` share: cleaned, without case and invisible marks."""
    folded = unicodedata.normalize("NFC", clean_title(title).casefold())
    return "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")


def clean_genres(genres: Iterable[str]) -> tuple[str, ...]:
    """The ``genres``, cleaned like titles, each once, in their order."""
    return tuple(dict.fromkeys(filter(None, map(clean_title, genres))))


def is_broken(text: str) -> bool:
    """Whether ``text`` contains a lone surrogate (half of a character), which cannot be encoded."""
    return _SURROGATE.search(text) is not None


def is_junk(title: str) -> bool:
    """Whether ``title`` is none: no letter or digit, a lone surrogate, the start of a tag, a script, a style."""
    if is_broken(title) or title.lstrip().startswith("<") or _SCRIPT.search(title):
        return True
    return not any(character.isalnum() for character in title)


def repair_scraped(title: str) -> str:
    """Turn a ``title`` that is a scraped attribute list (``Seal,Hits,Warner Bros.,...,Pop" />``) into ``Seal - Hits``.

    Fields are separated by commas without a space; the first two are the artist and the title.
    """
    if not title.endswith(_SCRAPED_TAIL):
        return title
    return " - ".join(_FIELD.split(title.removesuffix(_SCRAPED_TAIL))[:2])


def repair_encoding(title: str) -> str:
    """Undo UTF-8 bytes read as Latin-1 in a ``title`` (``AmÃ©lie`` to ``Amélie``); others are unchanged."""
    try:
        return title.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return title


def shorten(title: str, limit: int) -> str:
    """Cut a ``title`` at a word so that it has at most ``limit`` characters, including the ellipsis."""
    if len(title) <= limit:
        return title
    head = title[: limit - 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head).rstrip(" ,;:-") + "…"


def distinguish(titles: Sequence[str], details: Sequence[str | None], ids: Sequence[str]) -> list[str]:
    """Make ``titles`` unique: shared ones get the item's entry in ``details``, those still shared that in ``ids``."""
    detailed = _suffixed(titles, [f" ({detail})" if detail else "" for detail in details])
    return _suffixed(detailed, [f" [{id_}]" for id_ in ids])


def _suffixed(titles: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    shared = {title for title, items in Counter(titles).items() if items > 1}
    return [title + suffix if title in shared else title for title, suffix in zip(titles, suffixes, strict=True)]
