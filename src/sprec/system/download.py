"""Downloads: with progress, continued where they stopped, one process at a time."""

import base64
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import bar, say

TIMEOUT = 60
"""Seconds without an answer after which a server counts as unreachable."""
_CHUNK = 1 << 20
_PAUSE = 0.5
"""Seconds between two looks at whether another process is done."""


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold a lock on a file or folder: a second process that asks for it waits until the block ends.

    Args:
        target: the file or folder; its parent is made.

    Raises:
        OSError: nothing can be written here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    file, told = target.with_name(f".{target.name}.lock"), False
    with ExitStack() as held:
        while owner := storage.lock(file, held):
            if not told:
                say(f"  another process ({owner}) is fetching {target.name}, waiting")
            told = True
            time.sleep(_PAUSE)
        held.callback(file.unlink, missing_ok=True)
        yield


@contextmanager
def one_line(url: str, target: Path, by_hand: str) -> Iterator[None]:
    """Turn errors of a download into one line.

    Args:
        url: what is downloaded; a password in it is not shown.
        target: the file that is written.
        by_hand: what to do without a network.

    Raises:
        UserError: the server cannot be reached, or nothing can be written.
    """
    try:
        yield
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        shown = _without_password(url)[0]
        raise UserError(f"cannot download {shown} ({reason}); run the same command to go on, or {by_hand}") from error
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def download(url: str, part: Path) -> None:
    """Download to a file, continuing where it ends if the server can.

    Args:
        url: what is downloaded.
        part: the file; incomplete if the call fails.

    Raises:
        OSError: the server cannot be reached, the connection ends early, or the disk is full; ``part`` stays.
    """
    have = part.stat().st_size if part.exists() else 0
    try:
        answer = ask(url, have)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # complete: the process was stopped before it checked the file
        part.unlink()  # longer than the file, which must have changed
        have, answer = 0, ask(url, 0)
    with answer:
        have = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, bar(f"fetching {part.stem}", total) as progress:
            progress.advance(have)
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                progress.advance(len(chunk))
            size = file.tell()
    if total is not None and size < total:
        raise http.client.HTTPException(f"the connection ended after {size:,} of {total:,} bytes")


def ask(url: str, start: int = 0, accept: str = "*/*") -> Any:
    """Send a request and return the server's response.

    Args:
        url: the address; a name and password in it are sent as HTTP basic authentication.
        start: the first byte to send.
        accept: the accepted media types.

    Raises:
        OSError: the server cannot be reached, or refuses.
    """
    plain, user = _without_password(url)
    headers = {"User-Agent": "sprec", "Accept": accept} | ({"Range": f"bytes={start}-"} if start else {})
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return urllib.request.urlopen(urllib.request.Request(plain, headers=headers), timeout=TIMEOUT)


def _without_password(url: str) -> tuple[str, str]:
    """An address without its ``name:password``, and the latter."""
    with suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        if at:
            return urllib.parse.urlunsplit(parts._replace(netloc=host)), urllib.parse.unquote(user)
    return url, ""
