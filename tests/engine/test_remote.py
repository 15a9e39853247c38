"""Completions of a server equal the engine's; failing servers are retried, wrong ones refused."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from test_generation import likely_to_end
from test_scoring import load

from sprec.config import Server
from sprec.data.demo import demo
from sprec.engine.decode import remote as http
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.decode.remote import Served, complete, load_adapters
from sprec.engine.model.policy import Policy
from sprec.runs import run
from sprec.runs.recipes import resolve
from sprec.runs.rollouts import FILE
from sprec.system.errors import UserError
from toy_models import TITLES

TEXTS = [f'"{one}", "{two}"\n' for one in TITLES[:4] for two in TITLES[4:8]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server; it ends with the tests of this file."""
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path_factory.mktemp("serve") / "log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        server = subprocess.Popen([*command, "--port", url.rsplit(":")[-1]], stdout=file, stderr=file, env=environment)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urlopen(f"{url}/health", timeout=5) as answer:
                assert json.load(answer) == {"status": "ok"}
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
        else:
            pytest.fail(f"transformers serve did not start:\n{log.read_text()}")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def texts(policy: Policy, found: Any) -> list[list[str]]:
    return [policy.decode([one.tokens for one in own]) for own in found]


def test_greedy_equals_the_engine(transformers_serve: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    policy = load(checkpoint("llama"))
    asked, decoding = policy.encode_prompts(TEXTS), Decoding(max_new_tokens=12)
    served = Served(Server(url=transformers_serve, concurrency=4), str(checkpoint("llama")))
    expected = generate(policy, asked, decoding)
    found = complete(policy, asked, decoding, served, journal=tmp_path)
    assert texts(policy, found) == texts(policy, expected)
    assert len({text for own in texts(policy, found) for text in own}) > 4
    nobody = Served(Server(url="http://127.0.0.1:1"), str(checkpoint("llama")))
    assert texts(policy, complete(policy, asked, decoding, nobody, journal=tmp_path)) == texts(policy, expected)


def test_what_the_checkpoint_says_of_generating_does_not_count(
    transformers_serve: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Instruction-tuned models come with penalties, sampling and other end tokens."""
    policy = likely_to_end(load(checkpoint("llama")), bias=0.1)
    policy.save(tmp_path)
    settings = {"eos_token_id": 7, "repetition_penalty": 2.0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    asked, decoding = policy.encode_prompts(TEXTS), Decoding(max_new_tokens=12)
    expected = generate(policy, asked, decoding)
    found = complete(policy, asked, decoding, Served(Server(url=transformers_serve), str(tmp_path)))
    assert texts(policy, found) == texts(policy, expected)
    assert [one.finished for (one,) in found] == [one.finished for (one,) in expected]
    assert {one.finished for (one,) in found} == {True, False}


def test_samples_come_from_all_tokens_and_from_their_seeds(
    transformers_serve: str, checkpoint: Callable[[str], Path]
) -> None:
    policy = load(checkpoint("llama"))
    asked, decoding = policy.encode_prompts(TEXTS[:1]), Decoding(mode="sample", count=200, max_new_tokens=1, seed=5)
    served = Served(Server(url=transformers_serve, concurrency=1), str(checkpoint("llama")))
    (found,) = texts(policy, complete(policy, asked, decoding, served))
    assert len(found) == 200
    assert len(set(found)) > 60  # the default would be the best 50 tokens
    assert texts(policy, complete(policy, asked, replace(decoding, count=20), served)) == [found[:20]]


def test_a_folder_without_a_model_ends_in_one_line(
    transformers_serve: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BACKOFF", ())
    policy, server = load(checkpoint("llama")), Server(url=transformers_serve)
    with pytest.raises(UserError, match=r"answers 500: Internal Server Error"):
        complete(policy, [[5, 6]], Decoding(), Served(server, str(tmp_path)))
    with pytest.raises(UserError, match=r"loads no adapters .*404.*--enable-lora"):
        load_adapters(server, "new", tmp_path)


def test_a_run_has_the_same_rollouts(transformers_serve: str, tmp_path: Path) -> None:
    """All weights of a stage reach the server, and only the place of the computation differs."""
    dataset = demo(0, train=160, valid=4, test=8, extra=0, history=3).save(tmp_path / "data")
    small = {"hidden": 64, "layers": 1, "heads": 2, "vocabulary": 600, "epochs": 10, "batch": 16, "lr": 0.02}
    toy = ["precision=fp32", "device=cpu", "sft.epochs=0", "loop.iterations=1", "loop.samples=12", "cases=8"]
    toy += ["loop.sft_step=false", "backbone.warmup_steps=5", *(f"backbone.{key}={small[key]}" for key in small)]
    for name, server in (("here", []), ("there", [f"server={{url: {transformers_serve}, concurrency: 2}}"])):
        run(resolve("demo", [*toy, *server]), dataset, tmp_path / name, shared=tmp_path / "shared")
    here, there = (next((tmp_path / name / "stages").glob(f"*/{FILE}")).read_text() for name in ("here", "there"))
    assert here == there
    assert len(here.splitlines()) > 6  # titles, most of them


Answer = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[Server]:
    """A server that answers with what a function of path and fields returns, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = answer(self.path, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Server(url=f"http://127.0.0.1:{server.server_port}/v1", concurrency=3)
        finally:
            server.shutdown()
            thread.join()


def spoken(fields: dict[str, Any], text: str) -> tuple[int, dict[str, Any]]:
    return 200, {"model": fields["model"], "choices": [{"text": text, "finish_reason": "stop"}]}


@pytest.fixture
def policy(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.setattr(http, "BACKOFF", (0.01, 0.02))
    return load(checkpoint("llama"))


def test_answers_come_in_order_whatever_fails_first(policy: Policy) -> None:
    """Every request fails once with 503 and once by a closed connection, and some take longer."""
    seen: dict[str, int] = {}

    def answer(_: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = json.dumps(fields)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] == 1:
            return 503, {"error": "busy"}
        if seen[name] == 2:
            raise ConnectionAbortedError
        time.sleep(0.05 * (fields["prompt"][0] % 3 == 0))
        return spoken(fields, f"{fields['prompt'][0]}")

    with answering(answer) as server:
        found = complete(policy, [[row] for row in range(20)], Decoding(), Served(server, "m"))
    assert texts(policy, found) == [[str(row)] for row in range(20)]
    assert all(one.finished for (one,) in found)


def test_it_gives_up(policy: Policy) -> None:
    tries: list[str] = []

    def answer(path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        tries.append(path)
        return 500, {"error": "broken"}

    with answering(answer) as server, pytest.raises(UserError, match=r"answers 500: .*broken"):
        complete(policy, [[5]], Decoding(), Served(server, "m"))
    assert tries == ["/v1/completions"] * 3
    with pytest.raises(UserError, match=r"cannot be reached .*refused.*; start it, or set server=null"):
        complete(policy, [[5]], Decoding(), Served(server, "m"))


def test_an_answer_that_never_comes(policy: Policy) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server = Server(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        with pytest.raises(UserError, match=r"no answer in 0\.2 s; raise server\.timeout"):
            complete(policy, [[5]], Decoding(), Served(server, "m"))


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (
            200,
            {"model": "other", "choices": [{"text": "x", "finish_reason": "stop"}]},
            "answers with other, not with m",
        ),
        (404, {"error": {"message": "The model `m` does not exist."}}, "answers 404: .*does not exist"),
        (200, {"choices": []}, "answers 200: "),
        (200, {"choices": [{}]}, "answers 200: "),
        (400, {"detail": "pinned to 'x'"}, "answers 400: .*pinned"),
    ],
)
def test_wrong_answers_are_refused(policy: Policy, status: int, content: dict[str, Any], message: str) -> None:
    with answering(lambda *_: (status, content)) as server, pytest.raises(UserError, match=message):
        complete(policy, [[5], [6]], Decoding(), Served(server, "m"))


def test_no_draw_depends_on_what_servers_set_by_default(policy: Policy) -> None:
    asked: list[dict[str, Any]] = []

    def answer(_: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        asked.append(fields)
        return spoken(fields, "x")

    decoding = Decoding(mode="sample", count=3, temperature=0.7, max_new_tokens=9, seed=1)
    with answering(answer) as server:
        complete(policy, [[5, 6], [7]], decoding, Served(server, "m"))
    draws = sorted(asked[1:], key=lambda fields: (fields["prompt"], fields["seed"]))
    assert [fields["prompt"] for fields in draws] == [[5, 6]] * 3 + [[7]] * 3
    assert len({fields["seed"] for fields in draws}) == 6
    plain = {"temperature": 0.7, "max_tokens": 9, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert all(fields | plain == fields and fields["stop_token_ids"] == [policy.end] for fields in draws)


def test_adapters_are_loaded_where_the_server_has_a_place_for_them(policy: Policy, tmp_path: Path) -> None:
    loaded: dict[str, str] = {}

    def answer(path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/load_lora_adapter":
            known = fields["lora_name"] in loaded
            loaded[fields["lora_name"]] = fields["lora_path"]
            return (400, {"message": "has already been loaded"}) if known else (200, {})
        if path == "/v1/completions" and loaded.get(fields["lora_path"]) == str(tmp_path):
            return spoken(fields, "adapted")
        return 404, {}

    with answering(answer) as server:
        for _ in range(2):
            served = load_adapters(server, "new", tmp_path)
        assert texts(policy, complete(policy, [[5]], Decoding(), served)) == [["adapted"]]
    too_large: Answer = lambda *_: (400, {"message": "rank 64 is greater"})  # noqa: E731
    with answering(too_large) as server, pytest.raises(UserError, match=r"loads no adapters .*rank 64 is greater"):
        load_adapters(server, "new", tmp_path)


def test_a_run_loads_the_adapters_of_each_stage(policy: Policy, tmp_path: Path) -> None:
    dataset = demo(0, train=40, valid=4, test=4, extra=0, history=3).save(tmp_path / "data")
    loaded: dict[str, str] = {}

    def answer(path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/load_lora_adapter":
            weights = (Path(fields["lora_path"]) / "adapter_model.safetensors").read_bytes()
            loaded[fields["lora_name"]] = sha256(weights).hexdigest()
            return 200, {}
        return spoken(fields, f'"{len(loaded)} {fields["lora_path"]}"\n')

    with answering(answer) as server:
        base = {"kind": "huggingface", "path": policy.tokenizer.name_or_path, "lora": {"r": 2}}
        settings = {"precision": "fp32", "device": "cpu", "backbone": base, "server": server.model_dump(), "cases": 2}
        settings |= {"sft.samples": 8, "sft.epochs": 1, "sft.valid": 4, "loop.iterations": 2, "loop.samples": 4}
        settings |= {"evaluate": "last", "recommend.max_new_tokens": 2, "prefer.lr": 0.01}
        changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        run(resolve("llama-3.2-1b", changes), dataset, tmp_path / "run")
    assert len(set(loaded.values())) == 2, "new weights under a new name"
    files = sorted((tmp_path / "run/stages").glob(f"*/{FILE}"))
    titles = [{json.loads(line)["title"] for line in file.read_text().splitlines()} for file in files]
    assert titles == [{f"{number} {name}"} for number, name in enumerate(loaded, 1)]


def test_beams_are_not_asked_of_servers(policy: Policy) -> None:
    with pytest.raises(UserError, match="not by beams"):
        complete(policy, [[5]], Decoding(mode="beam"), Served(Server(url="http://127.0.0.1:1"), "m"))
    with pytest.raises(UserError, match="greedy and sampled"):
        resolve("demo", ["server={url: 'http://127.0.0.1:1'}", "negatives.decode=beam"])


@contextlib.contextmanager
def saying(*pieces: bytes, pause: float = 0.0) -> Iterator[Server]:
    """A server that answers with these bytes, whatever they are, a pause before each; then it waits."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ended = threading.Event()

        def talk() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.recv(65536)
                    for piece in pieces:
                        ended.wait(pause)
                        connection.sendall(piece)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        try:
            yield Server(url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.5)
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_an_answer_that_drips_has_a_deadline(head: bytes, policy: Policy) -> None:
    """Each byte comes in time, and the answer never: in headers, and in the body."""
    with saying(head, *[b"x"] * 400, pause=0.05) as server:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"no answer in 0\.5 s; raise server\.timeout"):
            complete(policy, [[5]], Decoding(), Served(server, "m"))
        assert time.monotonic() - began < 5


def test_an_endless_answer_is_not_read_to_its_end(policy: Policy) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    with (
        saying(head, *[b"x" * (1 << 18)] * 5) as server,
        pytest.raises(UserError, match="answers with more than 1 MiB"),
    ):
        complete(policy, [[5]], Decoding(), Served(server.model_copy(update={"timeout": 20.0}), "m"))


@pytest.mark.parametrize("text", [None, 3, ["Dune"], {"title": "Dune"}])
def test_a_text_is_a_text(text: Any, policy: Policy) -> None:
    content = {"model": "m", "choices": [{"text": text, "finish_reason": "stop"}]}
    with answering(lambda *_: (200, content)) as server, pytest.raises(UserError, match="answers 200: "):
        complete(policy, [[5]], Decoding(), Served(server, "m"))


def test_half_of_a_character_is_no_title(policy: Policy) -> None:
    with answering(lambda _, fields: spoken(fields, "Du\ud800ne")) as server:
        found = complete(policy, [[5]], Decoding(), Served(server, "m"))
    assert texts(policy, found) == [["Du?ne"]]


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[]", b'{"choices": 3}', b"\xff\xfe"])
def test_bodies_that_are_no_answers_are_one_line(body: bytes, policy: Policy) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    with saying(head + body) as server, pytest.raises(UserError, match="answers 200"):
        complete(policy, [[5]], Decoding(), Served(server, "m"))


@pytest.mark.parametrize("url", ["http://me:s3cret@host:8000", "https://host/v1?api_key=s3cret", "http://host/#s3cret"])
def test_no_recipe_holds_a_secret(url: str) -> None:
    with pytest.raises(UserError, match=r"server.url: an address without user, password") as told:
        resolve("demo", [f"server={{url: '{url}'}}"])
    assert "s3cret" not in str(told.value)
