"""Data are on the disk before they are renamed, and the new name after: only a power cut would show if not."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sprec.data import Dataset
from sprec.runs.pipeline import run
from sprec.runs.recipes import resolve
from sprec.system import storage

Content = bytes | list[str]


def content_of(path: Path) -> Content:
    """The bytes of a file, or the names in a folder."""
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else path.read_bytes()


@dataclass
class Disk:
    """What a power cut would leave: the synced content. Files are identified by inodes, which renaming keeps.

    Attributes:
        placed: how often something got its final name (one that is not hidden).
        early: what got its final name before it was synced.
        unnamed: folders that were not synced after something in them got its final name.
    """

    placed: int = 0
    early: list[Path] = field(default_factory=list)
    unnamed: set[Path] = field(default_factory=set)
    _synced: dict[int, Content] = field(default_factory=dict)

    def sync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        self._synced[path.stat().st_ino] = content_of(path)
        self.unnamed.discard(path)

    def rename(self, source: Path, target: Path) -> None:
        if not target.name.startswith("."):
            self.placed += 1
            parts = [source, *source.rglob("*")]
            self.early += [part for part in parts if self._synced.get(part.stat().st_ino) != content_of(part)]
            self.unnamed.add(target.parent)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Sees what goes through ``os.fsync``, ``os.rename`` and ``os.replace``."""
    made, fsync = Disk(), os.fsync

    def sync(handle: int) -> None:
        fsync(handle)
        made.sync(handle)

    def seen(rename: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any, **options: Any) -> None:
            made.rename(Path(source), Path(target))
            rename(source, target, **options)

        return call

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", seen(os.rename))
    monkeypatch.setattr(os, "replace", seen(os.replace))
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path.resolve()  # as the system names it


def fill(target: Path, text: str) -> None:
    with storage.replacing(target) as scratch:
        (scratch / "model").mkdir()
        (scratch / "model" / "weights").write_text(text)
        (scratch / "log").write_text(text)
        storage.seal(scratch, {})


def test_a_sealed_folder_is_synced_before_it_is_put_in_place_and_its_name_after(place: Path, disk: Disk) -> None:
    fill(place / "one" / "stage", "first")  # each in its own place: the next one would sync it, too
    fill(place / "two" / "stage", "first")
    fill(place / "two" / "stage", "second")
    storage.link_tree(place / "one" / "stage", place / "three" / "stage")
    storage.write_json(place / "about.json", {})
    assert disk.placed == 4 + 3 + 1, "folders, manifests, a file"
    assert disk.early == []
    assert disk.unnamed == set()


def test_a_whole_run_puts_nothing_in_place_that_is_not_synced(toy_files: Path, place: Path, disk: Disk) -> None:
    run(resolve(str(toy_files / "recipe.yaml")), Dataset.load(toy_files / "data"), place / "run")
    assert disk.placed > 50, "stages, checkpoints, their manifests"
    assert disk.early == []
    assert disk.unnamed <= {place / "run" / "cache"}, "what is in there can be lost"


def test_a_missing_sync_would_be_seen(place: Path, disk: Disk) -> None:
    (place / "file").write_text("half")
    storage.sync(place / "file")
    (place / "file").write_text("whole")
    (place / "file").rename(place / "named")
    assert disk.early == [place / "file"]
    assert disk.unnamed == {place}
