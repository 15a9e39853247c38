from sprec.evaluation.metrics import (
    Cases,
    accumulate,
    entropy,
    evaluate,
    exact_title_share,
    genre_unfairness,
    replicates,
)

__all__ = [
    "Cases",
    "accumulate",
    "entropy",
    "evaluate",
    "exact_title_share",
    "genre_unfairness",
    "replicates",
]
