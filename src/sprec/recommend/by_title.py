"""The paper's protocol: a greedy title, grounded in the catalog."""

from collections.abc import Sequence
from pathlib import Path

from sprec.config import Recommend
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.model.policy import Policy
from sprec.methods.exclusion import Excluded
from sprec.prompts import parse_title
from sprec.recommend.grounding import Grounder
from sprec.recommend.protocols import Recommendations


def recommend_by_title(
    policy: Policy,
    asked: Sequence[Sequence[int]],
    excluded: Excluded,
    grounder: Grounder,
    settings: Recommend,
    budget: int,
    journal: Path | None = None,
) -> Recommendations:
    """The paper's protocol: one greedy title per user, then the items with the nearest titles (BIGRec).

    Args:
        policy: the model.
        asked: token ids of the prompts.
        excluded: what each list leaves out.
        grounder: titles to items.
        settings: length of titles and lists.
        budget: tokens per batch.
        journal: a folder that remembers finished batches.
    """
    decoding = Decoding(max_new_tokens=settings.max_new_tokens or Decoding.max_new_tokens)
    answers = generate(policy, asked, decoding, budget=budget, description="recommend", journal=journal)
    known = grounder.catalog.by_title
    titles = [parse_title(text, known) for text in policy.decode([answer[0].tokens for answer in answers])]
    items, distances = grounder.nearest(titles, settings.top_k, excluded)
    return Recommendations(items, titles, scores=-distances)
