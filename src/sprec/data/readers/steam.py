"""Steam as UCSD publishes it: ``steam_reviews.json.gz`` (or ``australian_users_items.json.gz``) and
``steam_games.json.gz``, whose lines are Python literals with ``u''`` strings.
"""

from collections.abc import Iterator
from pathlib import Path

from sprec.data.readers.lines import read_objects
from sprec.data.readers.log import Faults, Log
from sprec.data.readers.objects import Item, Row, as_text, event_batches, find_file, item_table


def read(source: Path, faults: Faults) -> Log:
    """Open the folder ``source`` of UCSD Steam files; dropped rows count in ``faults``.

    Reviews have dates (days). The Australian libraries have no times: the order in which a user's games are listed is
    used instead, and cannot be compared between users.

    Raises:
        UserError: there are neither reviews nor libraries, or no games.
    """
    suffixes = (".json.gz", ".json")
    games = find_file(source, [f"*steam_games*{suffix}" for suffix in suffixes], "Steam games")
    patterns = [f"{name}{suffix}" for name in ("steam_reviews*", "*users_items*") for suffix in suffixes]
    log = find_file(source, patterns, "Steam reviews or libraries")
    timed = "users_items" not in log.name
    events = event_batches((_reviews if timed else _libraries)(log, faults), log, faults, timed=timed)
    return Log(events, item_table(_games(games, faults), faults), noun="games", verb="played", timed=timed)


def _reviews(path: Path, faults: Faults) -> Iterator[Row]:
    for line, record in read_objects(path, faults):
        user = as_text(record.get("username") or record.get("user_id"))
        yield line, user, as_text(record.get("product_id")), record.get("date"), None


def _libraries(path: Path, faults: Faults) -> Iterator[Row]:
    for line, record in read_objects(path, faults):
        games = record.get("items")
        if not isinstance(games, list):
            faults.add("malformed_lines", f"{path.name}:{line}: no list of items")
            continue
        user = as_text(record.get("user_id") or record.get("steam_id"))
        for game in games:
            item = as_text(game.get("item_id")) if isinstance(game, dict) else None
            yield line, user, item, None, None


def _games(path: Path, faults: Faults) -> Iterator[Item]:
    for _, record in read_objects(path, faults):
        game = as_text(record.get("id"))
        title = as_text(record.get("app_name") or record.get("title")) or ""
        genres = record.get("genres") or record.get("tags") or []
        kinds = [genre for genre in genres if isinstance(genre, str)] if isinstance(genres, list) else []
        yield game, title, kinds, (as_text(record.get("release_date")) or "")[:4] or None
