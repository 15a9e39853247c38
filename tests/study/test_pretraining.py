"""results/pretraining.py: which targets runs find, by whether any of them read the item."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl

from sprec.data import Dataset
from sprec.runs import run
from sprec.runs.examples import drawn_rows, pretraining_examples, pretraining_sample
from sprec.runs.recipes import resolve

SCRIPT = Path(__file__).parents[2] / "results" / "pretraining.py"
TINY = ["method=bigrec", "backbone.hidden=32", "backbone.heads=1", "backbone.layers=1", "backbone.vocabulary=400",
        "backbone.batch=2", "sft.samples=3", "sft.valid=0", "cases=10", "recommend.protocol=exact",
        "recommend.beams=5"]  # fmt: skip


def test_a_sample_is_drawn_once_for_each_seed(toy_dataset: Dataset) -> None:
    whole = list(pretraining_examples(toy_dataset))
    assert list(pretraining_sample(toy_dataset, None, 0)) == whole
    some = list(pretraining_sample(toy_dataset, 5, 1))
    assert len(some) == 5
    assert all(example in whole for example in some)
    assert some == list(pretraining_sample(toy_dataset, 7, 1))[:5]
    assert some != list(pretraining_sample(toy_dataset, 5, 2))


def test_targets_are_counted_by_what_was_read(toy_dataset: Dataset, tmp_path: Path) -> None:
    run(
        resolve("demo", [*TINY, "backbone.samples=5", "backbone.epochs=1", "sft.epochs=0"]), toy_dataset, tmp_path / "a"
    )
    run(resolve("demo", [*TINY, "backbone.epochs=0", "sft.epochs=1"]), toy_dataset, tmp_path / "b")
    steps = (tmp_path / "a" / "stages" / "00-backbone" / "log.jsonl").read_text().splitlines()
    assert len(steps) == 3, "five sequences, two a step"

    subprocess.run([sys.executable, SCRIPT, tmp_path / "out.json", tmp_path / "a", tmp_path / "b"], check=True)
    (found,) = json.loads((tmp_path / "out.json").read_text()).values()
    read = [*pretraining_sample(toy_dataset, 5, 0), *toy_dataset.train.take(drawn_rows(toy_dataset, 3, 0))]
    seen = {item for example in read for item in (*example.history, example.target)}
    assert 0 < found["unseen items"] == 1 - len(seen) / len(toy_dataset.catalog)

    targets = toy_dataset.test.targets[:10].tolist()
    (file,) = (tmp_path / "a" / "stages").glob("*-evaluate-sft-0/recommendations.parquet")
    lists = [row[:5] for row in pl.read_parquet(file)["items"].to_list()]
    one = found["runs"]["a"]
    assert one["targets"]["unseen"] == sum(target not in seen for target in targets)
    assert one["targets"]["popular"] + one["targets"]["rare"] == len(targets) == found["cases"]
    hits = [target for target, row in zip(targets, lists, strict=True) if target in row]
    assert one["hits"]["popular"] + one["hits"]["rare"] == len(hits) == round(10 * one["metrics"]["HR@5"]["value"])
    assert one["hits"]["unseen"] == sum(target not in seen for target in hits)
    assert one["shown"]["unseen"] == sum(item not in seen for row in lists for item in row) / 50
