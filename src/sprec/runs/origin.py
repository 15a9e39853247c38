"""Continuing a finished run: its model is trained further on new rows, and its backbone still encodes titles."""

from pathlib import Path

import numpy as np

from sprec.config import Recipe
from sprec.data import Dataset, Split
from sprec.runs.protocols import trains_model
from sprec.runs.recommender import open_run
from sprec.runs.session import Start
from sprec.runs.store import Stage
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import say


def start_from(root: Path, recipe: Recipe, dataset: Dataset) -> Start:
    """A finished run as the start of a new one.

    Args:
        root: the run directory.
        recipe: of the new run.
        dataset: its data.

    Raises:
        UserError: there is no finished run with a language model, the recipe is for another model, or there is no
            training row that the run has not seen.
    """
    session = open_run(root)
    before = session.recipe
    for method in (before.method, recipe.method):
        if not trains_model(before if method == before.method else recipe):
            raise UserError(f"--from goes on training a language model, and {method} has none; run it anew")
    for name, ours, theirs in (
        ("backbone", recipe.backbone, before.backbone),
        ("prompt.style", recipe.prompt.style, before.prompt.style),
    ):
        if ours != theirs:
            raise UserError(
                f"{name} differs from that of {root}, and --from trains the model that is there; take its recipe: "
                f"sprec run {root}/recipe.json"
            )
    seen = _names(session.dataset, session.dataset.train + session.dataset.extra)
    known = set(seen)
    rows = [row for row, name in enumerate(_names(dataset, dataset.train)) if name not in known]
    if not rows:
        raise UserError(f"{dataset.name} has no training row that {root} has not seen; import a newer log")
    cases = _names(dataset, dataset.splits[recipe.split][: recipe.cases])
    if leaked := sum(name in known for name in cases):
        say(f"! {root} was trained on {leaked:,} of the {len(cases):,} cases: the metrics will flatter the model")
    return Start(Stage(root, storage.digest(storage.read_manifest(root))[:24]), np.array(rows, dtype=np.int64))


def _names(dataset: Dataset, split: Split) -> list[tuple[str, ...]]:
    """Each row as the source ids of its items, the target last, which do not change between imports of a log."""
    ids = dataset.catalog.source_ids
    return [tuple(ids[item] for item in (*history, target)) for history, target in split]
