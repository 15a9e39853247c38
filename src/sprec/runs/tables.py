"""Results of runs as tables."""

from collections.abc import Sequence

from sprec.evaluation import Table, selected, table_of_values
from sprec.runs.pipeline import Result


def table_of_results(results: Sequence[Result], title: str) -> Table:
    """The ``results`` with a ``title``, a row per stage: the paper's metrics and the share of titles that exist."""
    rows = {f"{result.method}: {result.stage} {result.iteration}": result.metrics for result in results}
    measured = {name for result in results for name in result.metrics}
    return table_of_values(rows, title, selected(None, measured))
