"""The process of the service: address, signals, and shutdown without dropping requests."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from sprec.serve.app import make_app
from sprec.serve.batcher import Limits
from sprec.serve.guard import LOOPBACK
from sprec.serve.served import Runs
from sprec.serve.service import Service
from sprec.system.errors import UserError
from sprec.system.progress import say

TOKEN = "SPREC_TOKEN"
"""The environment variable with the token."""
_SHORTEST = 16
_BACKLOG = 1024
"""Connections that wait to be accepted."""
_DRAIN = 30
"""Seconds that current requests get when the service is stopped."""


def serve(
    runs: Sequence[Path],
    host: str,
    port: int,
    limits: Limits,
    changes: Sequence[str] = (),
    protocols: Sequence[str] = (),
) -> None:
    """Serve runs until SIGTERM or SIGINT; current requests are answered. SIGHUP loads the runs again.

    Args:
        runs: finished runs.
        host: address to listen on.
        port: 0 for any that is free.
        limits: what a request may ask for.
        changes: other settings, as in ``sprec recommend --set``.
        protocols: those that requests may ask for; empty for all.

    Raises:
        UserError: a run cannot be loaded, the address cannot be used, or others can reach it and there is no token.
    """
    token = os.environ.get(TOKEN, "")
    if host not in LOOPBACK and not token:
        raise UserError(f"{host} can be reached from elsewhere: set {TOKEN} to a secret that requests must bear")
    if token and (len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(f"{TOKEN} must have {_SHORTEST} characters at least, ASCII without spaces")
    service = Service(Runs(runs, changes, protocols), limits)
    with listen(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        where = f"http://{name}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            make_app(service, token), access_log=False, log_level="warning", log_config=None, server_header=False,
            date_header=False, timeout_graceful_shutdown=_DRAIN,
        )  # fmt: skip
        say(f"serving {', '.join(service.runs.served)} at {where} (requests: {where}/docs)")
        asyncio.run(_run(uvicorn.Server(config), service, listening))
    say("stopped")


async def _run(server: uvicorn.Server, service: Service, listening: socket.socket) -> None:
    def reload() -> None:
        try:
            service.reload()
            say(f"serving {', '.join(service.runs.served)} anew")
        except UserError as error:
            say(f"! {error}; the runs stay as they were")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: threading.Thread(target=reload, daemon=True).start())
    for ending in (signal.SIGTERM, signal.SIGINT):  # the server raises it again after the last answer
        signal.signal(ending, lambda *_: None)
    await server.serve(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    It names its protocol: asyncio sends small packets at once only where it sees TCP, and a client would wait 40 ms for
    the second half of each answer.

    Args:
        host: address to listen on.
        port: 0 for any that is free.

    Raises:
        UserError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; choose another --port") from error
    return listening
