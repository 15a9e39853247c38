"""Many runs: the paper's experiments, their records, tables and figures."""

from sprec.study.compare import compare_runs
from sprec.study.lists import score_lists

__all__ = ["compare_runs", "score_lists"]
