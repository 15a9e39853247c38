"""Both sides in turn, each in its own process; the results are medians, spreads and ratios."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, TextIO

from sprec.bench.measure import precision
from sprec.bench.work import COUNT, Work
from sprec.system.errors import UserError
from sprec.system.progress import Bar

CLOSE = 1e-3
"""How much the losses of the two sides may differ."""
BF16_CLOSE = 5e-3
"""The same in bf16, where a loss of 8 has steps of 3e-2 in single numbers and their mean of about 1e-3."""
ALIKE = 0.9
"""Share of the answers that both sides must have in common: rounding breaks ties, after which answers differ."""
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        name: of the part.
        engine: the engine's work.
        peers: for each peer the works that together do the same.
        whole: measure processes from start to end, not only their repetitions.
    """

    name: str
    engine: Work
    peers: Mapping[str, tuple[Work, ...]]
    whole: bool = False


class Worker:
    """A side that waits in its own process, prepared for its ``work``; its stderr goes to ``log``."""

    def __init__(self, work: Work, log: TextIO) -> None:
        command = [sys.executable, "-m", "sprec.bench.worker", json.dumps(asdict(work))]
        self.work = work
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def ready(self) -> None:
        """Wait until it is prepared."""
        self._read()

    def repeat(self, *, count: bool = False) -> Answer:
        """Do the work once, and ``count`` its operations if asked to."""
        stdin = self.process.stdin
        if stdin is not None and self.process.poll() is None:
            stdin.write(f"{COUNT if count else ''}\n")
            stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> Answer:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise UserError(
                f"the side {self.work.side} of part {self.work.part} ended with code {self.process.wait()}; "
                "its messages are in the log that --log names"
            )
        answer: Answer = json.loads(line)
        return answer


@contextmanager
def working(work: Work, log: TextIO) -> Iterator[Worker]:
    """A :class:`Worker` of a ``work`` and a ``log`` for the length of a block."""
    worker = Worker(work, log)
    try:
        worker.ready()
        yield worker
    except BaseException:
        worker.process.kill()  # it may be in the middle of minutes of work
        raise
    finally:
        worker.close()


def compare(part: Part, repeats: int, log: TextIO, progress: Bar) -> dict[str, Any]:
    """Run a ``part``: ``repeats`` repetitions of each side in turn, after one that does not count.

    The output of the sides goes to ``log``; ``progress`` advances by one per repetition.

    Raises:
        UserError: the sides do not compute the same, one of them ended, or memory ran out.
    """
    measure = _whole if part.whole else _resident
    answers = measure(part, repeats, log, progress)
    if any(answer["shortages"] for answer in answers["engine"]):
        raise UserError(f"{part.name}: memory ran out here, and the work went on in smaller pieces; lower --tokens")
    peers = {}
    for name in part.peers:
        check_same(part, name, answers["engine"][0], answers[name][0])
        peers[name] = _versus(answers["engine"], answers[name])
    return {
        "part": part.name,
        "samples": part.engine.samples,
        "engine": _summary(answers["engine"]),
        "peers": peers,
        **{key: answers["engine"][0][key] for key in ("flops", "prompt_tokens", "own_prompt_tokens", "answer_tokens")},
    }


def _resident(part: Part, repeats: int, log: TextIO, progress: Bar) -> dict[str, list[Answer]]:
    works = {"engine": part.engine} | {name: works[0] for name, works in part.peers.items()}
    answers: dict[str, list[Answer]] = {name: [] for name in works}
    operations: dict[str, int] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(working(work, log)) for name, work in works.items()}
        for round_ in range(repeats + 1):
            for name, worker in workers.items():
                answer = worker.repeat(count=not round_)  # the first one warms up
                operations.setdefault(name, answer["operations"])
                if round_:
                    answers[name].append({**answer, "operations": operations[name]})
            progress.advance(1, part.name)
    return answers


def _whole(part: Part, repeats: int, log: TextIO, progress: Bar) -> dict[str, list[Answer]]:
    sides = {"engine": (part.engine,), **part.peers}
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, works in sides.items():
            wall, cpu = time.perf_counter(), _cpu_of_children()
            own = [_once(work, log) for work in works]
            spent = {"wall": time.perf_counter() - wall, "cpu": _cpu_of_children() - cpu}
            peak = {key: max(answer[key] for answer in own) for key in ("peak", "above", "shortages")}
            answers[name].append({**own[0], **spent, **peak, "losses": [], "found": []})
        progress.advance(1, part.name)
    return answers


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _once(work: Work, log: TextIO) -> Answer:
    with working(work, log) as worker:
        return worker.repeat()


def check_same(part: Part, peer: str, ours: Answer, theirs: Answer) -> None:
    """Refuse a ``part`` in which the answers or losses of the engine (``ours``) and a ``peer`` (``theirs``) differ.

    Losses are compared step by step; from the second on they depend on the gradients.

    Raises:
        UserError: names the first difference.
    """
    limit = CLOSE if precision(part.engine.device) == "fp32" else BF16_CLOSE
    losses = zip(ours["losses"], theirs["losses"], strict=bool(theirs["losses"]))
    for step, (one, two) in enumerate(losses, 1):
        if not abs(one - two) <= limit:
            raise UserError(
                f"{part.name}: the loss of step {step} is {one:.5f} here and {two:.5f} with {peer}; "
                "the two sides disagree"
            )
    share = _share_alike(ours, theirs)
    if share is not None and share < ALIKE:
        raise UserError(
            f"{part.name}: {1 - share:.0%} of the answers differ from those of {peer}; they should be the same"
        )


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    times = [answer["wall"] for answer in answers]
    middle = median(times)
    return {
        "seconds": middle,
        "low": min(times),
        "high": max(times),
        "cpu_seconds": median(answer["cpu"] for answer in answers),
        "tokens_per_second": answers[0]["tokens"] / middle,
        "peak_mib": max(answer["peak"] for answer in answers),
        "above_mib": max(answer["above"] for answer in answers),
        "losses": answers[0]["losses"][:3],
        "operations": answers[0]["operations"],
    }


def _versus(ours: Sequence[Answer], theirs: Sequence[Answer]) -> dict[str, Any]:
    summary = _summary(theirs)
    pairs = [two["wall"] / one["wall"] for one, two in zip(ours, theirs, strict=True)]
    apart = [abs(one - two) for one, two in zip(ours[0]["losses"], theirs[0]["losses"], strict=False)]
    return summary | {
        "ratio": summary["seconds"] / _summary(ours)["seconds"],
        "cpu_ratio": summary["cpu_seconds"] / _summary(ours)["cpu_seconds"],
        "ratio_low": min(pairs),
        "ratio_high": max(pairs),
        "peak_share": _summary(ours)["peak_mib"] / summary["peak_mib"],
        "first_loss_apart": apart[0] if apart else None,
        "largest_loss_apart": max(apart) if apart else None,
        "same_results": _share_alike(ours[0], theirs[0]),
    }


def _share_alike(ours: Answer, theirs: Answer) -> float | None:
    """Share of the answers that are the same on both sides; None where there are none."""
    same = [_alike(one, two) for one, two in zip(ours["found"], theirs["found"], strict=bool(theirs["found"]))]
    return sum(same) / len(same) if same else None


def _alike(one: Any, two: Any) -> bool:
    """Whether items are equal, texts up to where our limit cut them, log-probabilities up to bf16's precision."""
    if isinstance(one, float):
        return bool(abs(one - two) <= BF16_CLOSE * abs(two))
    if isinstance(one, str):
        return bool(two.startswith(one.rstrip("\ufffd")))  # what is left of a letter of which some bytes were cut off
    return bool(one == two)


NOBODY = "none"
"""As the only peer: the engine is measured alone, and needs no packages of others."""


def parts(base: Work, names: Sequence[str], negatives: Sequence[int], peers: Sequence[str] = ()) -> list[Part]:
    """The comparisons of these ``names``.

    Args:
        base: the work that all share.
        names: of parts; all if empty.
        negatives: their numbers in the preference part.
        peers: those to compare with; all by default, and :data:`NOBODY` for the engine alone.

    Raises:
        UserError: an unknown part or peer.
    """
    for peer in peers:
        if peer not in PEERS and peer != NOBODY:
            raise UserError(f"there is no peer {peer!r}; peers: {', '.join(PEERS)}, or {NOBODY}")
    found = [part for name in names for part in _comparisons(base, name, negatives)]
    if not peers:
        return found
    return [replace(part, peers={name: works for name, works in part.peers.items() if name in peers}) for part in found]


def _comparisons(base: Work, name: str, negatives: Sequence[int]) -> list[Part]:
    work = replace(base, part=name, side="engine")
    if name == "dpo":
        works = {count: replace(work, negatives=count) for count in negatives}
        return [Part(f"dpo-{count}", own, _sides(own, _TRAINERS)) for count, own in works.items()]
    if name == "iteration":
        return [_iteration(base)]
    if name == "million":
        return [Part(part, replace(base, part=part, samples=size), {}) for part, size in _MILLION.items()]
    if name == "evaluation":
        return [Part(name, replace(work, samples=_CASES), {})]
    if name in _PEERS:
        work = replace(work, samples=_ANSWERS) if name.startswith("grounding") else work
        return [Part(name, work, _sides(work, _PEERS[name]))]
    raise UserError(f"there is no part {name!r}; parts: {', '.join(PARTS)}")


def _sides(work: Work, peers: Sequence[str]) -> dict[str, tuple[Work, ...]]:
    return {peer: (replace(work, side=peer),) for peer in peers}


_TRAINERS = ("trl", "trl-tuned")
_PEERS = {
    "sft": _TRAINERS,
    "rollout": ("official", "tuned"),
    "beam": ("hf",),
    "grounding": ("argsort",),
    "grounding-repeated": ("argsort",),
}
PEERS = tuple(dict.fromkeys(["scripts", *(name for names in _PEERS.values() for name in names)]))
_ANSWERS = 1000  # of the parts that ground
_MILLION = {"million-tokens": 1_000_000, "million-trie": 1_000_000, "million-grounding": _ANSWERS}
_CASES = 1000  # that the paper evaluates
PARTS = ("dpo", "sft", "rollout", "grounding", "grounding-repeated", "beam", "iteration", "evaluation", "million")
"""``evaluation`` and ``million`` have no peer: what 1,000 cases and a catalog of a million items cost here."""


def _iteration(base: Work) -> Part:
    stages = (("rollout", "official"), ("sft", "trl"), ("dpo", "trl"), ("evaluate", "hf"))
    works = [replace(base, part=part, side=side) for part, side in stages]
    works[-1] = replace(works[-1], samples=max(1, base.samples // 2))
    return Part("iteration", replace(base, part="iteration", side="engine"), {"scripts": tuple(works)}, whole=True)
