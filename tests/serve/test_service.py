"""The service over real connections: what it answers, refuses, drops (nothing) and keeps to itself."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sprec.data import Dataset
from sprec.runs import Recommender, run
from sprec.runs.recipes import resolve
from sprec.serve.server import listen
from toy_runs import Cli
from toy_server import Reply, Server, serving

SECRET = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def server(shop: Path, toy_run: Path) -> Iterator[Server]:
    with serving(shop / "run", toy_run) as started:
        yield started


@pytest.fixture(scope="module")
def toy(toy_run: Path) -> Recommender:
    return Recommender.load(toy_run)


@pytest.mark.parametrize("protocol", ["paper", "exact", "popularity"])
def test_lists_are_those_of_the_recommender(server: Server, toy: Recommender, protocol: str) -> None:
    catalog = toy.catalog
    asked: list[list[Any]] = [[catalog.titles[3], 1], [], ["No such film", catalog.titles[7].upper()]]
    allow, block = list(range(0, 90)), [catalog.titles[5], 6]
    reply = server.recommend(histories=asked, k=4, run="toy", protocol=protocol, allow=allow, block=block)
    assert reply.status == 200
    assert (reply.json["run"], reply.json["protocol"]) == ("toy", protocol)
    found = toy.recommendations(
        [[3, 1], [], [7]], 4, protocol=protocol, exclude_history=True, allow=allow, block=[5, 6]
    )
    for row, own in enumerate(reply.json["lists"]):
        assert [entry["item"] for entry in own["items"]] == found.items[row].tolist()
        for entry in own["items"]:
            assert entry["title"] == catalog.titles[entry["item"]]
            assert entry["source_id"] == catalog.source_ids[entry["item"]]
        assert own["proven"] == (None if found.proven is None or row == 1 else bool(found.proven[row]))
        assert own["popular"] == (row == 1)
    assert [own["unknown"] for own in reply.json["lists"]] == [[], [], ["No such film"]]
    if protocol == "exact":
        assert found.log_probs is not None
        assert [e["score"] for e in reply.json["lists"][0]["items"]] == pytest.approx(
            found.log_probs[0].tolist(), abs=1e-4
        )


def test_the_first_run_answers_by_default_and_lists_end_where_no_more_is_left(server: Server) -> None:
    reply = server.recommend(histories=[["003"], ["Thing 4"]], genres=["Tea"], k=10)
    assert reply.json["run"] == "run"
    assert [len(own["items"]) for own in reply.json["lists"]] == [9, 10]  # 003 is one of the ten teas
    again = server.recommend(histories=[["003"]], genres=["Tea"], repeat=True)
    assert len(again.json["lists"][0]["items"]) == 10
    assert [entry["name"] for entry in server.ask("GET", "/v1/runs").json["runs"]] == ["run", "toy"]
    protocols = {entry["name"]: entry["protocols"] for entry in server.ask("GET", "/v1/runs").json["runs"]}
    assert "paper" not in protocols["run"]
    assert {"paper", "exact", "consensus"} <= set(protocols["toy"])
    assert "d3" not in protocols["toy"], "it would have to train SASRec first"


def test_items_are_found_by_a_part_of_their_title(server: Server) -> None:
    found = server.ask("GET", "/v1/items?q=THING%201&limit=3").json["items"]
    assert [entry["title"][:7] for entry in found] == ["Thing 1"] * 3
    assert [entry["popularity"] for entry in found] == sorted(entry["popularity"] for entry in found)
    assert set(found[0]) == {"item", "source_id", "title", "genres", "popularity"}
    assert server.ask("GET", "/v1/items?q=zzz").json == {"items": []}
    rows = server.ask("GET", "/v1/items?item=7&item=3&run=run").json["items"]
    assert [(entry["item"], entry["title"], entry["genres"]) for entry in rows] == [
        (7, "Thing 7", ["Coffee"]),
        (3, "Thing 3", ["Tea"]),
    ]
    assert server.ask("GET", "/v1/items?item=30").json == {"detail": "there is no item 30; items go from 0 to 29"}
    assert server.ask("GET", "/v1/items?q=").status == server.ask("GET", "/v1/items").status == 422


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "the request is not JSON: Expecting property name enclosed in double quotes, at character 1"),
        (b"\xff\x1c", "the request is not JSON in UTF-8"),
        ({}, "histories: Field required"),
        ({"histories": [[], ["a", None]]}, "histories[1][1]: Input should be a valid string"),
        ({"histories": [["a"]], "tilt": 0.5}, 'run has no tilt of "popularity"; protocols with one: '),
        ({"histories": [["a"]], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"histories": [["a"]], "nonsense": 1}, "nonsense: Extra inputs are not permitted"),
        ({"histories": [["a"]], "k": 101}, "k: 101 is over the limit of 100"),
        ({"histories": [["a"]] * 257}, "histories: 257 is over the limit of 256"),
        ({"histories": [["a"] * 1001]}, "a history: 1,001 is over the limit of 1,000"),
        ({"histories": [["a"]], "run": "../../etc"}, 'there is no run "../../etc"; runs: run, toy'),
        (
            {"histories": [["a"]], "protocol": "paper"},
            'run does not recommend by "paper"; protocols: knn, popularity, random',
        ),
        ({"histories": [["a"]], "allow": ["nothing"]}, "no item of the catalog is left that may be recommended"),
        ({"histories": [["a"]], "genres": ["Teas"]}, 'no item has the genre "Teas"; there are Tea'),
    ],
)
def test_bad_input_gets_422_and_one_sentence(server: Server, body: Any, sentence: str) -> None:
    reply = server.ask("POST", "/v1/recommend", body)
    assert reply.status == 422
    assert reply.json["detail"].startswith(sentence)
    assert set(reply.json) == {"detail"}


@pytest.mark.parametrize("number", ["0.0", "1e0", "+1", "%201"])
def test_numbers_in_addresses_are_digits(server: Server, number: str) -> None:
    assert server.ask("GET", "/v1/items?item=1").status == 200
    reply = server.ask("GET", f"/v1/items?item={number}")
    assert (reply.status, reply.json["detail"]) == (422, "item[0]: is not a whole number")


def test_large_requests_are_refused_however_they_are_sent(server: Server) -> None:
    large = "x" * (1 << 20) + "x"
    assert server.ask("POST", "/v1/recommend", large).status == 413
    with socket.create_connection(("127.0.0.1", server.port)) as sent:
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost:{server.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent.sendall(head.encode() + f"{len(large):x}\r\n{large}\r\n0\r\n\r\n".encode())
        assert sent.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_strangers_and_other_origins_are_refused_and_headers_are_strict(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert server.ask("GET", "/v1/runs", Origin=f"http://{own}").status == 200
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        reply = server.ask("GET", "/v1/runs", **headers)
        assert reply.status == 403
    reply = server.ask("OPTIONS", "/v1/recommend", Origin="https://evil.example", Access_Control_Request_Method="POST")
    assert reply.status == 403
    for path in ("/v1/runs", "/docs", "/nowhere"):
        reply = server.ask("GET", path)
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert server.ask("POST", "/v1/recommend", {"histories": []}, Content_Type="text/plain").status == 422


def test_the_documentation_comes_from_here(server: Server) -> None:
    page = server.ask("GET", "/docs")
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 4
    assert all(link.startswith("/") for link in linked)
    assert [server.ask("GET", link).status for link in linked] == [200] * 4
    assert "<script>" not in page.text
    assert server.ask("GET", "/openapi.json").json["paths"]["/v1/recommend"]["post"]["responses"]["503"]


def test_health_and_metrics(server: Server) -> None:
    assert server.ask("GET", "/healthz").json == {"status": "ok"}
    assert server.ask("GET", "/readyz").json == {"status": "ready"}
    server.recommend(histories=[["003"]], k=1)
    server.ask("GET", "/a/path/that/is/not/there")
    metrics = server.ask("GET", "/metrics").text
    assert re.search(r'sprec_request_seconds_count{route="/v1/recommend",status="200"} [1-9]', metrics)
    assert 'sprec_lists_total{protocol="popularity",run="run"}' in metrics
    assert "that/is/not/there" not in metrics


def test_a_token_guards_all_data(shop: Path) -> None:
    with serving(shop / "run", "--host", "0.0.0.0", SPREC_TOKEN=SECRET) as server:
        for path in ("/v1/runs", "/v1/items?q=a", "/metrics"):
            assert server.ask("GET", path).status == 401
            assert server.ask("GET", path, Authorization=f"Bearer {SECRET}x").status == 401
            assert server.ask("GET", path, Authorization=SECRET).status == 401
            assert server.ask("GET", path, Authorization=f"Bearer {SECRET}").status == 200
        for path in ("/v1/reload", "/v1/recommend"):
            assert server.ask("POST", path, {}).headers["www-authenticate"] == "Bearer"
        assert server.ask("POST", "/v1/reload", Authorization=f"Bearer {SECRET}").json["runs"][0]["name"] == "run"
        assert server.ask("GET", "/healthz").status == server.ask("GET", "/readyz").status == 200
        assert SECRET not in server.stop()


def test_a_missing_extra_is_one_line(shop: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi_offline'] = None; sys.argv = ['sprec', 'serve', sys.argv[1]]\n"
        "from sprec.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, shop / "run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "sprec: sprec serve needs fastapi_offline: pip install 'sprec[serve]'\n",
    )


def test_what_cannot_be_served_is_one_line(cli: Cli, shop: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        return cli("serve", *arguments, code=2).stderr

    assert "0.0.0.0 can be reached from elsewhere: set SPREC_TOKEN" in refused(shop / "run", "--host", "0.0.0.0")
    assert "is not a run" in refused(tmp_path)
    assert 'there is no protocol "beam"; protocols: paper, exact, ' in refused(shop / "run", "--protocol", "beam")
    shutil.copytree(shop / "run", tmp_path / "run")
    assert 'two runs are called "run"' in refused(shop / "run", tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in refused(
            shop / "run", "--port", port
        )


def test_answers_are_not_held_back() -> None:
    """An answer in two packets waits 40 ms for the client's acknowledgement of the first one, unless TCP is told."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def together(server: Server, requests: list[dict[str, Any]]) -> list[Reply]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda asked: server.recommend(**asked), requests))


def calls(server: Server) -> tuple[int, int]:
    """Calls of the model so far, and histories in them."""
    metrics = server.ask("GET", "/metrics").text
    return tuple(int(float(value)) for value in re.findall(r"sprec_batch_histories_(?:count|sum) (\S+)", metrics))  # type: ignore[return-value]


def test_requests_that_arrive_together_are_answered_in_one_batch(server: Server, toy: Recommender) -> None:
    before = calls(server)
    requests: list[dict[str, Any]] = [
        {"histories": [[i, i + 1]], "run": "toy", "k": 5, "protocol": "exact", "block": [i + 2] if i % 2 else []}
        for i in range(24)
    ]
    replies = together(server, requests)
    assert {reply.status for reply in replies} == {200}
    made, asked = (after - then for after, then in zip(calls(server), before, strict=True))
    assert asked == 24
    assert made < 20
    alone = toy.recommendations(
        [one["histories"][0] for one in requests], 5, protocol="exact", blocks=[one["block"] for one in requests],
        exclude_history=True,
    )  # fmt: skip
    lists = [[entry["item"] for entry in reply.json["lists"][0]["items"]] for reply in replies]
    assert lists == alone.items.tolist()


def test_a_full_queue_and_a_late_answer_are_told(toy_run: Path) -> None:
    slow = {"histories": [[i, i + 1, i + 2] for i in range(30)], "k": 50, "protocol": "exact"}
    with serving(toy_run, "--queue", 2, "--timeout", 60, "--protocol", "exact") as server:
        replies = together(server, [slow | {"k": 50 - i} for i in range(8)])
        assert {reply.status for reply in replies} == {200, 503}
        for reply in replies:
            if reply.status == 503:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json["detail"].startswith("too many requests are waiting; ask again in ")
        assert [reply.status for reply in replies].count(200) >= 3
    with serving(toy_run, "--timeout", 0.1, "--protocol", "exact") as server:
        reply = server.recommend(**slow)
        assert (reply.status, reply.json["detail"]) == (504, "not answered within 0.1 s; ask for less")
        with socket.create_connection(("127.0.0.1", server.port)) as sent:
            sent.sendall(
                f"POST /v1/recommend HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: 9\r\n\r\n".encode()
            )
            assert sent.recv(1000).startswith(b"HTTP/1.1 408 ")
        while server.recommend(histories=[["1"]], k=1).status != 200:
            time.sleep(0.1)


def test_requests_under_way_are_answered_before_the_end_and_histories_are_not_logged(toy_run: Path) -> None:
    slow = {"histories": [["Alien (1979)", i] for i in range(30)], "protocol": "exact"}
    with serving(toy_run, "--timeout", 60, "--protocol", "exact") as server, ThreadPoolExecutor(4) as threads:
        server.ask("POST", "/v1/recommend", {"histories": "Alien (1979)"})
        server.ask("GET", "/v1/items?q=Alien")
        replies = [threads.submit(server.recommend, **slow, k=k) for k in (17, 18, 19, 20)]
        until = time.monotonic() + 60
        while "sprec_requests_waiting 3.0" not in server.ask("GET", "/metrics").text and time.monotonic() < until:
            time.sleep(0.01)
        printed = server.stop()
        assert [reply.result().status for reply in replies] == [200] * 4
    assert printed.splitlines() == ["stopped"]


def test_a_new_run_is_taken_over_without_a_dropped_request(shop: Path, tmp_path: Path) -> None:
    """The new run knows five items only; a damaged one changes nothing."""
    shutil.copytree(shop / "run", tmp_path / "live")
    data = Dataset.load(shop / "data")
    keep = data.catalog.frame().head(5)
    small = Dataset("small", type(data.catalog).of_frame(keep), {"train": data.train[:0]}, (), data.wording)
    few = small.train.of([([0, 1], 2), ([3], 4)])
    small = Dataset("small", small.catalog, {"train": few, "test": few}, (), data.wording).save(tmp_path / "data")
    run(resolve("demo", ["method=popularity", "recommend.top_k=2"]), small, tmp_path / "next")
    with serving(tmp_path / "live") as server, ThreadPoolExecutor(4) as threads:
        going = True

        def ask() -> set[tuple[int, int]]:
            seen = set()
            while going:
                reply = server.recommend(histories=[[]], k=30)
                seen.add((reply.status, len(reply.json["lists"][0]["items"])))
            return seen

        asking = [threads.submit(ask) for _ in range(4)]
        (tmp_path / "live").rename(tmp_path / "old")
        assert server.ask("POST", "/v1/reload").status == 422
        assert server.ask("GET", "/v1/runs").json["runs"][0]["items"] == 30
        (tmp_path / "next").rename(tmp_path / "live")
        server.process.send_signal(1)
        while server.ask("GET", "/v1/runs").json["runs"][0]["items"] != 5:
            time.sleep(0.05)
        time.sleep(0.2)
        going = False
        seen = set().union(*(one.result() for one in asking))
        assert seen == {(200, 30), (200, 5)}
        assert 'sprec_reloads_total{outcome="refused"} 1.0' in server.ask("GET", "/metrics").text
        assert "serving live anew" in server.stop()
