"""Titles as people read them: what scraping and wrong decoding left in them is repaired here."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_SCRAPED_TAIL = '" />'
_FIELD = re.compile(",(?! )")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clean_title(title: str) -> str:
    """Decode HTML entities and fold runs of white space, so that a title is one clean line."""
    return " ".join(html.unescape(title).split())


def clean_genres(genres: Iterable[str]) -> tuple[str, ...]:
    """Genres cleaned as titles are, each once, in their order."""
    return tuple(dict.fromkeys(filter(None, map(clean_title, genres))))


def is_broken(text: str) -> bool:
    """Whether half of a character (a lone surrogate) is in it, which no file can hold."""
    return _SURROGATE.search(text) is not None


def is_junk(title: str) -> bool:
    """Whether this cannot be a title: no letter or digit, half of a character in it, or the start of an HTML tag."""
    if is_broken(title) or title.lstrip().startswith("<"):
        return True
    return not any(character.isalnum() for character in title)


def repair_scraped(title: str) -> str:
    """Turn a scraped attribute list (``Seal,Hits,Warner Bros.,...,Rock & Pop" />``) into ``Seal - Hits``.

    Fields are separated by commas without a space; the first two are the artist and the title.
    """
    if not title.endswith(_SCRAPED_TAIL):
        return title
    return " - ".join(_FIELD.split(title.removesuffix(_SCRAPED_TAIL))[:2])


def repair_encoding(title: str) -> str:
    """Undo UTF-8 bytes read as Latin-1 (``AmÃ©lie`` to ``Amélie``); other titles stay as they are."""
    try:
        return title.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return title


def shorten(title: str, limit: int) -> str:
    """Cut a title at a word so that it has at most ``limit`` characters, the ellipsis included."""
    if len(title) <= limit:
        return title
    head = title[: limit - 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head).rstrip(" ,;:-") + "…"


def distinguish(titles: Sequence[str], details: Sequence[str | None], ids: Sequence[str]) -> list[str]:
    """Make titles unique: those that several items share get their detail, those that still are shared their id."""
    detailed = _suffixed(titles, [f" ({detail})" if detail else "" for detail in details])
    return _suffixed(detailed, [f" [{id_}]" for id_ in ids])


def _suffixed(titles: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    shared = {title for title, items in Counter(titles).items() if items > 1}
    return [title + suffix if title in shared else title for title, suffix in zip(titles, suffixes, strict=True)]
