"""The recommending protocols of a run, with what they need (grounding, trie, SASRec) at hand."""

import numpy as np

from sprec.data import Split
from sprec.engine.backbone import Policy
from sprec.recommend.consensus import recommend_by_consensus
from sprec.recommend.recommender import Recommendations, recommend_by_title
from sprec.runs.examples import prompts
from sprec.runs.session import Session
from sprec.runs.store import Stage


def recommend(session: Session, policy: Policy, backbone: Stage, examples: Split) -> Recommendations:
    """Top-k items for each example, by the protocol of the recipe."""
    recipe = session.recipe
    settings, budget = recipe.recommend, recipe.tokens_per_batch
    asked = prompts(policy, session.builder, examples, "generate", recipe.prompt.max_tokens)
    if settings.protocol == "consensus":
        seed = int(np.random.SeedSequence([recipe.seed, 6]).generate_state(1)[0])
        grounder = session.grounder(backbone)
        return recommend_by_consensus(policy, asked, examples, grounder, settings, budget, seed)
    return recommend_by_title(policy, asked, examples, session.grounder(backbone), settings, budget)
