"""A side in its own process: prepares its part, then does one repetition for each line it reads.

The line ``count`` asks to count operations as well (on CPUs; code compiled for a GPU cannot be counted).
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
    """The repetition of a ``work``; imports only what its side needs, so that its memory is its own."""
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
    """Prepare the work of the first argument, then do one repetition per line."""
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
