"""The weights of the experts as a stage of a run: chosen on the validation rows where the recipe gives none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sprec.config import Part, Recommend
from sprec.methods.experts import choose_weights
from sprec.recommend.experts import log_probs
from sprec.recommend.protocols import Need, needs_of, wants_weights
from sprec.runs import protocols
from sprec.runs.keys import settings_of
from sprec.runs.sasrec_stage import sasrec_key
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.system import processes, storage

_NAME, _FILE = "weights", "weights.json"
ASIDE = ("cases", "split", "recommend.top_k")
"""Settings of an evaluation that what is learned on validation rows does not depend on."""
_OF_TILT = ("recommend.tilt", "recommend.caps", "recommend.candidates")


def weights(session: Session, name: str, policy: Stage, backbone: Stage) -> Recommend:
    """The run's own way to recommend, with the weights of its experts.

    Args:
        session: the run; its ``weights`` is the stage, None where nothing had to be chosen.
        name: of the evaluation that they are for.
        policy: the model; of no account where no expert needs it.
        backbone: what grounds titles.
    """
    settings = session.recipe.recommend
    session.weights = None
    if not wants_weights(settings):
        return settings
    parts = _made_of(session, settings)
    depends = {**parts, "policy": policy.key if Need.MODEL in needs_of(settings) else None}

    def make(folder: Path) -> str:
        found = _choose(session, settings, policy, backbone)
        if processes.first():
            storage.write_json(folder / _FILE, {"weights": found, "made_of": storage.digest(parts)})
        return ", ".join(f"{name} {weight:g}" for name, weight in zip(settings.experts, found, strict=True))

    session.weights = session.store.stage(f"{_NAME}-{name}", depends, make)
    if session.store.dry:
        return settings
    return _with(settings, storage.read_json(session.weights.folder / _FILE)["weights"])


def served(session: Session, settings: Recommend, policy: Stage, backbone: Stage) -> Recommend:
    """Settings of a finished run with the weights of their experts.

    Those of the run where these settings are its own, else ones that are chosen now and remembered.

    Args:
        session: a finished run.
        settings: how to recommend.
        policy: its model.
        backbone: what grounds titles.
    """
    if not wants_weights(settings):
        return settings
    made, folder = storage.digest(_made_of(session, settings)), session.store.root / _NAME
    if made not in session.chosen:
        about = storage.read_json(folder / _FILE) if not storage.verify(folder) else {}
        known = about.get("made_of") == made
        session.chosen[made] = about["weights"] if known else _choose(session, settings, policy, backbone)
    return _with(settings, session.chosen[made])


def learned_from(session: Session, settings: Recommend, aside: Iterable[str] = ASIDE) -> dict[str, Any]:
    """All but the model that decides what is learned on validation rows.

    Args:
        session: the run.
        settings: how to recommend.
        aside: settings of no account.
    """
    recipe = session.recipe.model_copy(update={"recommend": settings})
    return {
        "data": session.dataset.hash,
        "settings": {n: value for n, value in settings_of(recipe, Part.EVALUATE).items() if n not in aside},
        "sasrec": sasrec_key(session) if Need.SASREC in needs_of(settings) else None,
    }


def _made_of(session: Session, settings: Recommend) -> dict[str, Any]:
    return learned_from(session, settings, (*ASIDE, *_OF_TILT))


def _choose(session: Session, settings: Recommend, policy: Stage, backbone: Stage) -> tuple[float, ...]:
    valid = session.dataset.valid
    context = protocols.context_of(session, settings, policy, backbone, valid)
    blocks = ((experts, valid.targets[rows]) for rows, experts in log_probs(context))
    return choose_weights(blocks, len(settings.experts))


def _with(settings: Recommend, found: Iterable[float]) -> Recommend:
    return settings.model_copy(update={"weights": tuple(found)})
