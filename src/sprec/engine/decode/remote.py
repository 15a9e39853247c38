"""Completing prompts on a server with the OpenAI completions API: vLLM, SGLang, ``transformers serve``.

The server gets the weights by path: a whole model is named by its folder, adapters are loaded under a new name. Prompts
are sent as token ids to servers that accept them, else as text.
"""

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from sprec.config import Server
from sprec.engine.batches import in_batches
from sprec.engine.decode.generation import Completion, Decoding
from sprec.engine.model.policy import Policy
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.progress import say

COMPLETIONS = "/v1/completions"
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts of a request that found no server, or an overloaded or failing one (429, 5xx)."""
LARGEST = 1 << 20
"""Maximum bytes of an answer; 128 tokens in JSON are a few kilobytes."""


@dataclass(frozen=True)
class Served:
    """Weights on a server.

    Attributes:
        server: where it listens.
        model: their name in requests: a folder, or the name of adapters.
        adapters: whether they are adapters that :func:`load_adapters` added to the server's model.
    """

    server: Server
    model: str
    adapters: bool = False


def complete(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    served: Served,
    *,
    description: str = "generate",
    journal: Path | None = None,
) -> list[list[Completion]]:
    """Complete prompts until the end token or the limit, as :func:`sprec.engine.decode.generation.generate` does.

    Args:
        policy: its tokenizer and end token are used, not its weights.
        prompts: token ids, at least one each.
        decoding: greedy or sampled; each draw j of prompt i is requested with its own seed.
        served: the server, and the name of the weights there.
        description: for the progress bar.
        journal: a folder that keeps finished prompts.

    Returns:
        The completions of each prompt; their tokens spell the server's texts, log-probabilities are unknown (NaN).

    Raises:
        UserError: the server cannot be reached, answers with an error or with another model; or the mode is beam.
    """
    if decoding.mode == "beam":
        raise UserError("a server completes greedy and sampled, not by beams; use decode=sample, or server=null")
    asking = _Asking(policy, prompts, decoding, served)
    with asking.ahead() as work:
        rows = [[row] for row in range(len(prompts))]
        found: list[list[tuple[str, bool]]] = in_batches(rows, work, description, journal=journal)
    spelled = iter(policy.encode_completions([text for own in found for text, _ in own], end=False))
    return [[Completion(tuple(next(spelled)), float("nan"), done) for _, done in own] for own in found]


@dataclass(frozen=True)
class _Asking:
    """The requests of one call of :func:`complete`."""

    policy: Policy
    prompts: Sequence[Sequence[int]]
    decoding: Decoding
    served: Served

    @contextmanager
    def ahead(self) -> Iterator[Callable[[list[int]], list[Any]]]:
        """The answers of one row at a time, while the requests of later rows are already running."""
        count = self.decoding.count if self.decoding.mode == "sample" else 1
        waiting = deque(processes.share(range(len(self.prompts))))
        running: dict[int, list[Future[tuple[str, bool]]]] = {}
        width = self.served.server.concurrency
        pool = ThreadPoolExecutor(width)

        def work(rows: list[int]) -> list[Any]:
            row = rows[0]
            _ = self.takes_tokens  # ask once, before the threads start
            for passed in [other for other in running if other < row]:  # these were in the journal
                del running[passed]
            while waiting and (waiting[0] <= row or len(running) < 2 * width):
                other = waiting.popleft()
                if other >= row:
                    running[other] = [pool.submit(self._ask, other, draw) for draw in range(count)]
            return [[future.result() for future in running.pop(row)]]

        try:
            yield work
        finally:
            pool.shutdown(cancel_futures=True)

    @cached_property
    def takes_tokens(self) -> bool:
        """Whether the server accepts token ids; one that does not answers 400 or 422."""
        fields = self._fields(0, 0, tokens=True) | {"max_tokens": 1}
        takes = _post(self.served.server, COMPLETIONS, fields)[0] not in (400, 422)
        if not takes:
            texts = self.policy.decode(self.prompts)
            pairs = zip(self.policy.encode_prompts(texts), self.prompts, strict=True)
            if other := sum(list(read) != list(prompt) for read, prompt in pairs):
                say(f"! {self.served.server.url} takes text only, and reads {other} prompts as other tokens")
        return takes

    def _ask(self, row: int, draw: int) -> tuple[str, bool]:
        """The text of a completion, and whether it ended by itself."""
        server = self.served.server
        status, text = _post(server, COMPLETIONS, self._fields(row, draw, self.takes_tokens))
        try:
            content = storage.parsed(text) if status == 200 else {}
            choice, model = content["choices"][0], content.get("model", self.served.model)
            answer = _title(choice["text"]), choice["finish_reason"] == "stop"
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"the server at {server.url} answers {status}: {text[:300]}") from error
        if model not in (self.served.model, f"{self.served.model}@main"):
            raise UserError(f"the server at {server.url} answers with {model}, not with {self.served.model}")
        return answer

    def _fields(self, row: int, draw: int, tokens: bool) -> dict[str, Any]:
        """A request. What models and servers set by default (top-k, penalties, other ends) must not change a draw."""
        decoding, end, prompt = self.decoding, self.policy.end, list(self.prompts[row])
        sampled = decoding.mode == "sample"
        seed = int(np.random.SeedSequence([decoding.seed, row, draw]).generate_state(1)[0] >> 1)  # servers take 31 bits
        fields = {
            "model": self.served.model,
            "prompt": prompt if tokens else self.policy.decode([prompt])[0],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature if sampled else 0.0,
            "top_p": 1.0,
        } | ({"seed": seed} if sampled else {})
        plain: dict[str, Any] = {"repetition_penalty": 1.0}
        if not tokens:  # transformers serve refuses unknown fields, and samples only with this one
            more = plain | {"do_sample": sampled, "top_k": 0, "eos_token_id": end}
            return fields | {"generation_config": json.dumps(more)}
        more = plain | {"top_k": -1, "stop_token_ids": [end]}
        # vLLM selects adapters by ``model``, SGLang by ``lora_path``, without which it uses the base model
        return fields | more | ({"lora_path": self.served.model} if self.served.adapters else {})


def load_adapters(server: Server, name: str, folder: Path) -> Served:
    """Load the adapters of a folder on a server that runs their base model; free if they are there already.

    Args:
        server: where it listens.
        name: must differ for other weights: servers cache results by name (vLLM issue 42125).
        folder: the adapters, under the same path on the server.

    Raises:
        UserError: the server cannot be reached, or does not load them.
    """
    refused = []
    for path in ("/v1/load_lora_adapter", "/load_lora_adapter"):  # vLLM, SGLang
        status, text = _post(server, path, {"lora_name": name, "lora_path": str(folder.absolute())})
        if status == 200 or "already" in text:
            return Served(server, name, adapters=True)
        refused.append(f"{path}: {status} {text[:200]}")
        if status not in (404, 405):
            break
    raise UserError(
        f"the server at {server.url} loads no adapters ({'; '.join(refused)}); start vLLM with --enable-lora and "
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, SGLang with --enable-lora; transformers serve has no adapters"
    )


def _post(server: Server, path: str, fields: Mapping[str, Any]) -> tuple[int, str]:
    """Status and body of an answer; temporary failures (no connection, 429, 5xx) are retried.

    Raises:
        UserError: the last attempt failed, too.
    """
    for delay in (*BACKOFF, 0.0):
        try:
            status, text = _request(server, path, json.dumps(fields))
            if status < 500 and status != 429:
                return status, text
            problem = f"answers {status}: {text[:300]}"
        except TimeoutError as error:
            raise UserError(f"{server.url} gave no answer in {server.timeout:g} s; raise server.timeout") from error
        except OverflowError as error:
            raise UserError(f"the server at {server.url} answers with more than {LARGEST >> 20} MiB") from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an impossible port
            problem = f"cannot be reached ({error or type(error).__name__}); start it, or set server=null"
        if delay:
            time.sleep(delay)
    raise UserError(f"the server at {server.url} {problem}")


def _title(text: Any) -> str:
    """The text of a choice, without lone surrogates (halves of characters).

    Raises:
        TypeError: it is not text.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {type(text).__name__}")
    return text.encode("utf-8", "replace").decode()


def _request(server: Server, path: str, body: str) -> tuple[int, str]:
    """Status and body of an answer.

    Raises:
        TimeoutError: it was not complete in time.
        OverflowError: it is larger than :data:`LARGEST`.
    """
    parts = urlsplit(server.url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(kind(parts.hostname or "", parts.port, timeout=server.timeout)) as connection:
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        connection.connect()
        with _until(server.timeout, connection.sock):
            connection.request("POST", prefix + path, body.encode(), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise OverflowError
        return answer.status, content.decode("utf-8", "replace")


@contextmanager
def _until(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Close the connection when the block takes longer: the timeout of a socket restarts with every byte.

    Raises:
        TimeoutError: it took longer.
    """
    over: list[bool] = []

    def hang_up() -> None:
        over.append(True)
        with suppress(OSError):  # it has ended already
            connection.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPException, ValueError):
        if not over:
            raise
    finally:
        timer.cancel()
    if over:
        raise TimeoutError
