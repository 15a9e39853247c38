"""The recommending protocols of a run, with what they need (grounding, trie, SASRec) at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sprec.config import Recipe
from sprec.data import Split
from sprec.engine.model.policy import Policy
from sprec.methods.d3 import guidance
from sprec.methods.histories import item_counts
from sprec.methods.table import WITHOUT_MODEL
from sprec.methods.trivial import popular_top_k, random_top_k
from sprec.recommend.by_title import Recommendations, recommend_by_title
from sprec.recommend.consensus import recommend_by_consensus
from sprec.recommend.exact import RankedItems, rank_items
from sprec.runs.examples import pretraining_examples, prompts
from sprec.runs.sasrec_stage import load_oracle, needs_oracle
from sprec.runs.session import Session
from sprec.runs.store import Stage
from sprec.system.progress import say

_SETTINGS = {
    "paper": ("encoder", "max_new_tokens"),
    "exact": ("beams",),
    "consensus": ("encoder", "max_new_tokens", "samples", "temperature"),
    "d3": ("beams", "alpha"),
    "d3-grounded": ("encoder", "beams", "alpha"),
}
"""Which settings a protocol reads, beside those that all read."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide what a recipe recommends: a changed setting of another protocol changes nothing."""
    ranked = recipe.method in WITHOUT_MODEL
    own = () if ranked else ("protocol", *_SETTINGS[recipe.recommend.protocol])
    read = {"top_k", "exclude_history", *own}
    return {name: value for name, value in recipe.recommend.decisive().items() if name in read}


def recommend(
    session: Session, stage: Stage, backbone: Stage, examples: Split, journal: Path | None = None
) -> Recommendations:
    """Top-k items for each example, by the protocol of the recipe, with the policy of a stage.

    Methods without a language model have no protocol: they rank items.

    Args:
        journal: a folder that remembers finished batches of these examples, for protocols that generate titles.
    """
    recipe = session.recipe
    settings, budget = recipe.recommend, recipe.tokens_per_batch
    if recipe.method in WITHOUT_MODEL:
        return Recommendations(_without_model(session, examples), [])
    policy = session.policy(stage)
    asked = prompts(policy, session.builder, examples, "generate", recipe.prompt.max_tokens)
    if settings.protocol in ("exact", "d3"):
        found = _ranked(session, policy, asked, examples, settings.top_k)
        # the scores of D3 are no log-probabilities
        return Recommendations(found.items, [], found.log_probs if settings.protocol == "exact" else None)
    grounder = session.grounder(backbone)
    if settings.protocol == "d3-grounded":
        best = _ranked(session, policy, asked, examples, 1).items[:, 0]
        titles = [grounder.title_of(item) for item in best.tolist()]
        exclude = [np.array(example.history) for example in examples] if settings.exclude_history else None
        return Recommendations(grounder.top_k(titles, settings.top_k, exclude), titles)
    if settings.protocol == "consensus":
        seed = int(np.random.SeedSequence([recipe.seed, 6]).generate_state(1)[0])
        return recommend_by_consensus(policy, asked, examples, grounder, settings, budget, seed, journal)
    return recommend_by_title(policy, asked, examples, grounder, settings, budget, journal)


def _ranked(session: Session, policy: Policy, asked: Sequence[Sequence[int]], examples: Split, k: int) -> RankedItems:
    """The k items whose titles are most probable, or have the best score of D3."""
    settings, trie = session.recipe.recommend, session.trie(policy)
    exact, guide = settings.protocol == "exact", None
    if needs_oracle(session.recipe) and not exact:
        assistant = load_oracle(session)
        guide = guidance(trie, lambda numbers: assistant.scores(examples.take(list(numbers))), settings.alpha)
    found = rank_items(
        policy,
        asked,
        examples,
        trie,
        k,
        settings.beams,
        exclude_history=settings.exclude_history,
        guide=guide,
        best_first=exact,
        budget=session.recipe.tokens_per_batch,
    )
    if exact and not found.certain.all():
        say(f"! {1 - found.certain.mean():.1%} of the lists may miss a better item; raise recommend.beams")
    return found


def _without_model(session: Session, examples: Split) -> np.ndarray:
    """Items ranked by SASRec, by how often they were interacted with, or by chance, shape (n, k)."""
    recipe, items = session.recipe, len(session.dataset.catalog)
    k, exclude = recipe.recommend.top_k, recipe.recommend.exclude_history
    if recipe.method == "sasrec":
        return load_oracle(session).top_k(examples, k, exclude)
    if recipe.method == "popularity":
        counts = item_counts(pretraining_examples(session.dataset), items)
        return popular_top_k(counts, examples, k, exclude_history=exclude)
    rng = np.random.default_rng([recipe.seed, 7])
    return random_top_k(rng, examples, items, k, exclude_history=exclude)
