"""What D3's constraint and assistant cost beside the model: ``python benchmarks/d3.py DATASET [--cases 256]``.

A random model of 2 million parameters, real prompts, beams of width 10 over the titles of the dataset, a random
assistant. Counted is the work of a beam step that plain decoding does not have: children from the trie, the
assistant's mass below them, the choice among them. The softmax over the vocabulary belongs to any decoding. Prints one
JSON line.
"""

import argparse
import cProfile
import json
import pstats
import tempfile
from datetime import date
from pathlib import Path

import torch

from sprec.bench.report import machine
from sprec.bench.work import Work, make_model
from sprec.data import Dataset
from sprec.engine.decode.constrained import Search, best_leaves
from sprec.methods.d3 import guidance
from sprec.prompts import PromptBuilder
from sprec.recommend.exact import catalog_trie

REPEATS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cases", type=int, default=256)
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.dataset)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), "2m", dataset, "auto")
        work = Work("beam", "engine", folder, str(arguments.dataset), arguments.cases)
        policy = work.policy()
    trie = catalog_trie(policy, PromptBuilder(dataset.catalog, dataset.wording))
    asked = policy.encode_prompts(work.texts().prompts)
    scores = torch.randn(arguments.cases, len(dataset.catalog), generator=torch.Generator().manual_seed(0))
    guide = guidance(trie, lambda rows: scores[list(rows)], 0.8)
    shares, seconds = [], []
    for repeat in range(REPEATS + 1):
        profile = cProfile.Profile()
        profile.runcall(best_leaves, policy, asked, trie, Search(count=5, width=10), guide=guide)
        whole, own = _seconds(profile)
        if repeat:  # the first one warms up
            shares.append(own / whole)
            seconds.append(whole)
    record = {
        "date": date.today().isoformat(), "data": dataset.name, "items": len(dataset.catalog),
        "cases": arguments.cases, "seconds": sorted(seconds)[REPEATS // 2], "share": sorted(shares)[REPEATS // 2],
        "share_low": min(shares), "share_high": max(shares), "machine": machine("auto"),
    }  # fmt: skip
    print(json.dumps(record))


def _seconds(profile: cProfile.Profile) -> tuple[float, float]:
    """Of a whole search, and of its constrained steps without the model and the softmax."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    spent = {(Path(file).name, name): cumulative for (file, _, name), (_, _, _, cumulative, _) in stats.items()}
    own = [("constrained.py", "_extend"), ("constrained.py", "below"), ("d3.py", "of_batch")]
    return spent["constrained.py", "best_leaves"], sum(spent[key] for key in own)


if __name__ == "__main__":
    main()
