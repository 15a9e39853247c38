"""The method table: every method of the paper is the same loop with other settings.

A row has the settings that define the method and overrides the recipe; samples, rates and the number of iterations of
the self-play methods are the recipe's. A new method is a new row, plus at most one pure function (an objective, a
negative sampler or a weight rule).
"""

from typing import Any

_SFT_ONLY: dict[str, Any] = {"loop": {"iterations": 0}}
_ONE_ROUND: dict[str, Any] = {"iterations": 1, "sft_step": False}
_SELF_PLAY: dict[str, Any] = {"source": "self-play"}

METHODS: dict[str, dict[str, Any]] = {
    "bigrec": _SFT_ONLY,
    "rw": _SFT_ONLY | {"sft": {"weights": "correct"}},
    "d3": _SFT_ONLY | {"recommend": {"protocol": "d3"}},
    "knn": _SFT_ONLY | {"recommend": {"protocol": "knn"}},
    "sasrec": _SFT_ONLY | {"recommend": {"protocol": "sasrec"}},
    "popularity": _SFT_ONLY | {"recommend": {"protocol": "popularity"}},
    "random": _SFT_ONLY | {"recommend": {"protocol": "random"}},
    "dpo": {"loop": _ONE_ROUND, "negatives": {"source": "uniform"}, "prefer": {"objective": "dpo"}},
    "dmpo": {
        "loop": _ONE_ROUND,
        "negatives": {"source": "uniform", "count": 3},
        "prefer": {"objective": "dmpo"},
    },
    "sdpo": {
        "loop": _ONE_ROUND,
        "negatives": {"source": "uniform", "count": 3},
        "prefer": {"objective": "sdpo"},
    },
    "rosepo": {
        "loop": _ONE_ROUND,
        "negatives": {"source": "semantic"},
        "prefer": {"objective": "smoothed-dpo"},
    },
    "rosepo-official": {
        "loop": _ONE_ROUND,
        "negatives": {"source": "semantic", "least_similar": True},
        "prefer": {"objective": "dpo"},
    },
    "sprec": {"negatives": _SELF_PLAY},
    "sprec-nosft": {"loop": {"sft_step": False}, "negatives": _SELF_PLAY},
    "sprec-nodpo": {"loop": {"dpo_step": False}},
    "sprec-rn": {"negatives": {"source": "uniform"}},
    "sprec-weighted": {
        "negatives": {"source": "uniform"},
        "prefer": {"objective": "weighted-dpo"},
    },
}
"""Method name to the settings that define it (one loop, every method a row; paper, Tables 2 and 3).

``sprec-weighted`` is Eq. 8: uniform negatives, each pair weighted by the policy's own probability of the negative.
``rosepo-official`` is RosePO as in the research code of SPRec: the least similar item, no smoothing.
"""
