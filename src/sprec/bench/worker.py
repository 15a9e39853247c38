"""A side in a process of its own: prepares its part, then does one repetition for each line it reads.

The line ``count`` has its operations counted (on CPUs: what is compiled for a GPU cannot be looked into).
Answers are JSON lines on standard output; whatever libraries print goes to standard error.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from sprec.bench.measure import Timed, counted, forget_peak, memory, release
from sprec.bench.work import COUNT, Work
from sprec.system.memory import shortages


def prepared(work: Work) -> Callable[[], Timed]:
    """The repetitions of a side: only what is asked for is imported, so that memory is the side's own."""
    if work.side == "engine":
        from sprec.bench import engine

        return {
            "sft": engine.sft,
            "dpo": engine.dpo,
            "rollout": engine.rollout,
            "beam": engine.beam,
            "grounding": engine.grounding,
            "grounding-repeated": engine.grounding_repeated,
            "evaluation": engine.evaluation,
            "million-tokens": engine.million_tokens,
            "million-trie": engine.million_trie,
            "million-grounding": engine.million_grounding,
            "iteration": engine.iteration,
        }[work.part](work)
    from sprec.bench import peers

    sides: dict[tuple[str, str], Callable[[Work], Callable[[], Timed]]] = {
        ("sft", "trl"): peers.sft,
        ("sft", "trl-tuned"): partial(peers.sft, tuned=True),
        ("dpo", "trl"): peers.dpo,
        ("dpo", "trl-tuned"): partial(peers.dpo, tuned=True),
        ("rollout", "official"): peers.rollout_official,
        ("rollout", "tuned"): peers.rollout_tuned,
        ("beam", "hf"): peers.beam,
        ("grounding", "argsort"): peers.grounding,
        ("grounding-repeated", "argsort"): peers.grounding_repeated,
        ("evaluate", "hf"): peers.evaluate,
    }
    return sides[work.part, work.side](work)


def main() -> None:
    """Read a work, then a line per repetition."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work = Work(**json.loads(sys.argv[1]))
    repetition, on_gpu = prepared(work), work.on_gpu
    forget_peak()
    before, _ = memory(on_gpu)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        short = shortages()
        operations, timed = counted(repetition) if line.strip() == COUNT and not on_gpu else (0, repetition())
        _, peak = memory(on_gpu)
        told = {"peak": peak, "above": peak - before, "shortages": shortages() - short, "operations": operations}
        print(json.dumps(asdict(timed) | timed.spent._asdict() | told), file=answers, flush=True)
        release()


if __name__ == "__main__":
    main()
