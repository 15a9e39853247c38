"""The content behind the name of a model: folders change, and so do branches of the hub."""

from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from sprec.engine.model.backbones import located
from sprec.system import storage

_FOR_PEOPLE = ("README", "LICENSE", "NOTICE", storage.MANIFEST)
"""Prefixes of the names of files that are never loaded with a model."""
_VERSION = "transformers_version"
"""Configuration key that names the writing version; it does not change the model."""


def commit(path: str, revision: str | None = None) -> str:
    """The commit of a hub repository: the cached one, else the hub's current one.

    If a branch moves on the hub, the cached commit counts until the cache is removed: two runs of a study read the same
    weights.

    Args:
        path: hub name, or a folder, which has no commits.
        revision: branch, tag or commit.

    Returns:
        The commit. For a folder, and if neither cache nor hub knows the name, the revision (by default ``main``):
        loading the model fails later and says why.
    """
    asked = revision or "main"
    if Path(path).is_dir():
        return asked
    try:
        file = try_to_load_from_cache(path, "config.json", revision=asked)
        found = file if isinstance(file, str) else hf_hub_download(path, "config.json", revision=asked)
    except (OSError, ValueError):  # no such name, or no network
        return asked
    return Path(found).parent.name


def origin(path: str, revision: str | None = None) -> str:
    """Identifies the content behind a name, so that results of other weights are not mistaken for those of these.

    Args:
        path: name of a known backbone, which is fetched if needed, name of the hub, or folder.
        revision: of the hub.

    Returns:
        The hash of all files of a folder that are loaded, or the :func:`commit` of a hub repository.

    Raises:
        UserError: a known backbone cannot be fetched, or the path is a GGUF file.
    """
    folder = Path(located(path))
    if not folder.is_dir():
        return commit(path, revision)
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(_FOR_PEOPLE))
    return storage.digest({file.relative_to(folder).as_posix(): _content(file) for file in files})


def _content(file: Path) -> str:
    if file.name.endswith("config.json"):
        try:
            found = storage.read_json(file)
        except ValueError:  # loading it fails later and says why
            return storage.hash_of(file)
        if isinstance(found, dict):
            return storage.digest({key: value for key, value in found.items() if key != _VERSION})
    status = file.stat()
    return _hashed(file, status.st_size, status.st_mtime_ns)


@cache
def _hashed(file: Path, size: int, changed: int) -> str:
    """The hash of a file, cached by its size and modification time."""
    return storage.hash_of(file)
