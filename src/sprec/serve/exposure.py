"""How the recorded test lists of a run distribute exposure over the items of its catalog."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprec.evaluation import Cases, replicates
from sprec.runs.cases import cases_of
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
        gini: Gini@k, 0 if all items are recommended equally often; twice the area between the curve and the diagonal.
        covered: Coverage@k, the share of the items that are in any list.
        tail: APLT@k, the share of a list in the long tail; None if the training data has no interactions.
        top: the ten most recommended items, and the share of the lists that have each.
    """

    name: str
    lists: int
    lorenz: list[float]
    gini: float
    covered: float
    tail: float | None
    top: list[tuple[int, float]]


def exposure_of(name: str, cases: Cases) -> Exposure:
    """How lists distribute exposure over items.

    Args:
        name: of the lists' model.
        cases: with the lists and the facts of the catalog; the largest cut-off counts.
    """
    k, lists = cases.ks[-1], cases.lists
    counts = np.bincount(lists[lists >= 0], minlength=cases.items)
    curve = np.concatenate([[0.0], np.cumsum(np.sort(counts)) / max(1, counts.sum())])
    names = [f"{metric}@{k}" for metric in ("Gini", "Coverage", "APLT")]
    gini, covered, tail = (float(values[0]) for values in replicates(cases, names=names).values())
    top = np.argsort(-counts, kind="stable")[:_TOP]
    return Exposure(
        name=name,
        lists=len(lists),
        lorenz=np.interp(np.linspace(0, 1, _POINTS + 1), np.linspace(0, 1, cases.items + 1), curve).tolist(),
        gini=gini,
        covered=covered,
        tail=None if np.isnan(tail) else tail,
        top=[(int(item), float(counts[item] / len(lists))) for item in top if counts[item]],
    )


def recorded(session: Session) -> Sequence[Exposure]:
    """The exposure in the test lists of a run's first and last evaluation.

    Empty if the run has no evaluations, for example after its items changed.

    Args:
        session: a finished run.
    """
    root, dataset = session.store.root, session.dataset
    split, found = dataset.splits[session.recipe.split], []
    try:
        results = load_own_results(root)
        for index in dict.fromkeys((0, len(results) - 1)):
            result = results[index]
            folder = stage_of(root, f"evaluate-{result.stage}-{result.iteration}").folder
            lists = read_recommendations(folder / RECOMMENDATIONS).items
            cases = cases_of(lists, split[: len(lists)], dataset, [min(K, lists.shape[1])])
            when = f", {result.stage} {result.iteration}" if len(results) > 1 else ""
            found.append(exposure_of(result.method + when, cases))
    except UserError:
        return []
    return found
