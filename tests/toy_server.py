"""The real server in a process of its own, and requests to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; ``body`` as it is where it is text or bytes, else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it answers before it has read all of a large body
                connection.request(method, path, content, sent)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, lower, response.read().decode())
        finally:
            connection.close()

    def recommend(self, **asked: Any) -> Reply:
        return self.ask("POST", "/v1/recommend", asked)

    def stop(self) -> str:
        """Stop it; what it printed."""
        self.process.send_signal(signal.SIGTERM)
        printed = self.process.stderr.read() if self.process.stderr else ""
        assert self.process.wait(60) == 0, printed
        return printed


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Server]:
    """``sprec serve`` with these arguments on a free port."""
    command = [sys.executable, "-m", "sprec", "serve", *map(str, arguments), "--port", "0"]
    environ = {name: value for name, value in os.environ.items() if name != "SPREC_TOKEN"} | environment
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stderr
        line = process.stderr.readline()
        found = re.search(r"http://\S+?:(\d+) ", line)
        assert found, line + process.stderr.read()
        yield Server(process, int(found[1]))
    finally:
        process.kill()
        process.wait()
