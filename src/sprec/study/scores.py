"""Scores of the recommenders of the frontier: the best items of each validation, held and test row, in one file.

All lists of the frontier can be made from these files without a model. ``dataset`` is the data, ``out`` the folder of
scores, ``seed`` that of the training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sprec.data import Dataset, Split
from sprec.methods import knn, sasrec
from sprec.methods.experts import normalised
from sprec.methods.tilt import LIST, Scored, ndcg
from sprec.runs.examples import held_examples, pretraining_examples
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import say

DEPTH = 200
"""Items kept of each row."""
PARTS = ("valid", "held", "test")


@dataclass(frozen=True)
class Scores:
    """A recommender's best items for the users of a dataset, with log-probabilities over the catalog.

    Attributes:
        valid: of the validation rows.
        held: of :func:`sprec.runs.examples.held_examples`.
        test: of the test rows.
    """

    valid: Scored
    held: Scored
    test: Scored

    def save(self, file: Path) -> None:
        """Write the scores to a ``file``, completely or not at all."""
        arrays: dict[str, np.ndarray] = {}
        for part in PARTS:
            own: Scored = getattr(self, part)
            arrays |= {f"{part}_items": own.items.astype(np.int32), f"{part}_scores": own.scores.astype(np.float32)}
        with storage.writing(file, "the same command goes on"):
            file.parent.mkdir(parents=True, exist_ok=True)
            part_of = file.with_name(f"{file.name}.part.npz")
            np.savez_compressed(part_of, allow_pickle=False, **arrays)
            part_of.replace(file)

    @classmethod
    def load(cls, file: Path) -> "Scores":
        """Read a ``file`` of :meth:`save`.

        Raises:
            UserError: it is damaged.
        """
        try:
            with np.load(file) as found:
                arrays = [(found[f"{part}_items"].astype(np.int64), found[f"{part}_scores"]) for part in PARTS]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file} does not hold scores; remove it, and the same command makes it again") from error
        return cls(*(Scored(items, scores.astype(np.float64)) for items, scores in arrays))


def users(dataset: Dataset) -> dict[str, Split]:
    """The rows that are scored, by the names of :data:`PARTS`."""
    return {"valid": dataset.valid, "held": held_examples(dataset), "test": dataset.test}


def scored(log_probs: Callable[[Split], np.ndarray], dataset: Dataset) -> Scores:
    """The scores of all rows by a recommender: ``log_probs`` gives those of all items, (n, items), for examples."""
    return Scores(*(Scored.best(log_probs(split), DEPTH) for split in users(dataset).values()))


_RATES = (1e-3, 2e-3, 4e-3)
_SASREC = sasrec.Settings(dropout=0.3, batch=256, epochs=40, patience=5, warmup=2)
TRIES: Mapping[str, Sequence[knn.Settings | sasrec.Settings]] = {
    "kNN": [knn.Settings(0.5, 3), knn.Settings(0.7, 5), knn.Settings(0.9, 9)],
    "SASRec, one negative": [replace(_SASREC, loss="bce", lr=rate) for rate in _RATES],
    "SASRec, softmax": [replace(_SASREC, loss="ce", lr=rate) for rate in _RATES],
    "SASRec, sampled softmax": [replace(_SASREC, loss="sampled-softmax", lr=rate) for rate in _RATES],
}
"""Row to the settings to try, three each; those with the best NDCG@5 on validation rows are kept."""


def recommender(dataset: Dataset, settings: knn.Settings | sasrec.Settings, seed: int) -> Callable[[Split], np.ndarray]:
    """Train a recommender with ``settings``; it returns log-probabilities of all items for examples."""
    examples, items = pretraining_examples(dataset), len(dataset.catalog)
    if isinstance(settings, knn.Settings):
        return knn.ItemKnn.count(examples, items, settings).log_probs
    model = sasrec.train_sasrec(examples, dataset.valid, items, settings, seed)
    return partial(_of_logits, model)


def _of_logits(model: sasrec.SASRec, split: Split) -> np.ndarray:
    return normalised(model.scores(split).double().numpy())


def search(row: str, dataset: Dataset, out: Path) -> knn.Settings | sasrec.Settings:
    """The settings of a ``row`` with the best NDCG@5 on the validation rows, by seed 0; all scores are kept.

    Writes ``out/scores/DATASET/ROW/search.json``: NDCG@5 and HR@5 of each try.
    """
    tried: list[dict[str, Any]] = []
    for number, settings in enumerate(TRIES[row]):
        found = _kept(out / place(dataset, row), dataset, settings, 0)
        lists = found.valid.top(LIST)
        hits = (lists == dataset.valid.targets[:, None]).any(1).mean()
        quality = {"NDCG@5": ndcg(lists, dataset.valid.targets), "HR@5": float(hits)}
        tried.append({"settings": asdict(settings), "valid": quality})
        say(f"{dataset.name}, {row}, try {number}: validation NDCG@5 {quality['NDCG@5']:.4f}")
    best = int(np.argmax([one["valid"]["NDCG@5"] for one in tried]))
    storage.write_json(out / place(dataset, row) / "search.json", {"chosen": best, "tries": tried})
    return TRIES[row][best]


def place(dataset: Dataset, row: str) -> Path:
    """The folder of a ``row``'s scores, relative to that of all."""
    return Path("scores") / dataset.name / row.replace(", ", "-").replace(" ", "-").lower()


def scores_of(row: str, dataset: Dataset, seed: int, out: Path) -> Scores:
    """The scores of a ``row`` by its best settings; trained if they are not kept yet."""
    settings = search(row, dataset, out)
    seed = 0 if isinstance(settings, knn.Settings) else seed  # kNN draws nothing
    return _kept(out / place(dataset, row), dataset, settings, seed)


def _kept(folder: Path, dataset: Dataset, settings: knn.Settings | sasrec.Settings, seed: int) -> Scores:
    key = storage.digest([asdict(settings), dataset.hash, DEPTH])[:16]
    file = folder / f"{key}-seed{seed}.npz"
    if not file.is_file():
        scored(recommender(dataset, settings, seed), dataset).save(file)
    return Scores.load(file)
