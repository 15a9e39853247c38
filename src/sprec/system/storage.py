"""Files that are written whole or not at all, and folders that are verified before they are trusted.

A folder is filled as a hidden sibling, every file and directory is synced, a manifest with the sha256 and the size of
each file comes last, then one rename puts it in place. The leftovers of a killed process are recognised by their lock,
which died with it, and removed by the next writer.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from sprec.system.errors import UserError

MANIFEST = "MANIFEST.json"
FORMAT = 1
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder to fill, which replaces ``target`` when the block succeeds and is removed when it fails.

    The old ``target`` stays until its successor is complete and on the disk.

    Raises:
        OSError: nothing can be written here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, target.name)
    scratch, claim = _claimed(target)
    try:
        yield scratch
        sync_tree(scratch)
        _put(scratch, target)
    finally:
        os.close(claim)
        shutil.rmtree(scratch, ignore_errors=True)


def _claimed(target: Path, tries: int = 3) -> tuple[Path, int]:
    """A new folder beside ``target`` and the handle that holds its lock.

    Another process may remove it before it is locked; then the next one is tried. The last one is used without a lock,
    for file systems that have none.
    """
    scratch = _sibling(target, "tmp")
    scratch.mkdir()
    claim = os.open(scratch, os.O_RDONLY)
    if (_lock(claim) and scratch.exists()) or tries == 1:
        return scratch, claim
    os.close(claim)
    shutil.rmtree(scratch, ignore_errors=True)
    return _claimed(target, tries - 1)


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{uuid4().hex[:8]}.{kind}")


def _put(scratch: Path, target: Path) -> None:
    old = scratch.with_suffix(".old")
    if target.exists():
        target.rename(old)
    try:
        scratch.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a ``folder``: renamed first, so that nobody sees half of it, then file by file."""
    if folder.exists():
        gone = _sibling(folder, "tmp")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def is_leftover(name: str) -> bool:
    """Whether files and folders have such a ``name`` until they are complete."""
    return _LEFTOVER.fullmatch(name) is not None


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove from the folder ``parent`` what killed writers of ``name`` (None: of anything) left there.

    A live writer holds the lock of its folder, and :func:`sweep` holds it until the folder is gone. If a writer was
    killed after it had moved the old content away and before the new one was in place, the old content is restored.
    """
    for entry in sorted(parent.iterdir()) if parent.is_dir() else []:
        left = _LEFTOVER.fullmatch(entry.name)
        if left and name in (None, left["name"]):
            with contextlib.suppress(FileNotFoundError), _free(entry) as free:  # not found: another process removed it
                if free:
                    _clear(entry, parent / left["name"], left["kind"])


@contextmanager
def _free(entry: Path) -> Iterator[bool]:
    """Whether nobody writes here; nobody can begin to inside the block."""
    handle = os.open(entry, os.O_RDONLY)
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def _clear(entry: Path, target: Path, kind: str) -> None:
    if kind == "old" and not target.exists():
        entry.rename(target)
    elif entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def lock(file: Path, held: ExitStack) -> str:
    """Take the lock of a file for as long as ``held`` lasts; it dies with the process that holds it.

    On a file system without locks everybody gets it.

    Returns:
        The process and machine that hold the lock, if another one does; else an empty string.

    Raises:
        OSError: the file cannot be written, or is a symbolic link, whose target must not be emptied.
    """
    with ExitStack() as opened:
        own = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        handle = opened.enter_context(os.fdopen(own, "a+"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            return handle.read().strip() or "unknown"
        except OSError:  # no locks here
            pass
        if not _is_at(handle.fileno(), file):  # its last holder removed it before it was locked here
            return lock(file, held)
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        held.push(opened.pop_all())
    return ""


def _is_at(handle: int, file: Path) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a writer, or a file system without locks: then nothing is ever swept
        return False
    return True


def link_tree(source: Path, target: Path) -> None:
    """Put the finished folder ``source`` at ``target``, too, by hard links (by copying where there are none).

    Raises:
        OSError: a file could not be written; then there is no ``target``.
    """
    with replacing(target) as scratch:
        for path in sorted(source.rglob("*")):
            own = scratch / path.relative_to(source)
            if path.is_dir():
                own.mkdir()
            else:
                _link(path, own)


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        shutil.copy2(file, target)


def defined(value: Any) -> Any:
    """A ``value`` (a number, or nested dictionaries of them) with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: defined(own) for key, own in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` to a ``file`` as JSON, completely or not at all."""
    write_text(file, as_text(content))


def write_text(file: Path, text: str) -> None:
    """Write a ``text`` to a ``file``, completely or not at all."""
    with replacing_file(file) as scratch:
        scratch.write_text(text, "utf-8")


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """A path to write, which replaces ``file`` when the block succeeds; leftovers of killed writers are removed.

    Raises:
        OSError: nothing can be written here.
    """
    sweep(file.parent, file.name)
    scratch = _sibling(file, "tmp")
    handle = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        _lock(handle)
        yield scratch
        sync(scratch)
        scratch.replace(file)
    finally:
        os.close(handle)
        scratch.unlink(missing_ok=True)
    sync(file.parent)


def read_json(file: Path) -> Any:
    """The content of a ``file`` of :func:`write_json`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON, or nested too deeply.
    """
    return parsed(file.read_text("utf-8"))


def parsed(text: str) -> Any:
    """The content of a ``text`` of JSON, from anywhere.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def as_text(content: Any) -> str:
    """``content`` as JSON in the one form that is written: a file with the same content in another form was edited."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def seal(folder: Path, about: Mapping[str, Any], names: list[str] | None = None) -> None:
    """Write the manifest of a ``folder``, its last file: ``about``, versions, the sha256 and size of each file.

    With ``names`` it covers these files, and others may lie beside them; without, the folder must hold no others.
    """
    chosen = [folder / name for name in names] if names is not None else sorted(folder.rglob("*"))
    files = {}
    for file in (path for path in chosen if path.is_file() and path != folder / MANIFEST):
        sync(file)
        files[file.relative_to(folder).as_posix()] = {"sha256": hash_of(file), "bytes": file.stat().st_size}
    manifest = {"format": FORMAT, **about, "versions": versions(), "partial": names is not None, "files": files}
    write_json(folder / MANIFEST, manifest | {"sha256": digest(manifest)})


def versions() -> dict[str, str]:
    """Versions of the packages that compute results and write files."""
    packages = ("sprec", "torch", "transformers", "tokenizers", "peft", "numpy", "polars")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def newer(about: Any) -> str:
    """The end of a sentence that names the version which wrote something, if it is newer than this one; else empty.

    Args:
        about: content that names its ``versions``; anything else gives an empty string.
    """
    written = about.get("versions") if isinstance(about, Mapping) else None
    writer, own = written.get("sprec") if isinstance(written, Mapping) else None, version("sprec")
    if not isinstance(writer, str) or _numbers(writer) <= _numbers(own):
        return ""
    return f"; it was written by sprec {writer:.20}, this is {own}"


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:6]]


def verify(folder: Path, *names: str) -> str:
    """What is wrong with a sealed folder, in one line that names the file; empty if it is intact.

    Args:
        folder: where the manifest is.
        names: the files to check; by default all that the manifest lists.
    """
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):
        return f"{folder / MANIFEST} is missing or damaged"
    if manifest["format"] != FORMAT:
        return f"{folder / MANIFEST} has format {manifest['format']!r}, this version reads {FORMAT}{newer(manifest)}"
    entries: dict[str, Any] = manifest["files"]
    for name in names or entries:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return f"{folder / MANIFEST} names a file outside of its folder: {name}"
        problem = _problem(folder / name, entries.get(name))
        if problem:
            return problem
    stranger = None if names else _stranger(folder, entries, manifest.get("partial", False))
    return f"{stranger} is not in the manifest: somebody added it" if stranger else ""


def _stranger(folder: Path, entries: Mapping[str, Any], partial: bool) -> Path | None:
    """A file that the manifest does not name although it should: whatever loads the folder would read it, too.

    A partial manifest covers the subfolders of the files that it names. Hidden files (of file managers) do not count.
    """
    covered = {folder / PurePosixPath(name).parts[0] for name in entries if "/" in name} if partial else {folder}
    known = {folder / name for name in entries} | {folder / MANIFEST}
    files = (path for place in sorted(covered) for path in sorted(place.rglob("*")) if path.is_file())
    return next((file for file in files if file not in known and not file.name.startswith(".")), None)


def _problem(file: Path, expected: Mapping[str, Any] | None) -> str:
    if not file.is_file():
        return f"{file} is missing"
    try:
        if expected is None or file.stat().st_size != expected["bytes"] or hash_of(file) != expected["sha256"]:
            return f"{file} is damaged or was edited"
    except OSError as error:
        return f"{file} cannot be read ({_reason(error)})"
    return ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed ``folder``.

    Raises:
        OSError: there is none.
        ValueError: it is damaged or was edited.
    """
    text = (folder / MANIFEST).read_text("utf-8")
    manifest = parsed(text)
    expected = manifest.pop("sha256", "") if isinstance(manifest, dict) else ""
    try:
        whole = expected == digest(manifest) and text == as_text(manifest | {"sha256": expected})
    except RecursionError:  # JSON can be read at depths at which it cannot be written
        whole = False
    if not whole or not _is_manifest(manifest):
        raise ValueError(f"{folder / MANIFEST} is damaged or was edited")
    return dict(manifest)


def _is_manifest(content: Mapping[str, Any]) -> bool:
    """Whether ``content`` has the form of a manifest, of this version or another."""
    files = content.get("files")
    return "format" in content and isinstance(files, dict) and all(map(_is_entry, files.values()))


def _is_entry(about: Any) -> bool:
    return isinstance(about, dict) and isinstance(about.get("sha256"), str) and isinstance(about.get("bytes"), int)


def digest(content: Any) -> str:
    """The sha256 of JSON ``content``, whatever the order of its keys."""
    return sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def hash_of(file: Path) -> str:
    """The sha256 of a ``file``."""
    with file.open("rb") as handle:
        content = sha256()
        while chunk := handle.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def sync_tree(folder: Path) -> None:
    """Wait until a ``folder`` and everything in it is on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until the file ``path``, or the list of names if it is a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(what: Path, hint: str) -> Iterator[None]:
    """Turn a full disk and other failures to write into one line.

    Raises:
        UserError: names ``what`` could not be written, why, and the ``hint``.
    """
    try:
        yield
    except Exception as error:
        if not _of_system(error):
            raise
        raise UserError(f"cannot write {what}: {_reason(error)}; {hint}") from error


def _of_system(error: Exception) -> bool:
    """Whether an error is the operating system's; libraries written in Rust wrap these in their own exceptions."""
    if isinstance(error, OSError):
        own = error.errno is None  # raised by a library, about something else, such as a missing model
        return not own and not isinstance(error, ConnectionError | TimeoutError)
    return "(os error " in str(error) or "No space left on device" in str(error)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0]
