"""The tilt as a stage of a run: learned on users who are neither trained nor tested on, stored as vectors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from sprec.config import Recommend
from sprec.methods.tilt import Tilt, choose_tilt, genre_shares
from sprec.recommend.protocols import Need, is_tilted, needs_of
from sprec.runs import protocols, weights_stage
from sprec.runs.examples import held_examples, recent_histories
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.system import processes, storage

_NAME, _ARRAYS, _ABOUT = "tilt", "tilt.safetensors", "tilt.json"


def tilt(session: Session, name: str, weighted: Recommend, policy: Stage, backbone: Stage) -> Stage:
    """The tilt for the run's protocol, with the policy of a stage.

    Args:
        session: the run.
        name: of its evaluation.
        weighted: the settings of recommending, with the weights of experts.
        policy: the model; ignored if the protocol needs none.
        backbone: encodes titles in grounding.
    """
    settings = session.recipe.recommend
    made_of = _made_of(session, settings)
    depends = {**made_of, "policy": policy.key if Need.MODEL in needs_of(settings) else None}

    def make(folder: Path) -> str:
        found, about = _learn(session, weighted, policy, backbone)
        if processes.first():
            save_file({name: np.ascontiguousarray(value) for name, value in vars(found).items()}, folder / _ARRAYS)
            storage.write_json(folder / _ABOUT, {**about, "made_of": storage.digest(made_of)})
        bound = "no bound" if about["cap"] is None else f"bound {about['cap']:g}"
        tried = (f"{name} {share:.0%}" for name, share in about["kept"].items() if share is not None)
        return f"{bound} on exposure; validation NDCG@5 kept: {', '.join(tried)}"

    return session.store.stage(f"{_NAME}-{name}", depends, make)


def offset_of(session: Session, folder: Path) -> np.ndarray:
    """The offset of each item of a run (``session``) by the tilt stored in a ``folder``, (items,)."""
    return Tilt(**load_file(folder / _ARRAYS)).offset(_genres(session))


def carry_over(session: Session, source: Path, folder: Path, before: np.ndarray) -> None:
    """Write the tilt of a run for its changed items; new ones have no penalty (lambda is 0).

    Args:
        session: the run with its changed items.
        source: the folder of the old tilt.
        folder: for the new tilt.
        before: the previous id of each item, -1 for a new one, shape (items,).
    """
    old, about = Tilt(**load_file(source / _ARRAYS)), storage.read_json(source / _ABOUT)
    penalty = np.where(before < 0, 0.0, old.penalty[before])
    made_of = storage.digest(_made_of(session, session.recipe.recommend))
    folder.mkdir()
    save_file(vars(replace(old, penalty=penalty)), folder / _ARRAYS)
    storage.write_json(folder / _ABOUT, about | {"made_of": made_of})
    storage.seal(folder, {"key": made_of})


def served(session: Session, settings: Recommend, policy: Stage, backbone: Stage) -> np.ndarray | None:
    """The offset of each item by the tilt of a finished run; None if the settings have no tilt.

    If the settings are the run's own, it is the run's tilt, else one that is learned now and kept. The tilt does not
    depend on the histories and items that single calls exclude.

    Args:
        session: a finished run.
        settings: how to recommend.
        policy: its model.
        backbone: encodes titles in grounding.
    """
    if not is_tilted(settings):
        return None
    settings = settings.model_copy(update={"exclude_history": session.recipe.recommend.exclude_history})
    made_of, folder = storage.digest(_made_of(session, settings)), session.store.root / _NAME
    if made_of not in session.offsets:
        kept = not storage.verify(folder) and json.loads((folder / _ABOUT).read_text("utf-8"))["made_of"] == made_of
        weighted = settings if kept else weights_stage.served(session, settings, policy, backbone)
        found = None if kept else _learn(session, weighted, policy, backbone)[0]
        session.offsets[made_of] = found.offset(_genres(session)) if found else offset_of(session, folder)
    return session.offsets[made_of]


def _made_of(session: Session, settings: Recommend) -> dict[str, Any]:
    """Everything that a tilt depends on, except the model."""
    return {**weights_stage.learned_from(session, settings), "genres": list(session.dataset.genres)}


def _learn(session: Session, settings: Recommend, policy: Stage, backbone: Stage) -> tuple[Tilt, dict[str, Any]]:
    dataset, genres = session.dataset, _genres(session)
    both = dataset.valid + held_examples(dataset)
    wider = protocols.candidates(settings, len(dataset.catalog))
    users = protocols.scored(protocols.recommend(session, wider, policy, backbone, both))
    valid, held = (users.take(rows) for rows in np.split(np.arange(len(both)), [len(dataset.valid)]))
    shares = genre_shares(recent_histories(dataset), genres)
    chosen = choose_tilt(valid, dataset.valid.targets, held, genres, shares, (None, *settings.caps))
    kept = {"none" if cap is None else f"{cap:g}": round(share, 4) for cap, share in chosen.kept.items()}
    return chosen.tilt, {"cap": chosen.cap, "kept": storage.defined(kept)}


def _genres(session: Session) -> np.ndarray:
    return session.dataset.catalog.genre_matrix(session.dataset.genres)
