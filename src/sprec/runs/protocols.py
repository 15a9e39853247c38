"""The protocols on a run: their input (model, grounding, trie, SASRec) is made from its stages when needed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from sprec.config import Recipe, Recommend
from sprec.data import Split
from sprec.methods.table import METHODS
from sprec.methods.tilt import Scored
from sprec.recommend.protocols import PROTOCOLS, Context, Need, Recommendations, is_read, needs_of
from sprec.runs.examples import prompts
from sprec.runs.sasrec_stage import has_sasrec, load_sasrec
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.runs.streams import Stream, seed_of
from sprec.system.errors import UserError

BY_ID = Need.SASREC | Need.KNN
"""Recommenders that learn items by their ids, and so do not know later ones."""


def trains_model(recipe: Recipe) -> bool:
    """Whether the method of a recipe has a language model; the others rank items, in one evaluation.

    Args:
        recipe: only its method counts.
    """
    row = METHODS[recipe.method].get("recommend", {})
    return Need.MODEL in PROTOCOLS[row.get("protocol", Recommend().protocol)].needs


def offered(session: Session) -> tuple[str, ...]:
    """The protocols that a run can use without training anything.

    Args:
        session: the run.
    """
    missing = Need.NOTHING if trains_model(session.recipe) else Need.MODEL
    if session.changed_items:
        missing |= BY_ID
    if not has_sasrec(session):
        missing |= Need.SASREC
    return tuple(
        name
        for name in PROTOCOLS
        if not needs_of(session.recipe.recommend.model_copy(update={"protocol": name})) & missing
    )


def recommend(
    session: Session,
    settings: Recommend,
    stage: Stage,
    backbone: Stage,
    examples: Split,
    *,
    journal: Path | None = None,
    barred: np.ndarray | None = None,
    blocked: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> Recommendations:
    """Top-k items for each example, by the protocol of the settings, with the policy of a stage.

    Args:
        session: the run.
        settings: how to recommend; the run's own or others.
        stage: the model.
        backbone: encodes titles in grounding.
        examples: the cases; their targets are not read.
        journal: a folder that keeps finished batches of these examples, for protocols that generate titles.
        barred: items that no list may contain, shape (items,), bool; none by default.
        blocked: further items that each list leaves out, padded with the size of the catalog, shape (n, width).
        offset: of a tilt: added to the score of each item before the lists are cut, shape (items,).

    Raises:
        UserError: the run has no model and the protocol needs one, or the protocol knows items by their ids and the
            items have changed since the run was trained.
    """
    _require_usable(session, settings)
    if is_read("recommend.max_new_tokens", settings):
        limit = session.answer_limit(session.policy(stage), settings.max_new_tokens, "recommend.max_new_tokens")
        settings = settings.model_copy(update={"max_new_tokens": limit})
    context = replace(
        context_of(session, settings, stage, backbone, examples), journal=journal, barred=barred, blocked=blocked
    )
    row = PROTOCOLS[settings.protocol]
    if offset is None:
        return row.lists(context)
    best = scored(row.lists(replace(context, settings=candidates(settings, context.items))))
    tilted = best.with_offset(offset, settings.top_k)
    return Recommendations(tilted.items, scores=tilted.scores)


def _require_usable(session: Session, settings: Recommend) -> None:
    needs, name = needs_of(settings), f"recommend.protocol={settings.protocol}"
    if session.changed_items and needs & BY_ID:
        raise UserError(
            f"{name} knows items by their ids, and the items of this run have changed since it was trained; use a "
            "protocol of the language model alone, or train on a log with the new items"
        )
    if Need.MODEL in needs and not trains_model(session.recipe):
        raise UserError(f"{name} needs a language model, which {session.recipe.method} does not have")


def context_of(session: Session, settings: Recommend, stage: Stage, backbone: Stage, examples: Split) -> Context:
    """The input of protocols in a run, each part made on first use.

    Args:
        session: the run.
        settings: of recommending.
        stage: the model.
        backbone: encodes titles in grounding.
        examples: the cases; their targets are not read.
    """

    @cache
    def asked() -> Sequence[list[int]]:
        return prompts(session.policy(stage), session.builder, examples, "generate", session.recipe.prompt.max_tokens)

    return Context(
        examples=examples,
        settings=settings,
        items=len(session.dataset.catalog),
        seed=seed_of(session.recipe.seed, Stream.RECOMMEND),
        budget=session.recipe.tokens_per_batch,
        policy=lambda: session.policy(stage),
        asked=asked,
        trie=lambda: session.trie(session.policy(stage)),
        grounder=lambda: session.grounder(backbone, settings.encoder),
        sasrec=lambda: load_sasrec(session),
        knn=lambda: session.knn,
        counts=lambda: session.counts,
        twins=session.dataset.catalog.twins,
    )


def candidates(settings: Recommend, items: int) -> Recommend:
    """``settings`` that find the candidates of a tilt, in a catalog of ``items`` items."""
    return settings.model_copy(update={"top_k": max(settings.top_k, min(settings.candidates, items))})


def scored(found: Recommendations) -> Scored:
    """The lists ``found`` as candidates of a tilt.

    Raises:
        ValueError: the protocol has no scores.
    """
    if found.scores is None:
        raise ValueError("a tilt needs scores")
    return Scored(found.items, found.scores)
