"""What exact lists cost beside the paper's protocol: ``python benchmarks/exact.py RUN [--cases 1000] [--repeats 5]``.

Both protocols of a finished run recommend to the same cases, in turn, with the settings of the run. The first
repetition does not count. Prints one JSON line: medians, the ratio of each pair, the share of the lists that are
proven, and how much the process grew above its size before the search.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from sprec import Recommender
from sprec.bench.measure import forget_peak, memory, seconds
from sprec.bench.report import machine
from sprec.recommend.protocols import Recommendations

KS = (5, 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    recommender = Recommender.load(arguments.run)
    session = recommender.session
    histories = [list(example.history) for example in session.dataset.test[: arguments.cases]]
    record = {
        "date": date.today().isoformat(), "data": session.dataset.name, "items": len(recommender.catalog),
        "cases": len(histories), "beams": session.recipe.recommend.beams, "repeats": arguments.repeats,
        "k": [_beside(recommender, histories, k, arguments.repeats) for k in KS], "machine": machine("auto"),
    }  # fmt: skip
    print(json.dumps(record))


def _beside(recommender: Recommender, histories: list[list[int]], k: int, repeats: int) -> dict[str, Any]:
    device = recommender.session.device

    def of(protocol: str) -> Callable[[], Recommendations]:
        return lambda: recommender.recommendations(histories, k, protocol=protocol)

    pairs = []
    for repeat in range(repeats + 1):
        paper, _ = seconds(of("paper"), device)
        forget_peak()
        before, _ = memory(device.type == "cuda")
        exact, found = seconds(of("exact"), device)
        _, peak = memory(device.type == "cuda")
        if repeat:
            pairs.append((paper, exact, peak - before))
    assert found.proven is not None
    ratios = [exact.cpu / paper.cpu for paper, exact, _ in pairs]
    return {
        "k": k,
        "paper_seconds": median(paper.wall for paper, _, _ in pairs),
        "exact_seconds": median(exact.wall for _, exact, _ in pairs),
        "ratio": median(exact.wall / paper.wall for paper, exact, _ in pairs),
        "cpu_ratio": median(ratios),
        "cpu_ratio_low": min(ratios),
        "cpu_ratio_high": max(ratios),
        "above_mib": max(above for _, _, above in pairs),
        "proven": float(found.proven.mean()),
    }


if __name__ == "__main__":
    main()
