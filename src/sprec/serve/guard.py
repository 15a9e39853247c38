"""Checks in front of the service: who may send requests, their size, and what a browser may do with the answers."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from elsewhere, pages have no inline scripts or styles, and may not be framed."""
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses unauthorised and large requests, and adds the headers to all answers.

    Args:
        app: the application behind it.
        token: required in requests for data; empty if only this machine can connect.
        body: maximum bytes of a request.
        seconds: within which a request must arrive.
    """

    def __init__(self, app: App, token: str, body: int, seconds: float) -> None:
        self._app, self._token, self._body, self._seconds = app, token, body, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        problem = self._problem(scope)
        if problem is None:
            try:
                async with asyncio.timeout(self._seconds):
                    content = await self._read(receive)
            except TimeoutError:
                problem = 408, f"the request did not arrive within {self._seconds:g} s"
            else:
                if content is not None:
                    await self._app(scope, _once(content, receive), headed)
                    return
                problem = 413, f"a request has at most {self._body:,} bytes"
        await _refuse(headed, *problem)

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is refused before it is read, with the status."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        # DNS rebinding: another site's name that resolves to this machine
        if not self._token and _name(host) not in LOOPBACK:
            return 403, "this service answers on the loopback address only"
        if headers.get(b"origin", f"http://{host}").partition("://")[2] != host:
            return 403, "requests from other origins are not answered"
        if self._token and _needs_token(scope["path"]) and not self._is_known(headers.get(b"authorization", "")):
            return 401, "send the token: Authorization: Bearer TOKEN"
        if headers.get(b"content-length", "0").isdecimal() and int(headers.get(b"content-length", "0")) > self._body:
            return 413, f"a request has at most {self._body:,} bytes"
        return None

    def _is_known(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        same = hmac.compare_digest(token.strip().encode("utf-8", "replace"), self._token.encode())
        return same and kind.lower() == "bearer"

    async def _read(self, receive: Receive) -> bytes | None:
        """The body of a request; None if it is too large."""
        content = bytearray()
        while True:
            message = await receive()
            content += message.get("body", b"")
            if len(content) > self._body:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return bytes(content)


def _once(content: bytes, receive: Receive) -> Receive:
    """Receive the content that has been read already, then the rest."""
    left = [content]

    async def again() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def _needs_token(path: str) -> bool:
    """Whether a path needs the token: not the page, its files and the documentation, nor health checks."""
    return path.startswith("/v1/") or path == "/metrics"


def _name(host: str) -> str:
    """A host without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
