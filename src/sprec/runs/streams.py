"""Streams of random numbers: whatever is drawn in a run has a stream of its own, so that no two draws meet."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. The numbers are part of what makes a run repeatable: give a new stream a new one."""

    DRAW = 0
    """Training examples of the SFT (iteration 0) and of the iterations."""
    SFT_STEP = 1
    PREFER = 2
    MIX = 3
    """Cases whose negatives are replaced by uniform ones, and these."""
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
    """A seed of 32 bits for what takes a number, as :func:`rng_of`.

    Args:
        seed: of the run.
        stream: what is drawn.
        iteration: of the run; 0 before the first.
    """
    return int(np.random.SeedSequence([seed, iteration, stream]).generate_state(1)[0])
