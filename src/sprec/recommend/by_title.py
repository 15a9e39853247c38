"""From a policy to top-k items for each history, by one of the protocols."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sprec.config import Recommend
from sprec.data import Example
from sprec.engine.decode.generation import Decoding, generate
from sprec.engine.model.policy import Policy
from sprec.prompts import parse_title
from sprec.recommend.grounding import Grounder


@dataclass(frozen=True)
class Recommendations:
    """Top-k lists.

    Attributes:
        items: item ids, best first, shape (n, k); -1 where there is no k-th item.
        titles: the title that the model generated for each case, empty for protocols that choose items directly.
        samples: all sampled titles, case by case, of the protocol that asks for several per case.
        log_probs: log-probability of each item's title under the model, in nats, shape (n, k), -inf where there is no
            item; None for protocols that know none.
    """

    items: np.ndarray
    titles: list[str]
    log_probs: np.ndarray | None = None
    samples: list[str] = field(default_factory=list)


def recommend_by_title(
    policy: Policy,
    asked: Sequence[Sequence[int]],
    examples: Sequence[Example],
    grounder: Grounder,
    settings: Recommend,
    budget: int,
    journal: Path | None = None,
) -> Recommendations:
    """The paper's protocol: one greedy title per user, then the items with the nearest titles (BIGRec).

    Args:
        asked: token ids of the prompts.
        examples: their examples; the histories are excluded if the settings say so.
        journal: a folder that remembers finished batches.
    """
    decoding = Decoding(max_new_tokens=settings.max_new_tokens)
    answers = generate(policy, asked, decoding, budget=budget, description="recommend", journal=journal)
    titles = [parse_title(text) for text in policy.decode([answer[0].tokens for answer in answers])]
    exclude = [np.array(example.history) for example in examples] if settings.exclude_history else None
    return Recommendations(grounder.top_k(titles, settings.top_k, exclude), titles)
