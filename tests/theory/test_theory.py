"""Theorem 1 and its consequences: closed forms, exact enumeration, and every printed digit of the reference tables.

Five values of the specification were rounded twice, to four digits and then to three: it prints .766 (.765 here), .441
(.440), .512 (.511), .413 (.412) and .336 (.335). The tests hold the computed values, rounded once.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sprec.methods.objectives import dmpo, dpo, sdpo
from sprec.theory import dynamics as theory

ZIPF = theory.zipf(20)
START = theory.normalised(ZIPF**1.5)
UNIFORM = np.full(20, 1 / 20)

Summary = tuple[float, float, float, float]


def summary(policy: np.ndarray) -> Summary:
    return (
        theory.total_variation(policy, ZIPF),
        float(policy[0]),
        theory.top(policy, 3),
        theory.effective_items(policy),
    )


def assert_printed(found: float, printed: str) -> None:
    """``found`` rounds to the printed number, at its number of digits."""
    digits = len(printed.partition(".")[2])
    assert f"{found:.{digits}f}" == f"{float(printed):.{digits}f}"


@pytest.mark.parametrize(
    ("beta", "printed"),
    [
        (1.0, ".561404 .315789 .078947 .035088 .008772"),
        (0.5, ".670157 .282723 .035340 .010471 .001309"),
        (0.1, ".959457 .040523 .000020 .000000 .000000"),
    ],
)
def test_closed_form_of_the_fixed_example(beta: float, printed: str) -> None:
    p, q = np.array([0.4, 0.3, 0.15, 0.1, 0.05]), np.full(5, 0.2)
    for found in (theory.optimum(p, q, p, beta), theory.minimise(partial(dpo, beta=beta), p, q, p)):
        for value, text in zip(found, printed.split(), strict=True):
            assert_printed(float(value), text)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.0])
def test_theorem_1_on_random_distributions(beta: float) -> None:
    rng = np.random.default_rng(int(10 * beta))
    for _ in range(5):
        p, q, reference = rng.dirichlet(np.ones(5), 3)
        found = theory.minimise(partial(dpo, beta=beta), p, q, reference)
        np.testing.assert_allclose(found, theory.optimum(p, q, reference, beta), atol=2e-8)


def test_the_gradient_vanishes_at_the_closed_form_and_nowhere_near_it() -> None:
    rng = np.random.default_rng(0)
    p, q, reference = rng.dirichlet(np.ones(6), 3)
    ratios = np.log(theory.optimum(p, q, reference, 0.5) / reference)
    assert np.abs(theory.dpo_gradient(ratios, p, q, 0.5)).max() < 1e-15
    assert np.abs(theory.dpo_gradient(ratios + rng.normal(0, 0.1, 6), p, q, 0.5)).max() > 1e-4


@given(st.integers(0, 2**32), st.floats(0.05, 3))
@settings(deadline=None, max_examples=30)
def test_the_written_gradient_is_that_of_the_training_objective(seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    p, q, reference = rng.dirichlet(np.ones(6), 3) + 1e-12
    logits = rng.normal(0, 1, 6)

    def loss(free: torch.Tensor) -> torch.Tensor:
        return theory.population_loss(partial(dpo, beta=beta), free, reference, p, q)

    expected = torch.func.grad(loss)(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(theory.dpo_gradient(logits - np.log(reference), p, q, beta), expected, atol=1e-13)


def test_an_item_without_data_vanishes() -> None:
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.3, 0.5])
    found = theory.minimise(partial(dpo, beta=1), p, q, np.full(3, 1 / 3))
    np.testing.assert_allclose(found, [9 / 13, 4 / 13, 0], atol=1e-9)  # 0.6/0.2 : 0.4/0.3 = 9 : 4


@pytest.mark.parametrize(
    ("beta", "printed"),
    [
        (2, ".4607 .7122 7.10"),
        (1, ".6265 .8527 4.04"),
        (0.5, ".8327 .9677 1.95"),
        (0.25, ".9644 .9985 1.19"),
        (0.1, ".9995 1.000 1.00"),
    ],
)
def test_popularity_amplification(beta: float, printed: str) -> None:
    policy = theory.optimum(ZIPF, UNIFORM, ZIPF, beta)
    for value, text in zip(summary(policy)[1:], printed.split(), strict=True):
        assert_printed(value, text)
    np.testing.assert_allclose(policy, theory.normalised(ZIPF ** (1 + 1 / beta)), rtol=1e-10)


def test_zipf_itself() -> None:
    for value, text in zip(summary(ZIPF), ["0", ".2780", ".5096", "12.53"], strict=True):
        assert_printed(value, text)


def test_entropy_falls_strictly_with_beta() -> None:
    betas = np.geomspace(5, 0.1, 25)
    counts = [theory.effective_items(theory.optimum(ZIPF, UNIFORM, ZIPF, beta)) for beta in betas]
    assert np.all(np.diff(counts) < 0)


def test_importance_identity() -> None:
    rng = np.random.default_rng(1)
    policy, p, q, reference = rng.dirichlet(np.ones(7), 4)
    direct, weighted = theory.importance_losses(policy, p, q, reference, 0.5)
    assert direct == pytest.approx(weighted, abs=1e-14)
    other = theory.importance_losses(q, p, q, reference, 0.5)[0]
    assert abs(direct - other) > 1e-3  # the weights matter


@pytest.mark.parametrize(
    ("beta", "printed"),
    [(0.6, ".144 .095 .065"), (1, "0 0"), (0.5, ".2125 .2066 .2125"), (0.4, ".304 .396 .539"), (0.1, ".765 .722 .986")],
)
def test_exact_self_play(beta: float, printed: str) -> None:
    policy = START
    assert_printed(theory.total_variation(policy, ZIPF), ".2066")
    for text in printed.split():
        policy = theory.exact_phase(policy, ZIPF, beta)
        assert_printed(theory.total_variation(policy, ZIPF), text)


def test_exact_self_play_contracts_slowly_above_one_half() -> None:
    policy = START
    for _ in range(7):
        policy = theory.exact_phase(policy, ZIPF, 0.6)
    assert_printed(theory.total_variation(policy, ZIPF), ".0128")


@given(st.integers(0, 2**32), st.floats(0.3, 3))
@settings(deadline=None, max_examples=30)
def test_a_phase_multiplies_the_log_error(seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    p, policy = rng.dirichlet(np.full(8, 5.0), 2)
    error = np.log(theory.exact_phase(policy, p, beta) / p) - (1 - 1 / beta) * np.log(policy / p)
    assert np.ptp(error) < 1e-9
    np.testing.assert_allclose(theory.exact_phase(p, p, beta), p, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "sft", "rows"),
    [
        ("sampled", False, ".104 .265 .583 10.5, .072 .295 .562 10.8, .037 .282 .526 11.8, .018 .279 .514 12.2"),
        ("uniform", False, ".406 .684 .863 3.64, .561 .839 .945 2.09, .705 .983 .998 1.11, .722 1.00 1.00 1.00"),
        ("greedy", False, ".355 .021 .644 8.91, .372 .083 .548 10.9, .457 .040 .487 12.7, .392 .177 .440 13.2"),
        ("sampled", True, ".140 .202 .533 11.7, .071 .330 .557 10.7, .028 .273 .513 12.2, .009 .279 .511 12.4"),
        ("greedy", True, ".349 .015 .632 9.24, .334 .114 .512 11.7, .353 .109 .388 14.2, .495 .016 .412 14.5"),
        (None, True, ".145 .376 .655 8.63, .114 .335 .619 9.54, .070 .295 .563 10.9, .041 .283 .531 11.7"),
    ],
)
def test_self_play_in_a_few_steps(kind: theory.Negatives | None, sft: bool, rows: str) -> None:
    policies = theory.self_play(START, ZIPF, kind, 10, sft=sft)
    expected = [".207 .461 .712 7.10", *rows.split(", ")]
    for number, row in zip((0, 1, 2, 5, 10), expected, strict=True):
        for value, text in zip(summary(policies[number]), row.split(), strict=True):
            assert_printed(value, text)


@pytest.mark.parametrize(
    ("ratio", "top_3", "effective"),
    [(0, ".510", "12.5"), (0.25, ".629", "8.84"), (0.5, ".827", "4.37"), (0.75, "1.0", "1.88"), (1, "1.0", "1.00")],
)
def test_random_ratio(ratio: float, top_3: str, effective: str) -> None:
    policy = theory.with_random_ratio(START, ZIPF, ratio, 200)
    assert_printed(theory.top(policy, 3), top_3)
    assert_printed(theory.effective_items(policy), effective)


def test_random_ratio_fixed_point() -> None:
    for ratio in (0.0, 0.1, 0.2):
        fixed = theory.random_ratio_fixed_point(ZIPF, ratio)
        assert fixed.sum() == pytest.approx(1)
        mixed = (1 - ratio) * fixed + ratio / 20
        np.testing.assert_allclose(mixed, ZIPF, rtol=1e-12)  # negatives as the data: no gradient
        np.testing.assert_allclose(theory.phase(fixed, ZIPF, mixed), fixed, rtol=1e-12)
    assert theory.random_ratio_fixed_point(ZIPF, 0.5).min() < 0
    quarter = theory.random_ratio_fixed_point(ZIPF, 0.25)
    np.testing.assert_allclose(theory.with_random_ratio(START, ZIPF, 0.25, 200), quarter, atol=1e-3)


P, Q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("objective", "count", "printed"),
    [
        (partial(sdpo, beta=1), 1, ".62338 .23377 .10390 .03896"),
        (partial(sdpo, beta=1), 2, ".62338 .23377 .10390 .03896"),
        (partial(sdpo, beta=1), 3, ".62338 .23377 .10390 .03896"),
        (partial(dmpo, beta=1), 1, ".62338 .23377 .10390 .03896"),
        (partial(dmpo, beta=1), 2, ".66417 .23400 .08480 .01703"),
        (partial(dmpo, beta=1), 3, ".67459 .23342 .08037 .01161"),
        (partial(dmpo, beta=1, reduction="sum"), 2, ".47371 .28117 .16927 .07585"),
        (partial(dmpo, beta=1, reduction="sum"), 3, ".40778 .28628 .20066 .10528"),
    ],
)
def test_optima_with_several_negatives(objective: theory.PairLoss, count: int, printed: str) -> None:
    found = theory.minimise(objective, P, Q, np.full(4, 0.25), count)
    for value, text in zip(found, printed.split(), strict=True):
        assert_printed(float(value), text)


def test_population_loss_is_the_enumerated_mean() -> None:
    """One by hand: two items, p = (.75, .25), q uniform, policy (.8, .2) against a uniform reference, beta 1."""
    p, q = np.array([0.75, 0.25]), np.full(2, 0.5)
    loss = theory.population_loss(partial(dpo, beta=1.0), torch.log(torch.tensor([0.8, 0.2]).double()), q, p, q)
    right, wrong, tie = -np.log(0.8), -np.log(0.2), np.log(2)  # sigma(log 4) = 0.8
    assert float(loss) == pytest.approx(0.375 * right + 0.125 * wrong + 0.5 * tie)


def test_measures_by_hand() -> None:
    assert theory.effective_items(np.array([0.5, 0.5, 0.0])) == pytest.approx(2)
    assert theory.total_variation(np.array([0.7, 0.3]), np.array([0.4, 0.6])) == pytest.approx(0.3)
    assert theory.top(np.array([0.1, 0.6, 0.3]), 2) == pytest.approx(0.9)
    np.testing.assert_array_equal(theory.negative_distribution(np.array([0.2, 0.5, 0.3]), "greedy"), [0, 1, 0])
