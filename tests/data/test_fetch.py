import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sprec.data.fetch import SUMS, File, fetch, fetch_files, files_of
from sprec.system.errors import UserError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every address but that of a record of Zenodo; notes the ranges it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.give_up_after = len(CONTENT)
        self.knows_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/log.zip"

    @property
    def record(self) -> dict[str, object]:
        """The answer of Zenodo's API for a record with two files."""
        names = ("Goodreads.zip", "Steam.zip")
        return {"files": [{"key": n, "checksum": f"md5:{MD5}", "links": {"self": self.url}} for n in names]}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/api/records/1":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(self.server.record).encode())
            return None
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.give_up_after])
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_file_is_downloaded_once_checked_and_recorded(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    for _ in range(2):
        assert fetch_files([File.at(server.url, MD5)], folder) == [folder / "log.zip"]
    assert (folder / "log.zip").read_bytes() == CONTENT
    assert server.asked == [None]
    assert (folder / SUMS).read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  log.zip\n"
    assert sorted(path.name for path in folder.iterdir()) == [SUMS, "log.zip"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_is_resumed(server: Server, tmp_path: Path, knows_ranges: bool) -> None:
    server.give_up_after = 300_000
    with pytest.raises(UserError, match=r"ended after 300,000 of 1,280,000 bytes\); run the same command"):
        fetch_files([File.at(server.url)], tmp_path)
    assert not (tmp_path / "log.zip").exists()
    server.give_up_after, server.knows_ranges = len(CONTENT), knows_ranges
    fetch_files([File.at(server.url, MD5)], tmp_path)
    assert server.asked == [None, "bytes=300000-"]
    assert (tmp_path / "log.zip").read_bytes() == CONTENT


def test_a_part_of_something_longer_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "log.zip.part").write_bytes(b"x" * (len(CONTENT) + 1))
    fetch_files([File.at(server.url, MD5)], tmp_path)
    assert (tmp_path / "log.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "log.zip.part").write_bytes(CONTENT)
    fetch_files([File.at(server.url, MD5)], tmp_path)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "log.zip").read_bytes() == CONTENT


def test_damage_is_noticed_and_repaired(server: Server, tmp_path: Path) -> None:
    for file in (File.at(server.url), File.at(server.url, MD5)):  # by the recorded checksum, by the publisher's
        fetch_files([file], tmp_path)
        (tmp_path / "log.zip").write_bytes(b"damaged")
        fetch_files([file], tmp_path)
        assert (tmp_path / "log.zip").read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "log.zip").write_bytes(CONTENT)
    fetch_files([File.at(server.url)], tmp_path)
    assert server.asked == []


def test_a_wrong_checksum_leaves_nothing_that_looks_right(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"checksum mismatch for .*log.zip \\(MD5 {MD5}, expected 00\\)"):
        fetch_files([File.at(server.url, "00")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_one_line_says_what_to_do_by_hand(tmp_path: Path, server: Server) -> None:
    dead = "http://127.0.0.1:9/ml-10m.zip"
    with pytest.raises(UserError, match=r"cannot download .*ml-10m.zip \(.*\); .* by hand to .*ml-10m.zip") as caught:
        fetch_files([File.at(dead)], tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot download .*missing \(Not Found\)"):
        fetch_files([File.at(server.url.replace("log.zip", "missing"))], tmp_path)


def test_what_is_left_of_several_files_is_named(tmp_path: Path) -> None:
    dead = [File(f"http://127.0.0.1:9/{name}", f"data/{name}.json") for name in "abcdef"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/b.json").write_text("put there by hand")
    with pytest.raises(UserError, match="cannot download") as caught:
        fetch_files(dead, tmp_path)
    told = str(caught.value).split("by hand to ")[1]
    others = ", ".join(f"http://127.0.0.1:9/{name} to {tmp_path}/data/{name}.json" for name in "cde")
    assert told == f"{tmp_path}/data/a.json, and the others that are needed (4): {others}, and so on"
    with pytest.raises(UserError, match="cannot download") as caught:
        fetch_files(dead[:3], tmp_path)
    assert str(caught.value).endswith(f"the others that are needed (1): http://127.0.0.1:9/c to {tmp_path}/data/c.json")


def test_a_record_of_zenodo_is_downloaded(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sprec.data.fetch.ZENODO", server.url.replace("log.zip", "api/records/1"))
    assert fetch("sprec", tmp_path) == [tmp_path / "Goodreads.zip", tmp_path / "Steam.zip"]
    assert (tmp_path / "Steam.zip").read_bytes() == CONTENT
    (tmp_path / "Steam.zip").write_bytes(b"damaged")
    fetch("sprec", tmp_path)
    assert (tmp_path / "Steam.zip").read_bytes() == CONTENT


def test_a_record_that_is_not_to_be_had_is_one_line_with_its_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host, problem in (("127.0.0.1:9", "cannot download"), (f"127.0.0.1:{server.server_port}", "does not answer")):
        monkeypatch.setattr("sprec.data.fetch.ZENODO", f"http://{host}/api/records/2")
        with pytest.raises(UserError, match=problem) as caught:
            fetch("sprec", tmp_path)
        assert str(caught.value).endswith(f" download the files of http://{host}/records/2 by hand into {tmp_path}")


@pytest.mark.parametrize("content", [b"deadbeef", b"\xff\xfe  log.zip\n"])
def test_damaged_checksums_are_unknown_ones(
    content: bytes, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / SUMS).write_bytes(content)
    (tmp_path / "log.zip").write_bytes(b"put there by hand")
    fetch_files([File.at(server.url)], tmp_path)
    assert f"! {tmp_path / SUMS} is damaged: log.zip is not compared with it" in capsys.readouterr().err
    assert server.asked == []
    (tmp_path / "log.zip").unlink()
    fetch_files([File.at(server.url)], tmp_path)
    assert (tmp_path / SUMS).read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  log.zip\n"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make .*raw"):
        fetch_files([File.at("http://127.0.0.1:9/x")], tmp_path / "file" / "raw")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("ml-10m", ["ml-10m.zip"]),
        (
            "goodreads-poetry",
            [
                "goodreads_interactions_poetry.json.gz",
                "goodreads_books_poetry.json.gz",
                "goodreads_book_genres_initial.json.gz",
            ],
        ),
        ("amazon-2014-CDs_and_Vinyl", ["reviews_CDs_and_Vinyl_5.json.gz", "meta_CDs_and_Vinyl.json.gz"]),
        ("amazon-2023-Books", ["Books.jsonl.gz", "meta_Books.jsonl.gz"]),
        ("steam", ["steam_reviews.json.gz", "steam_games.json.gz"]),
    ],
)
def test_sources_by_name(name: str, names: list[str]) -> None:
    files = files_of(name)
    assert [file.name for file in files] == names
    assert all(file.url.startswith("https://") for file in files)


def test_the_sampled_files_of_the_paper_go_where_the_import_looks_for_them() -> None:
    files = {file.name: file.url for file in files_of("sprec-sampled")}
    assert len(files) == 4 * 4 + 3 * 3 + 2
    assert all(re.match(r"https://raw\.githubusercontent\.com/[\w-]+/\w+/[0-9a-f]{40}/", url) for url in files.values())
    for dataset in ("Goodreads", "MovieLens", "CDs_and_Vinyl", "Steam"):
        valid, extra = files[f"data/{dataset}/valid.json"], files[f"data/{dataset}/valid_4096.json"]
        assert valid != extra
        assert {Path(url).name for url in (valid, extra)} == {f"{dataset}_valid.json"}, "two versions of one file"
    assert files["eval/Steam/name2genre.json"].endswith("/env/steam/list_genre.json")


def test_files_may_go_into_folders(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_files([File(server.url, "data/Books/train.json")], tmp_path)
    assert path == tmp_path / "data/Books/train.json"
    assert path.read_bytes() == CONTENT
    fetch_files([File(server.url, "data/Books/train.json")], tmp_path)
    assert len(server.asked) == 1, "not downloaded again"


@pytest.mark.parametrize("name", ["netflix", "amazon-2014-../../etc", "amazon-2014-é", "goodreads-"])
def test_unknown_sources_are_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown source .*; sources: ml-100k, .*, sprec$"):
        fetch(name, tmp_path)
