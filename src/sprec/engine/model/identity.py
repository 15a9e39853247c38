"""What the name of a model stands for: folders change, and so do branches of the hub."""

from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from sprec.system import storage


def commit(path: str, revision: str | None = None) -> str:
    """The commit of a hub repository: of what is in the cache, else of what the hub has now.

    A branch that moved on the hub is the old one here until its cache is removed: two runs of a study read the same
    weights.

    Args:
        path: hub name, or a folder, which has no commits.
        revision: branch, tag or commit.

    Returns:
        The commit; the revision as it is, by default ``main``, of a folder and where neither cache nor hub knows the
        name: then loading it fails, and says why.
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
    """The content behind a name, so that what was made from it can be told from what was not.

    Returns:
        The hash of all files of a folder, or the :func:`commit` of a hub repository.
    """
    folder = Path(path)
    if not folder.is_dir():
        return commit(path, revision)
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return storage.digest({file.relative_to(folder).as_posix(): storage.hash_of(file) for file in files})
