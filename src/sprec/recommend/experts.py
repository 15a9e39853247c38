"""Several recommenders at once: their probabilities of items, multiplied.

Each expert gives log-probabilities of the whole catalog. A language model cannot do that for every title; it is asked
for the titles that it finds most probable itself and for the best items of the other experts, with one reading of the
prompt, and :func:`~sprec.methods.experts.of_titles` says what the rest gets.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sprec.data import Split
from sprec.methods.experts import normalised, of_titles, product
from sprec.methods.ranking import at_places, top_columns
from sprec.recommend.exact import rank_items

if TYPE_CHECKING:
    from sprec.recommend.protocols import Context, Recommendations

_ROWS, _SCORES = 256, 1 << 25  # examples, and scores of one expert, that are in memory at once


def log_probs(context: "Context") -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Rows of the examples, some at a time, and of each expert the log-probabilities of all items for them, (B, items).

    Args:
        context: ``settings.experts`` names them; ``settings.beams`` is how many titles the language model finds, and
            how many items of each other expert it is asked for.
    """
    names, size = context.settings.experts, max(1, min(_ROWS, _SCORES // context.items))
    for first in range(0, len(context.examples), size):
        rows = slice(first, first + size)
        part = context.examples[rows]
        found: dict[str, np.ndarray] = {name: _counted(context, name, part) for name in names if name != "lm"}
        if "lm" in names:
            found["lm"] = _of_model(context, rows, list(found.values()))
        yield rows, [found[name] for name in names]


def recommend_by_experts(context: "Context") -> "Recommendations":
    """The items with the highest product, ties by item id.

    Args:
        context: the cases and what is at hand for them.

    Raises:
        ValueError: the weights are not known yet.
    """
    from sprec.recommend.protocols import Recommendations

    settings, k = context.settings, context.settings.top_k
    if settings.weights is None:
        raise ValueError("the weights of the experts are chosen before they recommend")
    items, scores = [np.zeros((0, k), dtype=np.int64)], [np.zeros((0, k))]
    for rows, experts in log_probs(context):
        total = product(experts, settings.weights)
        items.append(top_columns(total, k, context.excluded.take(rows)))
        scores.append(at_places(total, items[-1], -np.inf))
    return Recommendations(np.concatenate(items), scores=np.concatenate(scores))


def _counted(context: "Context", name: str, examples: Split) -> np.ndarray:
    if name == "knn":
        return context.knn().log_probs(examples)
    return normalised(context.sasrec().scores(examples).double().numpy())


def _of_model(context: "Context", rows: slice, others: list[np.ndarray]) -> np.ndarray:
    """Log-probabilities under the language model: of what it finds and of the others' best, (B, items)."""
    count, twins = context.settings.beams, context.twins
    best = [top_columns(other, min(count, context.items)) for other in others]
    asked = np.concatenate([np.zeros((len(context.asked()[rows]), 0), dtype=np.int64), *best], axis=1)
    found = rank_items(
        context.policy(),
        context.asked()[rows],
        context.excluded.take(rows),
        context.trie(),
        count,
        count,
        wanted=asked,
        budget=context.budget,
    )
    items = np.concatenate([found.items, asked], axis=1)
    values = np.concatenate([found.log_probs, found.wanted], axis=1)
    sharing = np.ones(context.items, dtype=np.int64)
    for item, alike in twins.items():
        sharing[item] = len(alike)
    return of_titles(_first_only(items), values, sharing)


def _first_only(items: np.ndarray) -> np.ndarray:
    """The items of each row (n, K), -1 where one has been there before."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(again, -1, items)
