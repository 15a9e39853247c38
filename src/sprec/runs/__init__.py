"""The pipeline: recipes, stages, the run directory."""

from sprec.runs.compare import compare_runs, score_lists
from sprec.runs.pipeline import Result, load_results, run
from sprec.runs.recipes import resolve
from sprec.runs.recommender import Recommender, evaluate_run

__all__ = [
    "Recommender",
    "Result",
    "compare_runs",
    "evaluate_run",
    "load_results",
    "resolve",
    "run",
    "score_lists",
]
