"""How the recorded test lists of a run distribute exposure over the items of its catalog."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprec.evaluation import CatalogFacts
from sprec.methods.histories import item_counts
from sprec.runs.finished import stage_of
from sprec.runs.pipeline import load_own_results
from sprec.runs.session import Session
from sprec.runs.stages import RECOMMENDATIONS, read_recommendations
from sprec.system.errors import UserError

K = 5
"""The number of positions of a list that count."""
_TOP = 10
_POINTS = 100


@dataclass(frozen=True)
class Exposure:
    """How lists distribute exposure over the n items of a catalog.

    Attributes:
        name: of the lists' model.
        lists: their number.
        lorenz: share of all positions that the least exposed items fill, for 101 shares of the items from 0 to 1.
        gini: inequality, 0 if all items are recommended equally often; twice the area between the curve and the
            diagonal.
        covered: share of the items that are in any list.
        tail: share of the positions that items of the long tail fill; None if the training data has no interactions.
        top: the ten most recommended items, and the share of the lists that have each.
    """

    name: str
    lists: int
    lorenz: list[float]
    gini: float
    covered: float
    tail: float | None
    top: list[tuple[int, float]]


def exposure_of(name: str, lists: np.ndarray, popularity: np.ndarray) -> Exposure:
    """How lists distribute exposure over items.

    Args:
        name: of the lists' model.
        lists: item ids, padded with -1, (lists, k).
        popularity: interactions of each item in the training data, (n,).
    """
    items = len(popularity)
    counts = np.bincount(lists[lists >= 0], minlength=items)
    filled = max(1, counts.sum())
    curve = np.concatenate([[0.0], np.cumsum(np.sort(counts)) / filled])
    tail = CatalogFacts(popularity, [()] * items).tail
    top = np.argsort(-counts, kind="stable")[:_TOP]
    return Exposure(
        name=name,
        lists=len(lists),
        lorenz=np.interp(np.linspace(0, 1, _POINTS + 1), np.linspace(0, 1, items + 1), curve).tolist(),
        gini=float(1 - (curve[1:] + curve[:-1]).sum() / items),
        covered=float((counts > 0).mean()),
        tail=None if np.isnan(tail).any() else float(tail @ counts / filled),
        top=[(int(item), float(counts[item] / len(lists))) for item in top if counts[item]],
    )


def recorded(session: Session) -> Sequence[Exposure]:
    """The exposure in the test lists of a run's first and last evaluation.

    Empty if the run has no evaluations, for example after its items changed.

    Args:
        session: a finished run.
    """
    root, dataset = session.store.root, session.dataset
    counts = item_counts(dataset.train, len(dataset.catalog))
    found = []
    try:
        results = load_own_results(root)
        for index in dict.fromkeys((0, len(results) - 1)):
            result = results[index]
            folder = stage_of(root, f"evaluate-{result.stage}-{result.iteration}").folder
            lists = read_recommendations(folder / RECOMMENDATIONS).items[:, :K]
            when = f", {result.stage} {result.iteration}" if len(results) > 1 else ""
            found.append(exposure_of(result.method + when, lists, counts))
    except UserError:
        return []
    return found
