"""Lists and a dataset as the input of the metrics."""

from collections.abc import Iterable, Sequence

import numpy as np

from sprec.data import Dataset, Split
from sprec.evaluation import CUTOFFS, Cases, CatalogFacts, accumulate, exact_titles
from sprec.methods.histories import item_counts


def cases_of(
    lists: np.ndarray, rows: Split, dataset: Dataset, ks: Iterable[int] = CUTOFFS, titles: Sequence[str] = ()
) -> Cases:
    """Lists, targets, histories and the catalogue together.

    Args:
        lists: item ids, best first, padded with -1, (n, k).
        rows: the examples that they were made for.
        dataset: its training split gives the popularity.
        ks: cut-offs; those larger than the lists or the catalogue are left out.
        titles: the titles that the model wrote, equally many for each example; none for protocols that choose items.
    """
    catalog = dataset.catalog
    return accumulate(
        lists,
        rows.targets,
        rows.items,
        rows.offsets,
        catalog.genre_matrix(dataset.genres),
        [k for k in ks if k <= min(lists.shape[1], len(catalog))],
        CatalogFacts(item_counts(dataset.train, len(catalog)), catalog.genres),
        exact_titles(titles, catalog.titles, len(rows)) if titles else None,
    )
