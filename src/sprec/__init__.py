"""Language models as recommenders, aligned by self-play so that they stop recommending the same few items.

Names are loaded when they are first used, so that ``import sprec`` stays fast.

Examples:
    From simulated film watchers to recommendations, with a model so small that it takes seconds:

    >>> from sprec import Dataset, Recommender, resolve, run
    >>> from sprec.data.demo import demo
    >>> dataset = demo(seed=0, train=100, valid=10, test=20, extra=0).save("films")
    >>> tiny = ["backbone.hidden=32", "backbone.epochs=1", "loop.samples=16", "loop.iterations=1", "cases=20"]
    >>> results = run(resolve("demo", tiny), dataset, "my-run")
    >>> [result.method for result in results]
    ['popularity', 'knn', 'bigrec', 'sprec', 'sprec']
    >>> recommender = Recommender.load("my-run")
    >>> items = recommender.recommend([["Alien (1979)", "Blade Runner (1982)"]], k=3)[0]
    >>> len({recommender.catalog.titles[item] for item in items})
    3
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprec.data import Dataset
    from sprec.evaluation import evaluate
    from sprec.runs import Recommender, resolve, run

__all__ = ["Dataset", "Recommender", "evaluate", "resolve", "run"]

_HOMES = {"Dataset": "data", "Recommender": "runs", "evaluate": "evaluation", "resolve": "runs", "run": "runs"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: ``import sprec`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sprec' has no attribute {name!r}")
    return getattr(import_module(f"sprec.{_HOMES[name]}"), name)
