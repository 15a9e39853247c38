import numpy as np
import pytest

from sprec.methods.ranking import sampled_columns, top_columns

RANDOM = np.random.default_rng(0)


def test_samples_are_drawn_without_replacement_in_proportion() -> None:
    """Three items, p = .5, .3, .2: the pair (a, b) comes with p_a p_b / (1 - p_a); at T = .5 the same with squares."""
    p, draws = np.array([0.5, 0.3, 0.2]), 60_000
    for temperature in (1.0, 0.5):
        pairs = sampled_columns(RANDOM, np.tile(np.log(p) - 7, (draws, 1)), 2, temperature)
        sharp = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        for a in range(3):
            for b in {0, 1, 2} - {a}:
                expected = sharp[a] * sharp[b] / (1 - sharp[a])
                found = ((pairs == [a, b]).all(1)).mean()
                assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / draws))


def test_what_must_not_be_drawn_is_not_and_cold_draws_are_the_best() -> None:
    log_probs = RANDOM.normal(size=(200, 9))
    log_probs[:, 4] = -np.inf
    assert not (sampled_columns(RANDOM, log_probs, 8, 3.0) == 4).any()
    assert sampled_columns(RANDOM, log_probs, 3, 1e-9).tolist() == top_columns(log_probs, 3).tolist()
