import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("sprec", deadline=None)  # a busy machine must not fail a test
settings.load_profile("sprec")

Rows = Sequence[tuple[Sequence[str], str]]


def records(rows: Rows) -> list[dict[str, str]]:
    return [
        {
            "instruction": "Recommend a book.",
            "input": "The user has played the following books before: "
            + ", ".join(f'"{title}"' for title in history)
            + ", please",
            "output": f'"{target}"\n',
        }
        for history, target in rows
    ]


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes (history titles, target title) rows as a file of SPRec records."""

    def write(rows: Rows, name: str = "rows.json") -> Path:
        dump(tmp_path / name, records(rows))
        return tmp_path / name

    return write


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small official layout: the records of each split and, if given, the catalog."""

    def write(catalog: dict[str, list[str]] | None = None, genres: Sequence[str] = (), **splits: Rows) -> Path:
        source = tmp_path / "source"
        (source / "data" / "Books").mkdir(parents=True)
        for name, rows in splits.items():
            dump(source / "data" / "Books" / f"{name}.json", records(rows))
        if catalog is not None:
            facts = source / "eval" / "Books"
            facts.mkdir(parents=True)
            dump(facts / "id2name.json", {str(10 + i): title for i, title in enumerate(catalog)})
            dump(facts / "name2genre.json", catalog)
            if genres:
                dump(facts / "genre_dict.json", dict.fromkeys(genres, 0))
        return source

    return write


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
