"""Streams of random numbers: each kind of draw in a run has its own stream, so that no two use the same numbers."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The kinds of draws. Runs are repeatable only if their numbers stay: give a new stream a new number."""

    DRAW = 0
    """Training examples of the SFT (iteration 0) and of the iterations."""
    SFT_STEP = 1
    PREFER = 2
    MIX = 3
    """The cases whose negatives are replaced by uniform ones, and the latter."""
    ROLLOUT = 4
    NEGATIVES = 5
    RECOMMEND = 6
    """Random draws of a protocol."""
    REDRAW = 8
    SFT = 9
    """Order and dropout of the first SFT."""
    ADAPTERS = 10
    """Fresh adapters."""


def rng_of(seed: int, stream: Stream, iteration: int = 0) -> np.random.Generator:
    """The generator of a stream.

    Args:
        seed: of the run.
        stream: what is drawn.
        iteration: of the run; 0 before the first.
    """
    return np.random.default_rng([seed, iteration, stream])


def seed_of(seed: int, stream: Stream, iteration: int = 0) -> int:
    """A 32-bit seed, for functions that take a number; see :func:`rng_of`.

    Args:
        seed: of the run.
        stream: what is drawn.
        iteration: of the run; 0 before the first.
    """
    return int(np.random.SeedSequence([seed, iteration, stream]).generate_state(1)[0])
