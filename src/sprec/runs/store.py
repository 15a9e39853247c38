"""The run directory: stages that are written whole or not at all, verified before they are trusted, redone when stale.

A stage is written to a temporary sibling, every file is synced, the manifest (sha256 and size of each file, versions,
and the key of everything the stage depends on) comes last, then the folder is renamed. What has no verifying manifest
does not exist. So the same command resumes a run wherever it was stopped.
"""

import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sprec.errors import UserError
from sprec.progress import say

MANIFEST = "MANIFEST.json"
FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder and the key of all that it was made from."""

    folder: Path
    key: str


@dataclass
class Store:
    """The stages of one run, numbered in the order in which they are asked for.

    Attributes:
        root: the run directory.
        shared: a folder of stages that several runs share by key, or None.
        strict: refuse damaged stages instead of redoing them.
    """

    root: Path
    shared: Path | None = None
    strict: bool = False
    _count: int = field(default=0, init=False)

    def stage(self, name: str, depends: Mapping[str, Any], make: Callable[[Path], str]) -> Stage:
        """Return the stage, made now if it is not there, damaged, or made from something else.

        Args:
            name: what the stage does; the folder is ``stages/<nn>-<name>``.
            depends: JSON of all that decides the result: settings, data hash, keys of earlier stages.
            make: fills an empty folder and returns one line of news.

        Raises:
            UserError: the stage is damaged and the store is strict, or the disk is full.
        """
        key = digest({"stage": name, "format": FORMAT, **depends})
        label = f"{self._count:02d}-{name}"
        folder = self.root / "stages" / label
        self._count += 1
        if not self._usable(folder, key) and not self._fetch(folder, key):
            self._make(folder, label, key, make)
            self._share(folder, key)
        return Stage(folder, key)

    def _usable(self, folder: Path, key: str) -> bool:
        if not folder.exists():
            return False
        problem = verify(folder)
        if problem:
            if self.strict:
                raise UserError(f"{problem}; without --strict the stage is made again")
            say(f"! {problem}; making {folder.name} again")
        elif read_manifest(folder)["key"] != key:
            say(f"! {folder.name} was made with other settings or data; making it again")
        else:
            return True
        shutil.rmtree(folder)
        return False

    def _make(self, folder: Path, label: str, key: str, make: Callable[[Path], str]) -> None:
        scratch = folder.with_name(f".{label}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        started = time.monotonic()
        try:
            news = make(scratch)
            seconds = time.monotonic() - started
            seal(scratch, key, {"stage": label, "seconds": round(seconds, 3)})
            scratch.replace(folder)
            _sync(folder.parent)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise UserError(
                f"cannot write {label}: {error.strerror or error}; earlier stages are intact, run the command again"
            ) from error
        say(f"✓ {label:<24} {seconds:7.1f} s  {news}")

    def _fetch(self, folder: Path, key: str) -> bool:
        if self.shared is None or not (self.shared / key).is_dir() or verify(self.shared / key):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        link_tree(self.shared / key, folder)
        say(f"= {folder.name:<24} shared with another run")
        return True

    def _share(self, folder: Path, key: str) -> None:
        if self.shared is not None:
            self.shared.mkdir(parents=True, exist_ok=True)
            link_tree(folder, self.shared / key)

    def prune(self) -> None:
        """Remove stages of an earlier, longer version of this run."""
        for folder in sorted((self.root / "stages").glob("[0-9]*-*")):
            if int(folder.name.split("-", 1)[0]) >= self._count:
                shutil.rmtree(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run; the lock dies with the process that holds it.

        Raises:
            UserError: another process is in this run directory.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"another process is working in {self.root}; wait for it or choose another -o"
                ) from error
            yield


def link_tree(source: Path, target: Path) -> None:
    """Copy a finished folder by hard links (by copying where the file system has none): all of it or nothing."""
    if target.exists():
        return

    def link(one: str, two: str) -> None:
        try:
            os.link(one, two)
        except OSError:
            shutil.copy2(one, two)

    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, scratch, copy_function=link)
    scratch.replace(target)


def digest(content: Mapping[str, Any]) -> str:
    """A short hash of JSON content."""
    return sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


def seal(folder: Path, key: str, about: Mapping[str, Any]) -> None:
    """Sync all files of a folder and write its manifest, last."""
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[str(file.relative_to(folder))] = {"sha256": _hash(file), "bytes": file.stat().st_size}
        _sync(file)
    manifest = {"format": FORMAT, "key": key, **about, "versions": versions(), "files": files}
    write_json(folder / MANIFEST, manifest)
    _sync(folder)


def verify(folder: Path) -> str:
    """What is wrong with a sealed folder, in one line that names the file; empty if nothing is."""
    try:
        manifest = read_manifest(folder)
        entries = manifest["files"].items()
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{folder / MANIFEST} is missing or damaged"
    for name, expected in entries:
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != expected["bytes"] or _hash(file) != expected["sha256"]:
            return f"{file} is damaged or was edited"
    return ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
    return manifest


def write_json(file: Path, content: Any) -> None:
    """Write JSON: all of it or nothing."""
    scratch = file.with_name(f".{file.name}.tmp")
    scratch.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    _sync(scratch)
    scratch.replace(file)


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    packages = ("sprec", "torch", "transformers", "tokenizers", "peft", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        content = sha256()
        while chunk := handle.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
