"""What does pretraining help? Finished runs side by side: accuracy, exposure, and which targets are found.

All runs on a dataset answer the same test cases. Popular items are the fewest with 80% of the interactions of the
training split, the others are rare. An item is unseen if none of the runs read it, neither in the sequences of
pre-training or adaptation nor in the examples of the SFT; runs with the same draws have read the same.
Usage: python results/pretraining.py OUT.json RUN [RUN ...]; a run is named by its folder.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from sprec.config import Adapt, HuggingFace, Recipe
from sprec.data import Dataset
from sprec.evaluation import CatalogFacts, bootstrap
from sprec.runs.examples import drawn_rows, pretraining_sample
from sprec.study.compare import Evaluation, evaluations_of
from sprec.system import storage

K = 5
METRICS = ("HR@5", "NDCG@5", "DivRatio@1", "ORRatio@1", "DivRatio@5", "ORRatio@5", "Coverage@5", "ARP@5")


def read_by(recipe: Recipe, dataset: Dataset) -> np.ndarray:
    """Whether a run trained on any text with the item, (items,)."""
    backbone = recipe.backbone
    source = (backbone.adapt or Adapt(epochs=0)) if isinstance(backbone, HuggingFace) else backbone
    splits = [pretraining_sample(dataset, source.samples, source.seed)] if source.epochs else []
    if recipe.sft.epochs:
        splits.append(dataset.train.take(drawn_rows(dataset, recipe.sft.samples, recipe.seed)))
    read = np.zeros(len(dataset.catalog), dtype=bool)
    for split in splits:
        for example in split:
            read[[*example.history, example.target]] = True
    return read


def facts_of(evaluation: Evaluation, unseen: np.ndarray) -> dict[str, Any]:
    """Metrics with their 95% intervals, hits by kind of target, and what the lists show.

    Args:
        evaluation: the lists of a run.
        unseen: whether no run read the item, (items,).
    """
    dataset, split = evaluation.dataset, evaluation.recipe.split
    cases = evaluation.lists.cases(dataset, split, evaluation.lists.rows, (1, K))
    assert cases.facts is not None
    intervals = {name: bootstrap([cases], metrics=[name]).interval(name) for name in METRICS}
    hits, targets = cases.ranks < K, dataset.splits[split].take(evaluation.lists.rows).targets
    shown = cases.lists[:, :K].ravel()
    shown, kinds = shown[shown >= 0], kinds_of(cases.facts, unseen)
    return {
        "metrics": {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in intervals.items()},
        "targets": {name: int(kind[targets].sum()) for name, kind in kinds.items()},
        "hits": {name: int(hits[kind[targets]].sum()) for name, kind in kinds.items()},
        "shown": {name: float(kind[shown].mean()) for name, kind in kinds.items()},
    }


def kinds_of(facts: CatalogFacts, unseen: np.ndarray) -> dict[str, np.ndarray]:
    """Popular, rare and unseen items, each (items,) of bool."""
    return {"popular": facts.tail == 0, "rare": facts.tail == 1, "unseen": unseen}


def main() -> None:
    """Write the facts of all runs, by dataset."""
    by_dataset: dict[str, dict[str, Evaluation]] = {}
    for folder in map(Path, sys.argv[2:]):
        last = evaluations_of(folder)[-1]
        by_dataset.setdefault(last.dataset.name, {})[folder.name] = last
    found: dict[str, Any] = {}
    for name, runs in by_dataset.items():
        if len({run.test for run in runs.values()}) > 1:
            raise SystemExit(f"{name}: the runs were not tested on the same cases")
        unseen = ~np.any([read_by(run.recipe, run.dataset) for run in runs.values()], axis=0)
        cases = len(next(iter(runs.values())).lists.rows)
        found[name] = {
            "cases": cases,
            "unseen items": float(unseen.mean()),
            "runs": {run: facts_of(evaluation, unseen) for run, evaluation in runs.items()},
        }
    storage.write_json(Path(sys.argv[1]), found)


if __name__ == "__main__":
    main()
