"""Download public logs from their publishers: with progress, resumed where it stopped, checked by known checksums.

Nothing is mirrored here: the files stay under their publishers' terms (GroupLens, UCSD, Zenodo, the repositories of
the paper's authors), most of them for research only.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sprec.system import storage
from sprec.system.download import alone, ask, download, one_line
from sprec.system.errors import UserError
from sprec.system.paths import require_path
from sprec.system.progress import say

SUMS = "SHA256SUMS"
"""The file with the checksums of the downloads, in the format of ``sha256sum -c``."""
_NAMED = 3  # files that a message names besides the one that failed


@dataclass(frozen=True)
class File:
    """A file to download: its ``url``, its ``name`` in the folder, and its ``md5`` if the publisher gives it."""

    url: str
    name: str
    md5: str = ""

    @classmethod
    def at(cls, url: str, md5: str = "") -> "File":
        """A file that keeps the publisher's name."""
        return cls(url, url.rsplit("/", 1)[-1], md5)


_MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/"
_GITHUB = "https://raw.githubusercontent.com/"
_RECORDS = _GITHUB + "flora0110/CHES_DPO/{}/sampled_data/{}_{}.json"
_COMMIT = "caa0aaeaf293989f24d4581e0dbbf54f98836f6d"
_EARLIER = "9e1b7a8d312c0aa52432b7c8a1adf475c26da047"
"""In this commit the validation files hold the paper's 512 rows; later ones hold 4,096 others."""
_FACTS = {
    "Goodreads": "flora0110/Negative_Sampling/a14dfa7f94e1da07cace661a3614c36bb10d83f6/eval/Goodreads/{}.json",
    "MovieLens": "flora0110/SPRec/96dff9b5a42c6cc227d07fcee6b3d8813865bac0/eval/MovieLens/{}.json",
    "CDs_and_Vinyl": "flora0110/SPRec/10a40980bc88fc162fecd64d4fc658e3e997d63b/eval/CDs_and_Vinyl/{}.json",
    "Steam": f"flora0110/CHES_DPO/{_COMMIT}/eval/Steam/{{}}.json",
}
_STEAM_GENRES = "jizhi-zhang/BiLLP/2e61c901044607ac87f5c548677ca57ad44fe916/env/steam/list_genre.json"
_STEAM_GAMES = File.at("https://cseweb.ucsd.edu/~wckang/steam_games.json.gz")


def _sampled() -> tuple[File, ...]:
    """The records and catalogs of the paper's four datasets, from which this project's results are made."""
    files = []
    for dataset, facts in _FACTS.items():
        for commit, there, here in (
            (_COMMIT, "train", "train"), (_EARLIER, "valid", "valid"), (_COMMIT, "valid", "valid_4096"),
            (_COMMIT, "test", "test"),
        ):  # fmt: skip
            files.append(File(_RECORDS.format(commit, dataset, there), f"data/{dataset}/{here}.json"))
        names = ("id2name",) if dataset == "Steam" else ("id2name", "name2genre", "genre_dict")
        files += [File(_GITHUB + facts.format(name), f"eval/{dataset}/{name}.json") for name in names]
    return (*files, File(_GITHUB + _STEAM_GENRES, "eval/Steam/name2genre.json"))


SOURCES: dict[str, tuple[File, ...]] = {
    "ml-100k": (File.at(_MOVIELENS + "ml-100k.zip", "0e33842e24a9c977be4e0107933c0723"),),
    "ml-1m": (File.at(_MOVIELENS + "ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),),
    "ml-10m": (File.at(_MOVIELENS + "ml-10m.zip", "ce571fd55effeba0271552578f2648bd"),),
    "ml-20m": (File.at(_MOVIELENS + "ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),),
    "ml-25m": (File.at(_MOVIELENS + "ml-25m.zip", "6b51fb2759a8657d3bfcbfc42b592ada"),),
    "ml-32m": (File.at(_MOVIELENS + "ml-32m.zip"),),
    "ml-latest-small": (File.at(_MOVIELENS + "ml-latest-small.zip"),),  # changes with time: no fixed checksum
    "steam": (File.at("https://cseweb.ucsd.edu/~wckang/steam_reviews.json.gz"), _STEAM_GAMES),
    "steam-australia": (File.at(_UCSD + "data/steam/australian_users_items.json.gz"), _STEAM_GAMES),
    "sprec-sampled": _sampled(),
}
"""Names and files. There are also the families of :data:`PATTERNS`, and ``sprec``: all files of the authors."""

PATTERNS: dict[str, tuple[str, ...]] = {
    "goodreads-{}": (
        _UCSD + "gdrive/goodreads/byGenre/goodreads_interactions_{}.json.gz",
        _UCSD + "gdrive/goodreads/byGenre/goodreads_books_{}.json.gz",
        _UCSD + "gdrive/goodreads/goodreads_book_genres_initial.json.gz",
    ),
    "amazon-2014-{}": (
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_{}_5.json.gz",
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_{}.json.gz",
    ),
    "amazon-2018-{}": (
        _UCSD + "data/amazon_v2/categoryFilesSmall/{}_5.json.gz",
        _UCSD + "data/amazon_v2/metaFiles2/meta_{}.json.gz",
    ),
    "amazon-2023-{}": (
        _UCSD + "data/amazon_2023/raw/review_categories/{}.jsonl.gz",
        _UCSD + "data/amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
    ),
}
"""Families of sources: ``goodreads-poetry``, ``amazon-2014-CDs_and_Vinyl``."""

ZENODO = "https://zenodo.org/api/records/14900102"
"""The processed files of the paper's authors."""


def fetch(name: str, folder: Path) -> list[Path]:
    """Download a source by ``name`` into a ``folder`` and return its files; complete files are not downloaded again.

    Raises:
        UserError: the name is unknown, the server cannot be reached (the message says what to download by hand and
            where to put it), the disk is full, or a file does not have its checksum.
    """
    files = _zenodo(ZENODO, folder) if name == "sprec" else files_of(name)
    return fetch_files(files, folder)


def files_of(name: str) -> Sequence[File]:
    """The files of a source.

    Raises:
        UserError: there is no source of this ``name``.
    """
    if name in SOURCES:
        return SOURCES[name]
    for pattern, urls in PATTERNS.items():
        part = re.fullmatch(pattern.replace("{}", r"(\w+)"), name, re.ASCII)
        if part:
            return [File.at(url.format(part[1])) for url in urls]
    known = ", ".join([*SOURCES, *(pattern.format("NAME") for pattern in PATTERNS), "sprec"])
    raise UserError(f'unknown source "{name}"; sources: {known}')


def fetch_files(files: Iterable[File], folder: Path) -> list[Path]:
    """Download ``files`` into a ``folder`` and return them; see :func:`fetch`.

    Raises:
        UserError: see :func:`fetch`.
    """
    try:
        require_path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from error
    wanted = list(files)
    return [_fetch_file(wanted[number:], folder) for number in range(len(wanted))]


def _fetch_file(wanted: Sequence[File], folder: Path) -> Path:
    """Download the first of the files that are still missing."""
    file, target = wanted[0], folder / wanted[0].name
    part = target.with_name(target.name + ".part")
    if _is_there(target, file):  # without a lock: the folder may be read-only
        return target
    with one_line(file.url, target, _by_hand(wanted, folder)), alone(target):
        if _is_there(target, file):  # another process has fetched it meanwhile
            return target
        download(file.url, part)
        found = _digest(part, "md5")
        if file.md5 and found != file.md5:
            part.unlink()
            raise UserError(f"checksum mismatch for {file.url} (MD5 {found}, expected {file.md5}); try again")
        _record(part, target)
        part.replace(target)
    return target


def _by_hand(wanted: Sequence[File], folder: Path) -> str:
    """What to do without a network; names the first few files."""
    others = [file for file in wanted[1:] if not (folder / file.name).exists()]
    text = f"download it by hand to {folder / wanted[0].name}"
    if not others:
        return text
    named = [f"{file.url} to {folder / file.name}" for file in others[:_NAMED]]
    named += ["and so on"] * (len(others) > _NAMED)
    return f"{text}, and the others that are needed ({len(others)}): {', '.join(named)}"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _is_there(target: Path, file: File) -> bool:
    there = target.exists() and _is_whole(target, file)
    if there:
        say(f"{target} already exists")
    return there


def _is_whole(target: Path, file: File) -> bool:
    """Whether a file has the publisher's checksum, or else the one recorded when it was downloaded, if any."""
    if file.md5:
        return _digest(target, "md5") == file.md5
    sums = target.with_name(SUMS)
    known, whole = _recorded(sums)
    if target.name in known:
        return _digest(target, "sha256") == known[target.name]
    if not whole:
        say(f"! {sums} is damaged: {target.name} is not compared with it, but taken as it is")
    return True


def _recorded(sums: Path) -> tuple[dict[str, str], bool]:
    """The checksums in a file by name, and whether all of its lines are valid."""
    lines = sums.read_text("utf-8", errors="replace").splitlines() if sums.exists() else []
    found = [re.fullmatch("([0-9a-f]{64})  (.+)", line) for line in lines]
    return {entry[2]: entry[1] for entry in found if entry}, all(found)


def _record(part: Path, target: Path) -> None:
    """Record the checksum of a finished download, so that later damage is noticed."""
    sums = target.with_name(SUMS)
    known, _ = _recorded(sums)
    known[target.name] = _digest(part, "sha256")
    storage.write_text(sums, "".join(f"{digest}  {name}\n" for name, digest in known.items()))


def _zenodo(record: str, folder: Path) -> list[File]:
    """The files of a Zenodo record, given the address of its API; people find them on its page."""
    by_hand = f"download the files of {record.replace('/api/', '/')} by hand into {folder}"
    with one_line(record, folder, by_hand), ask(record) as answer:
        try:
            about = json.loads(answer.read())
            return [
                File(entry["links"]["self"], Path(entry["key"]).name, entry["checksum"].removeprefix("md5:"))
                for entry in about["files"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{record} does not answer as Zenodo does; {by_hand}") from error
