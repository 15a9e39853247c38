"""SASRec as a stage of the run ``session``: a recommender, the assistant of D3, the oracle of RosePO's smoothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sprec.config import Part, Recipe
from sprec.data import Split
from sprec.engine.train.stage import LOG
from sprec.methods.objectives import oracle_smoothing
from sprec.methods.preferences import PREFERENCES
from sprec.methods.sasrec import SASRec, Settings, train_sasrec, validation_ndcg
from sprec.recommend.protocols import Need, needs_of
from sprec.runs.examples import pretraining_examples
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.system import processes, storage

_NAME = "sasrec"


def needs_sasrec(recipe: Recipe) -> bool:
    """Whether a run consults SASRec.

    Args:
        recipe: its settings.
    """
    smoothed = (
        PREFERENCES[recipe.prefer.objective].needs == "smoothing"
        and recipe.loop.dpo_step
        and recipe.loop.iterations > 0
    )
    return Need.SASREC in needs_of(recipe.recommend) or smoothed


def sasrec(session: Session) -> Stage:
    """The stage of SASRec, trained if needed; call it once per run, at its place among the stages."""

    def make(folder: Path) -> str:
        if not processes.first():  # one process suffices
            return ""
        model = _train(session, session.store.logs / LOG)
        model.save(folder)
        return f"validation NDCG {validation_ndcg(model, session.dataset.valid):.4f}"

    return session.store.stage(_NAME, session.depends(Part.SASREC), make)


def sasrec_key(session: Session) -> str:
    """The key of the SASRec that this recipe makes, whether or not its stage exists."""
    return session.store.key_of(_NAME, session.depends(Part.SASREC))


def has_sasrec(session: Session) -> bool:
    """Whether the SASRec of this recipe exists, so that nothing needs to be trained."""
    return session.sasrec is not None or _find(session, sasrec_key(session)) is not None


def load_sasrec(session: Session) -> SASRec:
    """The SASRec of this run; trained now if it has none, when a run is evaluated by another protocol than its own."""
    key = sasrec_key(session)
    if session.sasrec is None or session.sasrec[0] != key:
        session.sasrec = key, _find(session, key) or _train(session)
    return session.sasrec[1]


def _find(session: Session, key: str) -> SASRec | None:
    for folder in (*session.store.stages.glob(f"[0-9]*-{_NAME}"), session.store.root / _NAME):
        if not storage.verify(folder) and storage.read_manifest(folder)["key"] == key:
            return SASRec.load(folder).to(session.device)
    return None


def _train(session: Session, log: Path | None = None) -> SASRec:
    recipe, dataset = session.recipe, session.dataset
    settings = Settings(**recipe.sasrec.model_dump(), history=recipe.prompt.history)
    examples, items = pretraining_examples(dataset), len(dataset.catalog)
    return train_sasrec(examples, dataset.valid, items, settings, recipe.seed, str(session.device), log)


def smoothing(session: Session, examples: Split, rejected: Sequence[Sequence[str]]) -> torch.Tensor:
    """RosePO's smoothing factor of each pair, shape (n,), from the oracle's scores of target and rejected item.

    Args:
        session: its recipe has the oracle's settings, and the temperature.
        examples: the pairs' histories and targets.
        rejected: one rejected title each. Unknown titles cannot be better than the target: their factor is 0.
    """
    by_title = session.dataset.catalog.by_title
    items = np.array([by_title.get(titles[0], -1) for titles in rejected], dtype=np.int64).reshape(-1, 1)
    scores = load_sasrec(session).scores_of(examples, np.column_stack([examples.targets, np.maximum(items, 0)]))
    temperature = session.recipe.prefer.smoothing_temperature
    factors = oracle_smoothing(scores[:, 0], scores[:, 1], temperature=temperature)
    return factors.masked_fill(torch.from_numpy(items[:, 0] < 0), 0.0)
