"""The pipeline: recipes, stages, the run directory."""

from sprec.runs.pipeline import Result, load_results, run
from sprec.runs.recipes import resolve
from sprec.runs.recommender import Recommender

__all__ = ["Recommender", "Result", "load_results", "resolve", "run"]
