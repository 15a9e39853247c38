"""Top-k items straight from the model: the most probable titles, found exactly.

The score of a title is the log-probability of its tokens over the whole vocabulary, including quotes, newline and end
token. Items that share a title share its log-probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sprec.engine.decode.constrained import Guide, Leaves, Search, best_leaves
from sprec.engine.decode.trie import Closed, Trie
from sprec.engine.model.policy import Policy
from sprec.methods.exclusion import Excluded
from sprec.prompts import PromptBuilder

_POOL = 32
"""Hypotheses kept per beam. A trained 2M model reads 120 to find 5 titles of 4,058, all of them with certainty."""


@dataclass(frozen=True)
class RankedItems:
    """Top-k items of n cases with their scores.

    Attributes:
        items: different item ids, best first, ties by id, (n, k); padded with -1.
        log_probs: log-probability of each one's title, or its score if the search was guided, (n, k).
        certain: whether it is proven that no other item is better, (n,).
        wanted: log-probability of the title of each item that was asked for, (n, C).
    """

    items: np.ndarray
    log_probs: np.ndarray
    certain: np.ndarray
    wanted: np.ndarray


def catalog_trie(policy: Policy, builder: PromptBuilder) -> Trie:
    """The trie of all answers of a ``builder`` that name an item, item i with the id i, on the ``policy``'s device."""
    answers = [builder.respond(title) for title in builder.catalog.titles]
    return Trie.of(policy.encode_completions(answers)).to(policy.device)


def rank_items(
    policy: Policy,
    asked: Sequence[Sequence[int]],
    excluded: Excluded,
    trie: Trie,
    k: int,
    beams: int,
    *,
    guide: Guide | None = None,
    best_first: bool = True,
    wanted: np.ndarray | None = None,
    budget: int = 8192,
) -> RankedItems:
    """Find the ``k`` best items for each prompt.

    Args:
        policy: the model.
        asked: token ids of the prompts.
        excluded: what each list leaves out.
        trie: of :func:`catalog_trie`.
        k: items per case.
        beams: hypotheses read at once; at least ``k`` unless ``best_first``.
        guide: changes the scores (D3).
        best_first: return to hypotheses that fell behind until the result is proven; False is plain beam search.
        wanted: items whose titles are scored whether they are found or not, (n, C); each prompt is still read once.
        budget: tokens per batch.
    """
    most = max(beams, k)
    search = Search(k, beams, pool=_POOL * most) if best_first else Search(k, most)
    closed = None
    if excluded.most or excluded.barred.any():
        closed = Closed.of(trie, torch.from_numpy(excluded.own), torch.from_numpy(excluded.barred))
    leaves = None if wanted is None else trie.leaf.cpu()[torch.from_numpy(wanted)]
    found = best_leaves(policy, asked, trie, search, closed=closed, guide=guide, wanted=leaves, budget=budget)
    return _items_of(found, trie, excluded, k)


def _items_of(found: Leaves, trie: Trie, excluded: Excluded, k: int) -> RankedItems:
    """The first ``k`` items of the leaves, best first, ties by id, without the excluded ones."""
    n, ids = len(found.nodes), trie.ids.cpu().numpy()
    leaf = found.nodes.numpy().ravel()
    start, stop = (np.where(leaf < 0, 0, bound.cpu().numpy()[leaf]) for bound in (trie.start, trie.stop))
    count = stop - start
    own = np.repeat(np.cumsum(count) - count, count)
    item = ids[np.repeat(start, count) + np.arange(count.sum()) - own]
    row = np.repeat(np.repeat(np.arange(n), found.nodes.shape[1]), count)
    value = np.repeat(found.scores.numpy().ravel(), count)
    allowed = ~excluded.contains(row, item)
    item, row, value = item[allowed], row[allowed], value[allowed]
    order = np.lexsort((item, -value, row))
    item, row, value = item[order], row[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    items, log_probs = np.full((n, k), -1), np.full((n, k), -np.inf)
    inside = place < k
    items[row[inside], place[inside]] = item[inside]
    log_probs[row[inside], place[inside]] = value[inside]
    return RankedItems(items, log_probs, found.certain.numpy(), found.wanted.numpy())
