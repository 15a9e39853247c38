"""Results of runs as tables."""

from collections.abc import Sequence

from sprec.evaluation import Table, selected, table_of_values
from sprec.runs.pipeline import Result


def table_of_results(results: Sequence[Result], title: str) -> Table:
    """The ``results`` with a ``title``, a row per baseline and stage: the paper's metrics, the share of real titles."""
    rows = {_label(result): result.metrics for result in results}
    measured = {name for result in results for name in result.metrics}
    return table_of_values(rows, title, selected(None, measured))


def _label(result: Result) -> str:
    return result.method if result.baseline else f"{result.method}: {result.stage} {result.iteration}"
