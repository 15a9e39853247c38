"""Titles as people read them: what scraping and wrong decoding left in them is repaired here."""

import html
import re

_SCRAPED_TAIL = '" />'
_FIELD = re.compile(",(?! )")


def clean_title(title: str) -> str:
    """Decode HTML entities and fold runs of white space, so that a title is one clean line."""
    return " ".join(html.unescape(title).split())


def is_junk(title: str) -> bool:
    """Whether this cannot be a title: no letter or digit in it, or the start of an HTML tag."""
    return title.lstrip().startswith("<") or not any(character.isalnum() for character in title)


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
