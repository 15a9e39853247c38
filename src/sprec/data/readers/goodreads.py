"""Goodreads as UCSD publishes it: ``goodreads_interactions*.json.gz``, ``goodreads_books*.json.gz`` and
``goodreads_book_genres_initial.json.gz`` in one folder, each one JSON object a line.
"""

from collections.abc import Iterator
from pathlib import Path

from sprec.data.readers.lines import read_objects
from sprec.data.readers.log import Faults, Log
from sprec.data.readers.objects import Item, Row, as_text, event_batches, find_file, item_table
from sprec.system.errors import UserError


def read(source: Path, faults: Faults) -> Log:
    """Open the folder ``source`` of UCSD Goodreads files; dropped rows count in ``faults``.

    The time of an interaction is when the book was shelved (``date_added``).

    Raises:
        UserError: interactions or books are missing.
    """
    patterns = ["goodreads_interactions*.json.gz", "goodreads_interactions*.json", "goodreads_reviews*.json.gz"]
    interactions = find_file(source, patterns, "Goodreads interactions")
    books = find_file(source, ["goodreads_books*.json.gz", "goodreads_books*.json"], "Goodreads books")
    genres = _genres(source, faults)
    items = item_table(_books(books, genres, faults), faults)
    return Log(event_batches(_rows(interactions, faults), interactions, faults), items, noun="books", verb="read")


def _rows(path: Path, faults: Faults) -> Iterator[Row]:
    for line, record in read_objects(path, faults):
        rating = record.get("rating") or None  # 0 means not rated
        yield line, as_text(record.get("user_id")), as_text(record.get("book_id")), record.get("date_added"), rating


def _books(path: Path, genres: dict[str, list[str]], faults: Faults) -> Iterator[Item]:
    for _, record in read_objects(path, faults):
        book = as_text(record.get("book_id"))
        title = as_text(record.get("title")) or ""
        yield book, title, genres.get(book or "", []), as_text(record.get("publication_year"))


def _genres(source: Path, faults: Faults) -> dict[str, list[str]]:
    """Genres by book, those with most votes first; none if the file is missing."""
    try:
        path = find_file(source, ["goodreads_book_genres*.json.gz", "goodreads_book_genres*.json"], "genres")
    except UserError:
        faults.add("no_genre_file", str(source))
        return {}
    genres = {}
    for _, record in read_objects(path, faults):
        votes = record.get("genres")
        book = as_text(record.get("book_id"))
        if book and isinstance(votes, dict):
            genres[book] = list(votes)
    return genres
