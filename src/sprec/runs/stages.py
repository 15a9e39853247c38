"""The stages of a run: each takes earlier stages and returns a new one, from the store if it exists.

The run is a ``session``. A stage trains the model ``start`` or uses ``policy``; in evaluations and rollouts ``start``
is the backbone that encodes titles. A ``sample`` has the examples of an ``iteration``.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from sprec.config import Adapt, HuggingFace, Part, Prefer, Recipe, Sft, Training, encodes_negatives, makes_backbone
from sprec.data import Dataset, Split
from sprec.engine.layout.groups import GroupBatch, Groups, PromptGroup
from sprec.engine.model.identity import origin
from sprec.engine.model.policy import Policy, scratch
from sprec.engine.train.checkpoint import Checkpoints
from sprec.engine.train.scoring import score
from sprec.engine.train.stage import LOG, Objective, Outcome, train
from sprec.evaluation import CUTOFFS, measure
from sprec.methods import objectives
from sprec.methods.negatives import uniform_log_prob
from sprec.methods.preferences import PREFERENCES
from sprec.methods.weights import micro_batch_means, reweighting
from sprec.prompts import PromptBuilder
from sprec.recommend.protocols import Need, Recommendations, is_read, is_tilted, needs_of
from sprec.runs import health, protocols, tilt_stage, weights_stage
from sprec.runs.cases import cases_of
from sprec.runs.examples import drawn_rows, preference_groups, pretraining_sample, sequence_groups, sft_groups
from sprec.runs.keys import settings_of
from sprec.runs.rollouts import Rollouts, make_rollouts
from sprec.runs.sasrec_stage import sasrec_key, smoothing
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.runs.streams import Stream, seed_of
from sprec.system import processes, storage
from sprec.system.parquet import read_parquet, write_parquet
from sprec.system.progress import say
from sprec.system.storage import write_json

RECOMMENDATIONS = "recommendations.parquet"
_SFT = Objective(lambda policy, _: objectives.sft(policy), per_token=True)


@dataclass(frozen=True)
class Sample:
    """Training ``examples`` drawn for an iteration, and their ``rows`` in the training split."""

    rows: np.ndarray
    examples: Split


def backbone(session: Session) -> Stage:
    """The model that everything starts from: made in the run (``scratch``), adapted in it, or given."""
    recipe, settings = session.recipe, session.recipe.backbone
    if not makes_backbone(recipe):
        return given(recipe)
    if session.start is not None:
        return _taken_over(session, session.start.stage)
    depends = session.depends(Part.BACKBONE)
    if isinstance(settings, HuggingFace):
        depends["start"] = given(recipe).key

    def make(folder: Path) -> str:
        dataset = session.dataset
        compact = PromptBuilder(dataset.catalog, dataset.wording, "compact", recipe.prompt.history)
        policy, rates = _to_pretrain(session, compact)
        session.adopt(policy)
        adapts = isinstance(settings, HuggingFace)
        source = (settings.adapt or Adapt()) if isinstance(settings, HuggingFace) else settings
        examples = pretraining_sample(dataset, source.samples, source.seed)
        groups = sequence_groups(policy, compact, examples, recipe.prompt.max_tokens, session.store.tokens)
        name = "adapt" if adapts else "pretrain"
        outcome = _train(session, policy, groups, _SFT, rates, name, source.seed) if rates else Outcome()
        return _save(session, policy, folder, outcome, "backbone.adapt" if adapts else "backbone")

    return _hold(session, session.store.stage("backbone", depends, make))


def _taken_over(session: Session, start: Stage) -> Stage:
    """The backbone of the run that this one continues: it was made from other data, and still encodes titles."""

    def make(folder: Path) -> str:
        if processes.first():
            storage.link_tree(start.folder / "backbone" / "model", folder / "model")
        return f"that of {start.folder}"

    return session.store.stage("backbone", {"from": start.key}, make)


def _to_pretrain(session: Session, compact: PromptBuilder) -> tuple[Policy, Training | None]:
    """The model before pre-training, and the settings of the latter (None: there is none)."""
    settings = session.recipe.backbone
    if isinstance(settings, HuggingFace):
        return session.fresh(settings, settings.adapt.seed if settings.adapt else 0), settings.adapt
    lines = [compact.respond(title) for title in session.dataset.catalog.titles]
    policy = scratch(settings, _tokenizer_texts(session, lines), settings.seed, session.device, session.precision)
    if not settings.epochs:
        return policy, None
    own = Training(lr=settings.lr, epochs=settings.epochs, batch=settings.batch, warmup_steps=settings.warmup_steps)
    return policy, own


def given(recipe: Recipe) -> Stage:
    """The stage of a model that is not made in the run: without a folder, with a key of its settings and content.

    Args:
        recipe: its backbone is the model.

    Raises:
        ValueError: the backbone is made in the run.
    """
    if not isinstance(recipe.backbone, HuggingFace):
        raise ValueError("the backbone of this recipe is made in the run")
    decisive = settings_of(recipe, Part.BACKBONE)
    own = {name: value for name, value in decisive.items() if name.startswith("backbone.")}  # without those of prompts
    content = origin(recipe.backbone.path, recipe.backbone.revision)
    return Stage(Path(), storage.digest({"settings": own, "content": content}))


def _tokenizer_texts(session: Session, lines: list[str]) -> list[str]:
    """The catalog's titles, and the fixed wording of the prompts, if the style has one."""
    if session.recipe.prompt.style == "compact":
        return lines
    return [*lines, *[session.builder.prompt([], "sft"), session.builder.prompt([], "generate")] * 50]


def initial_sft(session: Session, start: Stage) -> Stage:
    """The supervised stage (BIGRec; RW with weights): the epoch with the best validation loss."""
    recipe, settings = session.recipe, session.recipe.sft
    if not settings.epochs and makes_backbone(recipe):
        return start
    depends = {"start": start.key, **session.depends(Part.SFT)}

    def make(folder: Path) -> str:
        policy = session.policy(start)
        _count_long_titles(session, policy)
        rows = drawn_rows(session.dataset, settings.samples, recipe.seed, among=session.new_rows)
        examples = session.dataset.train.take(rows)
        groups = _sft_groups(session, policy, examples)
        valid = _sft_groups(session, policy, session.dataset.valid[: settings.valid])
        objective: Objective = _SFT
        extra: dict[str, torch.Tensor] = {}
        if settings.weights != "none":
            objective, extra = _weighted(session, examples, groups, settings)
        seed = seed_of(recipe.seed, Stream.SFT)
        outcome = _train(session, policy, groups, objective, settings, "sft", seed, extra, valid)
        return _save(session, policy, folder, outcome, "sft")

    return _hold(session, session.store.stage("sft", depends, make))


def _count_long_titles(session: Session, policy: Policy) -> None:
    """Warn of titles that the limits of answers would cut, before a model is trained to write them."""
    recipe = session.recipe
    if is_read("recommend.max_new_tokens", recipe.recommend):
        session.answer_limit(policy, recipe.recommend.max_new_tokens, "recommend.max_new_tokens")
    if recipe.loop.iterations and recipe.loop.dpo_step and recipe.negatives.source == "self-play":
        session.answer_limit(policy, recipe.negatives.max_new_tokens, "negatives.max_new_tokens")


def _weighted(
    session: Session, examples: Split, groups: Sequence[PromptGroup], settings: Sft
) -> tuple[Objective, dict[str, torch.Tensor]]:
    """RW: the loss, and its further inputs per sample."""
    if settings.weights == "none":
        raise ValueError("no weights asked for")
    catalog, genres = session.dataset.catalog, session.dataset.genres
    everything = session.dataset.train
    weights = reweighting(examples, catalog, genres, settings.weights, counted=everything, normalise=settings.normalise)
    lengths = torch.tensor([len(group.completions[0]) for group in groups], dtype=torch.long)

    def loss(policy: torch.Tensor, batch: GroupBatch) -> torch.Tensor:
        return objectives.weighted_sft(policy, batch.extra["lengths"], batch.extra["weights"])

    def by_micro_batch(extra: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        means, longest = micro_batch_means(extra["weights"], extra["lengths"])
        return {"weights": means, "lengths": longest}

    prepare = by_micro_batch if settings.weights == "official" else None
    return Objective(loss, prepare=prepare), {"weights": torch.from_numpy(weights).float(), "lengths": lengths}


def draw(session: Session, iteration: int) -> Sample:
    """Draw the examples of an ``iteration``: a function of (seed, iteration)."""
    recipe = session.recipe
    rows = drawn_rows(session.dataset, recipe.loop.samples, recipe.seed, iteration, among=session.new_rows)
    return Sample(rows, session.dataset.train.take(rows))


def negatives(session: Session, policy: Stage, start: Stage, sample: Sample, iteration: int) -> Stage:
    """The rejected answers of an iteration, as JSONL in TRL's prompt/chosen/rejected form plus item ids."""
    recipe = session.recipe
    depends = {
        "policy": policy.key if recipe.negatives.source == "self-play" else start.key,
        "iteration": iteration,
        **session.depends(Part.ROLLOUT),
    }
    if encodes_negatives(recipe):
        depends |= {"backbone": start.key, "encoder": session.encoder_content}

    def make(folder: Path) -> str:
        rollouts = make_rollouts(session, policy, start, sample.rows, iteration)
        for warning in health.of_rollouts(len(rollouts.rows), len(sample.rows)):
            say(f"! {session.store.logs.name}: {warning}")
        if recipe.negatives.source == "self-play":
            share, least = rollouts.known(session.dataset.catalog), recipe.stop_below_exact_share
            health.require_titles(share, least, f"rollout {iteration}", preferred=iteration > 1)
        if processes.first():
            rollouts.write(folder, session.builder, session.dataset.train)
        return rollouts.news(session.dataset.catalog)

    return session.store.stage(f"rollout-{iteration}", depends, make)


def sft_step(session: Session, start: Stage, sample: Sample, iteration: int) -> Stage:
    """The SFT step of an iteration, on its examples."""
    recipe = session.recipe
    depends = {"start": start.key, "iteration": iteration, **session.depends(Part.SFT_STEP)}

    def make(folder: Path) -> str:
        policy = session.policy(start)
        groups = _sft_groups(session, policy, sample.examples)
        seed = seed_of(recipe.seed, Stream.SFT_STEP, iteration)
        outcome = _train(session, policy, groups, _SFT, recipe.sft_step, f"sft {iteration}", seed)
        return _save(session, policy, folder, outcome, "sft_step")

    return _hold(session, session.store.stage(f"sft-{iteration}", depends, make))


def prefer(session: Session, start: Stage, reference: Stage, rejected: Stage, iteration: int, current: Stage) -> Stage:
    """The preference step: raise the targets over the rejected answers, relative to the reference.

    Args:
        session: the run.
        start: the model that is trained.
        reference: the frozen reference model.
        rejected: of :func:`negatives`.
        iteration: its number.
        current: pi_t, the model that the iteration began with; Eq. 8 weights negatives by its probabilities.
    """
    recipe = session.recipe
    needs = PREFERENCES[recipe.prefer.objective].needs
    depends = {
        "start": start.key,
        "reference": reference.key,
        "rejected": rejected.key,
        "current": current.key if needs == "log_weights" else None,
        "sasrec": sasrec_key(session) if needs == "smoothing" else None,
        **session.depends(Part.PREFER),
    }

    def make(folder: Path) -> str:
        rollouts = Rollouts.read(rejected.folder)
        if recipe.negatives.drop_equal:
            rollouts = rollouts.without_equal(session.dataset.catalog, session.dataset.train)
        examples = session.dataset.train.take(rollouts.rows)
        groups = preference_groups(
            session.policy(reference),
            session.builder,
            examples,
            rollouts.titles,
            recipe.prompt.max_tokens,
            session.store.tokens,
        )
        before = _log_probs(session, reference, groups, "reference", iteration)
        extra = {"reference": before}
        if needs == "log_weights":
            now = before if current == reference else _log_probs(session, current, groups, "weights", iteration)
            extra["log_weights"] = importance(session, examples, now)
        if needs == "smoothing":
            extra["smoothing"] = smoothing(session, examples, rollouts.titles)
        policy = session.policy(start)
        seed = seed_of(recipe.seed, Stream.PREFER, iteration)
        outcome = _train(
            session, policy, groups, preference(recipe.prefer), recipe.prefer, f"prefer {iteration}", seed, extra
        )
        return _save(session, policy, folder, outcome, "prefer", recipe.prefer.beta)

    return _hold(session, session.store.stage(f"prefer-{iteration}", depends, make))


def _log_probs(session: Session, stage: Stage, groups: Sequence[PromptGroup], use: str, iteration: int) -> torch.Tensor:
    """Log-probabilities under a frozen model, once for the whole stage, (n, 1 + K), 0 for missing completions.

    The progress bar and the journal are named by their ``use``.
    """
    values = score(
        session.policy(stage),
        groups,
        budget=session.recipe.tokens_per_batch,
        description=f"{use} {iteration}",
        journal=session.store.unfinished / use,
    )
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True) if values else torch.zeros(0, 2)


def importance(session: Session, examples: Split, current: torch.Tensor) -> torch.Tensor:
    """The weights of Eq. 8, as logarithms: log pi_t(y_l|x) - log q(y_l|x) of uniform negatives, (n, K).

    Args:
        session: its recipe says whether the sampler excluded the histories.
        examples: the pairs' histories and targets.
        current: log-probabilities under pi_t, (n, 1 + K).
    """
    kept_out = session.recipe.negatives.exclude_history
    log_q = uniform_log_prob(examples, len(session.dataset.catalog), exclude_history=kept_out)
    return current[:, 1:] - torch.from_numpy(log_q)[:, None].to(current.dtype)


def preference(settings: Prefer) -> Objective:
    """The objective of the ``settings`` for prompt groups whose first completion is the chosen one."""
    row = PREFERENCES[settings.objective]

    def loss(policy: torch.Tensor, batch: GroupBatch) -> torch.Tensor:
        return row.loss(policy, batch.extra["reference"], batch.mask, batch.extra, settings)

    return Objective(loss)


def evaluation_depends(session: Session, policy: Stage, start: Stage) -> dict[str, Any]:
    """What the lists and metrics of an evaluation depend on.

    Args:
        session: the run, with the settings of the evaluation.
        policy: the model.
        start: encodes titles in grounding.
    """
    needs = needs_of(session.recipe.recommend)
    return {
        "policy": policy.key if Need.MODEL in needs else None,
        "backbone": start.key if Need.GROUNDER in needs else None,
        "encoder": session.encoder_content if Need.GROUNDER in needs else None,
        "sasrec": sasrec_key(session) if Need.SASREC in needs else None,
        "genres": list(session.dataset.genres),
        **session.depends(Part.EVALUATE),
    }


def evaluate(session: Session, name: str, policy: Stage, start: Stage) -> dict[str, float]:
    """Recommend to the test cases and measure; stage ``name`` has ``recommendations.parquet`` and ``metrics.json``."""
    settings = weights_stage.weights(session, name, policy, start)
    session.tilt = tilt_stage.tilt(session, name, settings, policy, start) if is_tilted(settings) else None

    def make(folder: Path) -> str:
        examples = session.cases
        journal = session.store.unfinished / "answers"
        offset = None if session.tilt is None else tilt_stage.offset_of(session, session.tilt.folder)
        found = protocols.recommend(session, settings, policy, start, examples, journal=journal, offset=offset)
        metrics = metrics_of(session, found)
        if processes.first():
            write_recommendations(folder / RECOMMENDATIONS, found)
            write_json(folder / "metrics.json", storage.defined(metrics))
        shown = ("HR@5", "DivRatio@1", "ORRatio@1", "MGU@1", "ExactTitles")
        return "  ".join(f"{key} {metrics[key]:.4f}" for key in shown if key in metrics)

    stage = session.store.stage(f"evaluate-{name}", evaluation_depends(session, policy, start), make)
    if session.store.dry:
        return {}
    metrics: dict[str, float] = json.loads((stage.folder / "metrics.json").read_text("utf-8"))
    return {key: float("nan") if value is None else value for key, value in metrics.items()}


def metrics_of(session: Session, found: Recommendations, ks: Iterable[int] = CUTOFFS) -> dict[str, float]:
    """All metrics of the lists ``found`` for the cases of a session at cut-offs ``ks`` (see :func:`measured`)."""
    if found.proven is not None and not found.proven.all():
        say(f"! {1 - found.proven.mean():.1%} of the lists may miss a better item; raise recommend.beams")
    return measured(found.items, session.cases, session.dataset, ks, found.titles or found.samples)


def measured(
    lists: np.ndarray, cases: Split, dataset: Dataset, ks: Iterable[int] = CUTOFFS, titles: Sequence[str] = ()
) -> dict[str, float]:
    """All metrics of ``lists`` for the examples ``cases``; undefined ones are reported in one line.

    ``dataset``, ``ks`` and ``titles`` are as for :func:`cases_of`.
    """
    with warnings.catch_warnings(record=True) as caught:  # Python would print two lines, one of them source code
        warnings.simplefilter("always")
        metrics = measure(cases_of(lists, cases, dataset, ks, titles))
    for one in caught:
        say(f"! {one.message}")
    return metrics


def write_recommendations(file: Path, found: Recommendations) -> None:
    """Write the lists ``found`` to a ``file``, a row per case.

    Its columns are case, items (best first), title, samples, log_probs and proven, the last four null for protocols
    without them.
    """
    none, count = [None] * len(found.items), len(found.items)
    log_probs = none if found.log_probs is None else found.log_probs.tolist()
    samples = np.reshape(np.array(found.samples, object), (count, -1)).tolist() if found.samples else none
    frame = pl.DataFrame(
        {
            "case": np.arange(count),
            "items": found.items.tolist(),
            "title": list(found.titles) or none,
            "samples": samples,
            "log_probs": log_probs,
            "proven": none if found.proven is None else found.proven.tolist(),
        },
        schema={
            "case": pl.Int64,
            "items": pl.List(pl.Int64),
            "title": pl.String,
            "samples": pl.List(pl.String),
            "log_probs": pl.List(pl.Float64),
            "proven": pl.Boolean,
        },
    )
    write_parquet(frame, file)


def read_recommendations(file: Path) -> Recommendations:
    """The lists in a ``file`` of :func:`write_recommendations`, of this version or an earlier one."""
    frame = read_parquet(file)

    def column(name: str) -> list[Any]:
        return frame[name].to_list() if name in frame.columns and not frame[name].null_count() else []

    log_probs, proven = (np.array(values) if values else None for values in map(column, ("log_probs", "proven")))
    samples = [title for titles in column("samples") for title in titles]
    return Recommendations(np.array(column("items")), column("title"), log_probs, samples, proven)


def _sft_groups(session: Session, policy: Policy, examples: Split) -> Groups:
    return sft_groups(policy, session.builder, examples, session.recipe.prompt.max_tokens, session.store.tokens)


def _train(
    session: Session,
    policy: Policy,
    groups: Sequence[PromptGroup],
    objective: Objective,
    settings: Training,
    description: str,
    seed: int,
    extra: dict[str, torch.Tensor] | None = None,
    valid: Sequence[PromptGroup] = (),
) -> Outcome:
    session.holds("")
    return train(
        policy,
        groups,
        objective,
        settings,
        seed=seed,
        extra=extra,
        valid=valid,
        budget=session.recipe.tokens_per_batch,
        description=description,
        track=session.recipe.track,
        log_folder=session.store.logs,
        checkpoints=Checkpoints(session.store.unfinished, session.recipe.checkpoint_steps),
        recompute=session.recipe.recompute,
    )


def _save(
    session: Session, policy: Policy, folder: Path, outcome: Outcome, section: str, beta: float | None = None
) -> str:
    """Write the results of a training stage, and warn of problems; its rates are in a ``section`` of the recipe."""
    policy.save(folder / "model")
    numbers = health.of_training(outcome, beta)
    for warning in health.warn_of_training(numbers, section):
        say(f"! {session.store.logs.name}: {warning}")
    if processes.first():
        write_json(folder / "health.json", numbers)
        (folder / LOG).write_text("".join(json.dumps(step) + "\n" for step in outcome.steps))
        write_json(folder / "outcome.json", {"valid_loss": outcome.valid_loss, "best_epoch": outcome.best_epoch})
    if not outcome.steps:
        return "nothing to learn from: the model is as before"
    loss = np.mean([step["loss"] for step in outcome.steps[-20:]])
    valid = f", validation {min(outcome.valid_loss):.4f}" if outcome.valid_loss else ""
    return f"loss {loss:.4f}{valid}"


def _hold(session: Session, stage: Stage) -> Stage:
    """Record that the policy in memory has the weights of a stage that was just made."""
    session.made(stage.key)
    return stage
