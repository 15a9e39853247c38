"""The run directory: stages are written completely or not at all, verified before they are trusted, remade when stale.

A stage is a sealed folder (:mod:`sprec.system.storage`) whose manifest names everything that the stage depends on.
A folder without a valid manifest does not count. So the same command resumes a run wherever it was stopped, and a
changed recipe makes anew what depends on the change.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sprec.config import SCHEMA
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.paths import require_path
from sprec.system.progress import say

RECIPE = "recipe.json"
EVALUATIONS = "evaluations"
KEPT = ("model", "backbone", "sasrec", "weights", "tilt")
"""What a finished run keeps besides its stages, so that it can be used until its successor is complete: the last model,
the backbone that encodes titles, SASRec, the weights of experts and the tilt of the last model."""
_PLACES = (".lock", "stages", "unfinished", "logs", "cache", "tokens", "dataset", *KEPT, EVALUATIONS)
"""The folders of a run."""
_PAUSE = 0.5
"""Seconds between two looks at what another process is making."""
_INTACT = "earlier stages are intact, the same command resumes"


class BusyError(UserError):
    """Another process is working on the stage or run."""


@dataclass(frozen=True)
class Stage:
    """A finished stage: its ``folder``, and the ``key`` of everything that it was made from."""

    folder: Path
    key: str


@dataclass
class Store:
    """The stages of one run, numbered in the order of their requests.

    Attributes:
        root: the run directory.
        shared: a folder of stages that several runs share by key, or None.
        strict: refuse damaged stages, also shared ones, instead of making them again.
        patient: wait for a shared stage that another run is making.
        dry: only record the stages and their keys (:attr:`keys`).
    """

    root: Path
    shared: Path | None = None
    strict: bool = False
    patient: bool = True
    dry: bool = False
    keys: dict[str, str] = field(default_factory=dict, init=False)
    """The requested stages: folder name to key."""
    _making: Stage = field(default=Stage(Path(), ""), init=False)

    @property
    def stages(self) -> Path:
        """The folder of the stages."""
        return self.root / "stages"

    @property
    def unfinished(self) -> Path:
        """The folder with which the current stage can resume; it is removed when the stage is finished."""
        return self.root / "unfinished" / self._making.key

    @property
    def logs(self) -> Path:
        """The logs of the current stage; they stay."""
        return self.root / "logs" / self._making.folder.name

    @property
    def tokens(self) -> Path:
        """Token ids of texts that several stages read; they are gone when the run is complete."""
        return self.root / "tokens"

    def stage(self, name: str, depends: Mapping[str, Any], make: Callable[[Path], str]) -> Stage:
        """Return the stage; it is made if it is missing, damaged, or made from something else.

        Args:
            name: of the stage; the folder is ``stages/<nn>-<name>``.
            depends: JSON of everything that the result depends on: settings, data hash, keys of earlier stages.
            make: fills an empty folder and returns a one-line summary; with several processes all of them call it, and
                the first one writes.

        Raises:
            UserError: the stage is damaged and the store is strict, or the disk is full.
            BusyError: another run is making the same stage, and the store is not patient.
        """
        depends = json.loads(json.dumps(depends))
        key = self.key_of(name, depends)
        folder = self.stages / f"{len(self.keys):02d}-{name}"
        self.keys[folder.name] = key
        if self.dry:
            return Stage(folder, key)
        with ExitStack() as held:
            if not processes.by_first(
                lambda: self._found(folder, name, key, depends) or self._awaited(folder, key, held)
            ):
                self._make(folder, key, depends, make)
            processes.by_first(lambda: self._share(folder, key))  # also if a run was killed before it shared it
        return Stage(folder, key)

    @staticmethod
    def key_of(name: str, depends: Mapping[str, Any]) -> str:
        """The key of a stage.

        Args:
            name: of the stage.
            depends: as in :meth:`stage`.
        """
        return storage.digest({"stage": name, "schema": SCHEMA, **depends})[:24]

    def _found(self, folder: Path, name: str, key: str, depends: Mapping[str, Any]) -> bool:
        self._renumber(folder, name, key)
        return self._usable(folder, key, depends) or self._fetch(folder, key)

    def _renumber(self, folder: Path, name: str, key: str) -> None:
        """Rename a stage that has another number because settings have added or removed earlier stages."""
        for other in self.stages.glob(f"[0-9]*-{name}"):
            if other != folder and _key_of(other) == key and _key_of(folder) != key:
                with storage.writing(folder, _INTACT):
                    storage.discard(folder)
                    other.rename(folder)
                    storage.sync(self.stages)

    def _usable(self, folder: Path, key: str, depends: Mapping[str, Any]) -> bool:
        if not folder.exists():
            return False
        problem = storage.verify(folder)
        if problem:
            self._refuse_if_strict(problem)
            say(f"! {problem}; making {folder.name} again")
            return False
        manifest = storage.read_manifest(folder)
        if manifest.get("key") != key:
            why = _difference(manifest.get("depends", {}), depends)
            say(f"! {folder.name} was made with other settings or data ({why}); making it again")
            return False
        return True

    def _refuse_if_strict(self, problem: str) -> None:
        if self.strict:
            raise UserError(f"{problem}; without --strict the stage is made again")

    def _make(self, folder: Path, key: str, depends: Mapping[str, Any], make: Callable[[Path], str]) -> None:
        self._making = Stage(folder, key)
        started = time.monotonic()
        if not processes.first():
            with storage.writing(folder, _INTACT):  # in all processes, as each has its own journals
                make(Path(processes.agree("")))
            return
        with storage.writing(folder, _INTACT), storage.replacing(folder) as scratch:
            news = make(Path(processes.agree(str(scratch))))
            seconds = round(time.monotonic() - started, 3)
            about = {"stage": folder.name, "key": key, "depends": depends, "seconds": seconds}
            storage.seal(scratch, about)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        say(f"✓ {folder.name:<24} {seconds:7.1f} s  {news}")

    def _fetch(self, folder: Path, key: str) -> bool:
        if self.shared is None or not (self.shared / key).exists():
            return False
        problem = storage.verify(self.shared / key)
        if problem:
            self._refuse_if_strict(problem)
            say(f"! {problem}; not used")
            with suppress(OSError):  # a read-only folder: it stays there, unused
                storage.discard(self.shared / key)
            return False
        with storage.writing(folder, _INTACT):
            storage.link_tree(self.shared / key, folder)
        say(f"= {folder.name:<24} shared with another run")
        return True

    def _awaited(self, folder: Path, key: str, held: ExitStack) -> bool:
        """Whether another run has just made this stage; if not, other runs wait until this one has made it.

        Raises:
            BusyError: another run is making it, and the store is not patient.
        """
        if self.shared is None:
            return False
        file, told = self._lock_of(key), False
        with suppress(OSError):  # a read-only folder: stages may be made twice
            self.shared.mkdir(parents=True, exist_ok=True)
            while owner := storage.lock(file, held):
                if not self.patient:
                    raise BusyError(f"another process ({owner}) is making {folder.name}")
                if not told:
                    say(f"  {folder.name:<24} is being made by another process ({owner}), waiting")
                told = True
                time.sleep(_PAUSE)
            held.callback(file.unlink, missing_ok=True)
        return self._fetch(folder, key)

    def _share(self, folder: Path, key: str) -> None:
        """Share the stage with other runs, and remove the lock of a run that was killed while making it."""
        if self.shared is None:
            return
        try:
            if not (self.shared / key).exists():
                storage.link_tree(folder, self.shared / key)
            with ExitStack() as free:
                if self._lock_of(key).exists() and not storage.lock(self._lock_of(key), free):
                    self._lock_of(key).unlink(missing_ok=True)
        except OSError as error:
            say(f"! {folder.name} could not be shared with other runs: {error}")

    def _lock_of(self, key: str) -> Path:
        assert self.shared is not None
        return self.shared / f".{key}.lock"

    def prune(self) -> None:
        """Remove stages and unfinished work of other settings, with a message; call it when the run is complete.

        Raises:
            UserError: a stage cannot be removed.
        """
        for folder in sorted(self.stages.glob("[0-9]*-*")):
            if folder.name not in self.keys:
                say(f"- {folder.name:<24} removed: the recipe has no such stage any more")
                with storage.writing(folder, _INTACT):
                    storage.discard(folder)
        for rest in (self.root / "unfinished", self.tokens):
            shutil.rmtree(rest, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run; the lock dies with the process that holds it.

        The leftovers of a killed process are removed.

        Raises:
            BusyError: another process is in this run directory.
            UserError: it cannot be written.
        """
        with ExitStack() as held:
            processes.by_first(lambda: self._take(held))
            yield

    def _take(self, held: ExitStack) -> None:
        for place in (self.root, self.shared):
            require_path(place or "")
        _require_own(self.root)
        with storage.writing(self.root, "choose another -o"):
            self.root.mkdir(parents=True, exist_ok=True)
            storage.sync(self.root.parent)
            owner = storage.lock(self.root / ".lock", held)
            if owner:
                raise BusyError(
                    f"another process ({owner}) is working in {self.root}; wait for it or choose another -o"
                )
            for folder in (self.root, self.stages):
                storage.sweep(folder)


def _require_own(root: Path) -> None:
    """Refuse a folder that holds something other than a run, which must not be replaced or removed.

    Raises:
        UserError: it is not empty and not a run, or a part of it is a symbolic link to a place outside the run.
    """
    if not root.is_dir():  # missing, or not a folder, in which case making it fails
        return
    with storage.writing(root, "choose another -o"):
        names = sorted(entry.name for entry in root.iterdir() if not _is_trace(entry))
        links = sorted(path for path in _written(root) if path.is_symlink())
    if links:
        raise UserError(f"{links[0]} is a symbolic link, and a run writes into its own folder only; remove the link")
    if names and not is_run(root):
        raise UserError(
            f"{root} is not empty and not a run ({names[0]} is in it): nothing was touched; choose another -o"
        )


def _is_trace(entry: Path) -> bool:
    """Whether this is a leftover of a run that was killed at its very beginning: a lock or a temporary name."""
    if entry.name != ".lock":
        return storage.is_leftover(entry.name)
    if entry.is_symlink():
        return False
    with suppress(OSError):
        return re.fullmatch(r"(pid \d+ on .*)?\s*", entry.read_text("utf-8", errors="replace")) is not None
    return False


def _written(root: Path) -> Iterator[Path]:
    """The files and folders of a run, with the content of those in which it writes single files.

    Except the links of :mod:`sprec.runs.rollouts`, by which servers find stages.
    """
    yield from (root / name for name in _PLACES)
    for name in ("logs", "unfinished", "cache", "tokens"):
        for folder, below, files in os.walk(root / name):
            yield from (Path(folder, entry) for entry in (*below, *files) if not entry.startswith("model-"))


def is_run(folder: Path) -> bool:
    """Whether a ``folder`` is a run, finished or not, even a damaged one, by its recipe or one of its manifests."""
    try:
        about = storage.read_json(folder / RECIPE)
        if isinstance(about, dict) and {"recipe", "dataset", "versions"} <= about.keys():
            return True
    except (OSError, ValueError):
        pass
    if RECIPE in _manifest(folder).get("files", {}):
        return True
    return any("key" in _manifest(stage) for stage in folder.glob("stages/[0-9]*-*"))


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, empty if it is missing or damaged."""
    try:
        return storage.read_manifest(folder)
    except (OSError, ValueError):
        return {}


def _key_of(folder: Path) -> str:
    return str(_manifest(folder).get("key", ""))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The changes between two sets of settings in words: dotted keys with both values."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in sorted({**old, **new}) if old.get(key) != new.get(key)]
    values = [key for key in keys if not _is_hash(old.get(key)) and not _is_hash(new.get(key))]
    words = [f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}" for key in values]
    words += [f"another {key}" for key in keys if key not in values]
    return "; ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{24,64}", value) is not None


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else text[:37] + "..."
