"""The paper's protocol: a greedy title, grounded in the catalog."""

from sprec.engine.decode.generation import Decoding, generate
from sprec.prompts import parse_title
from sprec.recommend.protocols import Context, Recommendations


def recommend_by_title(context: Context) -> Recommendations:
    """The paper's protocol: one greedy title per user, then the items with the nearest titles (BIGRec).

    Args:
        context: of n cases.

    Returns:
        Lists of shape (n, k), scored by minus the distance to the generated title.
    """
    settings, policy, grounder = context.settings, context.policy(), context.grounder()
    decoding = Decoding(max_new_tokens=settings.max_new_tokens or Decoding.max_new_tokens)
    answers = generate(
        policy, context.asked(), decoding, budget=context.budget, description="recommend", journal=context.journal
    )
    known = grounder.catalog.by_title
    titles = [parse_title(text, known) for text in policy.decode([answer[0].tokens for answer in answers])]
    items, distances = grounder.nearest(titles, settings.top_k, context.excluded)
    return Recommendations(items, titles, scores=-distances)
