"""The consensus protocol: many samples per user, ranked by how often they name an item."""

import numpy as np

from sprec.engine.decode.generation import Decoding, generate
from sprec.methods.exclusion import Excluded, nothing_excluded
from sprec.prompts import parse_title
from sprec.recommend.grounding import Grounder
from sprec.recommend.protocols import Context, Recommendations


def recommend_by_consensus(context: Context) -> Recommendations:
    """S samples per user at temperature T, the prompt read once; mapped to items, ranked by votes.

    A sample votes for the item whose title is nearest to it, barred items apart. Votes for the other items that a list
    leaves out do not count. Ties go to the item whose samples were more probable under the model. Cases with fewer than
    k different items are filled with the items nearest to their first one.

    Args:
        context: of n cases; its settings have S (``samples``) and T (``temperature``).

    Returns:
        Lists of shape (n, k), the share of the votes of each item, and the n S sampled titles.
    """
    settings, policy, grounder, excluded = context.settings, context.policy(), context.grounder(), context.excluded
    decoding = Decoding(
        mode="sample",
        count=settings.samples,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens or Decoding.max_new_tokens,
        seed=context.seed,
    )
    answers = generate(
        policy, context.asked(), decoding, budget=context.budget, description="consensus", journal=context.journal
    )
    flat = [completion for answer in answers for completion in answer]
    known = grounder.catalog.by_title
    titles = [parse_title(text, known) for text in policy.decode([completion.tokens for completion in flat])]
    open_to_all = Excluded(nothing_excluded(len(titles), excluded.items), excluded.barred)
    voted = grounder.top_k(titles, 1, open_to_all)[:, 0].reshape(len(answers), settings.samples)
    log_probs = np.array([completion.log_prob for completion in flat]).reshape(voted.shape)
    allowed = ~excluded.contains(np.arange(len(voted))[:, None], voted)
    ranked = [
        rank_votes(items[kept], scores[kept])[: settings.top_k]
        for items, scores, kept in zip(voted, log_probs, allowed, strict=True)
    ]
    lists = _filled(ranked, voted, grounder, settings.top_k, excluded)
    shares = np.where(lists < 0, -np.inf, (voted[:, None] == lists[..., None]).mean(2))
    return Recommendations(lists, [], samples=titles, scores=shares)


def rank_votes(items: np.ndarray, log_probs: np.ndarray) -> list[int]:
    """Items by number of votes, ties by the highest log-probability of a sample, then by item id.

    Args:
        items: the item each sample votes for, (S,).
        log_probs: log-probability of each sample, (S,).
    """
    names, place, votes = np.unique(items, return_inverse=True, return_counts=True)
    best = np.full(len(names), -np.inf)
    np.maximum.at(best, place, log_probs)
    ranked: list[int] = names[np.lexsort((names, -best, -votes))].tolist()
    return ranked


def _filled(ranked: list[list[int]], voted: np.ndarray, grounder: Grounder, k: int, excluded: Excluded) -> np.ndarray:
    """Lists of k items: short ones are filled with the items nearest to their first vote, then padded with -1."""
    short = [row for row, items in enumerate(ranked) if len(items) < k]
    if short:
        first = [grounder.title_of(ranked[row][0] if ranked[row] else int(voted[row, 0])) for row in short]
        nearest = grounder.top_k(first, k, excluded.take(short))
        for row, items in zip(short, nearest.tolist(), strict=True):
            further = dict.fromkeys(
                ranked[row] + [item for item in items if item >= 0]
            )  # enough of the k have no votes
            ranked[row] = (list(further) + [-1] * k)[:k]
    return np.array(ranked, dtype=np.int64).reshape(len(ranked), k)
