"""A package index on this machine, in both forms that pip reads, whose downloads can break off."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Index(ThreadingHTTPServer):
    """Serves ``files`` by name; notes the ranges and the credentials it was asked with."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.knows_json = True
        self.give_up_after: int | None = None
        self.ranges: list[str | None] = []
        self.credentials: set[str | None] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/simple"

    def page(self) -> tuple[str, bytes]:
        links = {
            name: f"../../files/{name}#sha256={sha256(content).hexdigest()}" for name, content in self.files.items()
        }
        if self.knows_json:
            files = [{"filename": name, "url": link} for name, link in links.items()]
            return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()
        anchors = [f'<a data-requires-python="&gt;=3.9" href="{link}">{name}</a><br>' for name, link in links.items()]
        return "text/html", "\n".join(anchors).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.credentials.add(self.headers.get("Authorization"))
        if self.path.startswith("/simple/"):
            kind, content = self.server.page()
            return self._answer(200, kind, content, content)
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        whole = self.server.files[self.path.rsplit("/", 1)[-1]]
        start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
        return self._answer(
            206 if start else 200, "application/zip", whole[start:], whole[start : self.server.give_up_after]
        )

    def _answer(self, status: int, kind: str, promised: bytes, sent: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(promised)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Index]:
    with Index(files) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()
