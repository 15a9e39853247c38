"""Training on more samples than fit in memory: ``python benchmarks/out_of_core.py SAMPLES [--folder FOLDER]``.

Generates a dataset of so many training rows (kept below the folder for the next time), a random model of a million
parameters, and starts ``sprec run`` twice, each time in a process of its own that is ended after some steps:

* the SFT on 4,096 drawn samples: seconds from the start of the process to its first optimiser step;
* the SFT on all samples: seconds until their token ids are there, bytes of them on disk, and what is resident then,
  after its first and after its last step.

A second call goes on where the first one was ended. Prints a line of JSON, and puts it in the place of the earlier one
of so many samples in ``benchmarks/results/out-of-core.json`` with ``--record``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from logs import GENRES, titles
from sprec.bench.report import machine
from sprec.config import Scratch
from sprec.data import Catalog, Dataset, Split, Wording
from sprec.engine.model.policy import scratch
from sprec.engine.train.stage import LOG
from sprec.prompts import PromptBuilder
from sprec.system.hardware import pick_device, pick_precision
from sprec.system.storage import write_json

RESULTS = Path(__file__).parent / "results" / "out-of-core.json"
ITEMS, HISTORY, DRAWN, STEPS = 20_000, 10, 4096, 20
WORDING = Wording(
    "Given a list of films the user has watched before, please recommend a new film that the user likes to the user.",
    "The user has watched the following films before: ",
    "\n",
)


def generated(folder: Path, samples: int) -> Dataset:
    """The dataset of so many training rows: items of a skewed popularity, drawn with a seed."""
    if (folder / "dataset.json").exists():
        return Dataset.load(folder)
    kinds = [(GENRES[item % len(GENRES)],) for item in range(ITEMS)]
    catalog = Catalog.of(titles(ITEMS), kinds)
    rng = np.random.default_rng(0)

    def split(rows: int) -> Split:
        drawn = (ITEMS * rng.random((rows, HISTORY + 1), dtype=np.float32) ** 2).astype(np.int64)
        return Split(drawn[:, :-1].reshape(-1), np.arange(rows + 1) * HISTORY, drawn[:, -1])

    splits = {"train": split(samples), "test": split(100)}
    return Dataset("generated", catalog, splits, GENRES[:4], WORDING).save(folder)


def _make_model(folder: Path, dataset: Dataset) -> None:
    """Random weights, and a tokenizer whose tokens are parts of words, as those of large models."""
    builder, device = PromptBuilder(dataset.catalog, dataset.wording), pick_device("auto")
    lines = [*map(builder.respond, dataset.catalog.titles), builder.prompt([])]
    settings = Scratch(hidden=128, layers=2, heads=2, vocabulary=4000)
    scratch(settings, lines, 0, device, pick_precision("auto", device), across_words=False).save(folder)


def watched(run: Path, data: Path, model: Path, changes: list[str], steps: int) -> dict[str, Any]:
    """Start a run, look at it until its SFT has made so many steps, and end it."""
    settings = [
        f"backbone={{kind: huggingface, path: '{model}', lora: null}}",
        "method=bigrec",
        "prompt.style=unified",
        "sft.valid=0",
        *changes,
    ]
    command = [sys.executable, "-m", "sprec", "run", "demo", "--data", str(data), "-o", str(run)]
    begin = time.perf_counter()
    with (run.parent / f"{run.name}.log").open("a") as news:
        process = subprocess.Popen(
            [*command, *(part for change in settings for part in ("--set", change))], stdout=news, stderr=news
        )
    try:
        first, resident = 0.0, []
        while process.poll() is None:
            time.sleep(0.2)
            made = sum(file.read_text().count("\n") for file in run.glob(f"logs/*-sft/{LOG}"))
            if made:
                first = first or time.perf_counter() - begin
                resident.append(_status(process.pid, "VmRSS"))
            if made >= steps:
                peak = _status(process.pid, "VmHWM")
                break
        else:
            raise SystemExit(f"the run ended with {process.returncode}; see {run.parent / run.name}.log")
    finally:
        process.kill()
        process.wait()
    return {"first_step_s": first, "rss_first_mib": resident[0], "rss_last_mib": resident[-1], "peak_rss_mib": peak}


def _status(pid: int, key: str) -> float:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return round(float(lines[key].split()[0]) / 1024, 1)


def measure(samples: int, folder: Path) -> dict[str, Any]:
    """Both runs on so many samples."""
    data, model = folder / f"data-{samples}", folder / "model"
    dataset = generated(data, samples)
    if not model.exists():
        _make_model(model, dataset)
    del dataset
    drawn, whole = folder / f"drawn-{samples}", folder / f"whole-{samples}"
    found = folder / f"drawn-{samples}.json"
    if not found.exists():
        shutil.rmtree(drawn, ignore_errors=True)
        write_json(found, watched(drawn, data, model, [f"sft.samples={DRAWN}"], 1))
    few = json.loads(found.read_text("utf-8"))
    already = _bytes_below(whole / "tokens")
    everything = watched(whole, data, model, [f"sft.samples={samples}"], STEPS)
    kept = _bytes_below(whole / "tokens")
    return {
        "samples": samples,
        "tokens_per_sample": _tokens_per_sample(whole / "tokens", samples),
        "bytes_per_sample": round(kept / samples, 1),
        "first_step_s": round(few["first_step_s"], 1),
        "peak_rss_mib": max(few["peak_rss_mib"], everything["peak_rss_mib"]),
        "drawn": few,
        "whole": everything | {"steps": STEPS, "bytes_found": already},
        "date": date.today().isoformat(),
        "machine": machine("auto"),
    }


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.npy"))


def _tokens_per_sample(folder: Path, samples: int) -> float:
    """Mean length of the prompts: those of the largest column."""
    column = max(folder.iterdir(), key=_bytes_below)
    return round(sum(len(np.load(file, mmap_mode="r")) for file in column.glob("*.npy")) / samples - 1, 1)


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=int)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "sprec-out-of-core")
    parser.add_argument("--record", action="store_true", help=f"also write {RESULTS.name}")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = measure(given.samples, given.folder)
    print(json.dumps(found))
    if given.record:
        runs = json.loads(RESULTS.read_text("utf-8"))["runs"] if RESULTS.exists() else []
        others = [run for run in runs if run["samples"] != given.samples]
        write_json(RESULTS, {"runs": sorted([*others, found], key=lambda run: int(run["samples"]))})


if __name__ == "__main__":
    main()
