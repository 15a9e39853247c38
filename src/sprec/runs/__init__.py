"""One run: its recipe, its stages, its folder, and what it recommends."""

from sprec.runs.evaluations import evaluate_run
from sprec.runs.pipeline import Result, load_results, run
from sprec.runs.recipes import resolve
from sprec.runs.recommender import Recommender

__all__ = [
    "Recommender",
    "Result",
    "evaluate_run",
    "load_results",
    "resolve",
    "run",
]
