"""Results of runs as tables."""

from collections.abc import Sequence

from sprec.evaluation import PAPER_METRICS, Table, table_of_values
from sprec.runs.pipeline import Result


def table_of_results(results: Sequence[Result], title: str) -> Table:
    """One row per evaluated stage: the paper's metrics and the share of generated titles that exist."""
    shown = [*PAPER_METRICS, "ExactTitles"]
    metrics = [name for name in shown if any(name in result.metrics for result in results)]
    rows = {f"{result.method}: {result.stage} {result.iteration}": result.metrics for result in results}
    return table_of_values(rows, title, metrics)
