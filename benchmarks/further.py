"""What it costs, and what it gives, to train a model further instead of anew: ``python benchmarks/further.py OUT``.

The demo's data grow by a third. One run trains anew on all of it, one goes on from the run on what was there before.
Both are tested on the same users. Writes ``results/further.json``.
"""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sprec.data import Dataset
from sprec.data.demo import demo
from sprec.evaluation import bootstrap, compare
from sprec.runs.pipeline import load_results
from sprec.study.compare import evaluations_of
from sprec.system import storage

OUT = Path(__file__).parents[1] / "results" / "further.json"
BEFORE = 1500
"""Rows of the training and of the extra split that were there before; the demo has 2,000 of each."""
METRICS = ("NDCG@5", "HR@5", "DivRatio@1", "ORRatio@1")


def save_data(folder: Path) -> None:
    """The demo's data as they are, and as they were before."""
    whole = demo()
    first = {name: whole.splits[name][:BEFORE] for name in ("train", "extra")}
    replace(whole, splits={**whole.splits, **first}).save(folder / "before")
    whole.save(folder / "now")


def timed(folder: Path, data: str, name: str, *more: str) -> float:
    """Run the recipe demo in a process of its own; its seconds of the processor, when it was first run."""
    known = folder / f"{name}.json"
    if not known.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["run", "demo", "--data", str(folder / data), "-o", str(folder / name), *more]
        subprocess.run([sys.executable, "-m", "sprec", *command], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        storage.write_json(known, {"processor": round(used, 1)})
    return float(storage.read_json(known)["processor"])


def main(folder: Path) -> None:
    """Train three times and compare."""
    if not (folder / "now").exists():
        save_data(folder)
    timed(folder, "before", "run-before")
    times = {
        "anew": timed(folder, "now", "run-anew"),
        "further": timed(folder, "now", "run-further", "--from", str(folder / "run-before")),
    }
    data = Dataset.load(folder / "now")
    samples, found = {}, dict[str, Any]()
    for name in ("before", *times):
        lists = evaluations_of(folder / f"run-{name}")[-1].lists
        cases = lists.cases(data, "test", np.arange(len(lists.rows)), (1, 5))
        samples[name] = bootstrap([cases], metrics=METRICS)
        metrics = load_results(folder / f"run-{name}")[-1].metrics
        found[name] = {"processor": times.get(name), "metrics": {metric: metrics[metric] for metric in METRICS}}
    pairs = {name: compare(samples["further"], samples[name]) for name in ("before", "anew")}
    differences = {
        name: {metric: [own[metric].value, own[metric].low, own[metric].high] for metric in METRICS}
        for name, own in pairs.items()
    }
    rows = {"before": BEFORE, "now": len(data.train)}
    storage.write_json(OUT, {"rows": rows, "runs": found, "further_minus": differences, "versions": storage.versions()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
