"""What preference optimisation does to a distribution over items: Theorem 1 of the paper and what follows.

Everything is tabular: one prompt, n items, logits instead of a language model. ``p`` is the distribution of the next
item in the data, ``q`` that of the negatives, ``reference`` the reference policy, ``beta`` the strength of the pull to
it, ``start`` the policy before the first of ``phases`` iterations. An ``objective`` is one that also trains the models
(:mod:`sprec.methods.objectives`), averaged over all (chosen, negatives) with their probabilities. All distributions
have shape (n,), float64.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sprec.methods.objectives import dpo, importance_weighted_dpo

Distribution = NDArray[np.float64]
PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
Negatives = Literal["sampled", "uniform", "greedy"]

PHASE_STEPS, PHASE_RATE = 20, 5.0
SFT_STEPS, SFT_RATE = 5, 0.5


def zipf(items: int, exponent: float = 1.0) -> Distribution:
    """A popularity distribution over ``items`` items: p_i proportional to 1 / rank^exponent."""
    return normalised(np.arange(1, items + 1, dtype=np.float64) ** -exponent)


def normalised(weights: Distribution) -> Distribution:
    """``weights`` divided by their sum."""
    shares: Distribution = np.asarray(weights, np.float64) / np.sum(weights)
    return shares


def total_variation(a: Distribution, b: Distribution) -> float:
    """Half the sum of ``|a - b|``: the probability mass that has to move to turn ``a`` into ``b``."""
    return float(np.abs(a - b).sum() / 2)


def effective_items(distribution: Distribution) -> float:
    """exp(entropy) of a ``distribution``: the number of equally likely items that would be as diverse."""
    positive = distribution[distribution > 0]
    return math.exp(-float(positive @ np.log(positive)))


def top(distribution: Distribution, count: int) -> float:
    """Mass of the ``count`` most likely items of a ``distribution``."""
    return float(np.sort(distribution)[-count:].sum())


def optimum(p: Distribution, q: Distribution, reference: Distribution, beta: float) -> Distribution:
    """The policy that minimises the population DPO loss: reference * (p/q)^(1/beta), normalised (Theorem 1).

    At this point p_i q_j sigma(-m_ij) is symmetric in i and j, so the gradient vanishes pair by pair.
    Needs p > 0 and q > 0 everywhere.
    """
    logits = np.log(reference) + (np.log(p) - np.log(q)) / beta
    return normalised(np.exp(logits - logits.max()))


def population_loss(
    objective: PairLoss, logits: Tensor, reference: Distribution, p: Distribution, q: Distribution, negatives: int = 1
) -> Tensor:
    """Expected loss of ``logits`` (n,) over chosen ~ p and K = ``negatives`` negatives ~ q, as n^(1+K) terms."""
    groups = torch.tensor(list(product(range(len(p)), repeat=1 + negatives)))
    chance = torch.from_numpy(p)[groups[:, 0]] * torch.from_numpy(q)[groups[:, 1:]].prod(1)
    policy = logits.log_softmax(0)[groups]
    losses = objective(policy, torch.from_numpy(np.log(reference))[groups], torch.ones_like(groups, dtype=torch.bool))
    return (chance * losses).sum()


def minimise(
    objective: PairLoss, p: Distribution, q: Distribution, reference: Distribution, negatives: int = 1
) -> Distribution:
    """The policy that minimises :func:`population_loss`, by damped Newton steps to a gradient below 1e-12.

    There are K = ``negatives`` per chosen item. Where p or q has zeros the optimum lies at infinity, and the result is
    close to its limit.

    Raises:
        ArithmeticError: not converged within 200 steps.
    """

    def loss(logits: Tensor) -> Tensor:
        return population_loss(objective, logits, reference, p, q, negatives)

    logits = torch.from_numpy(np.log(reference))
    gradient = torch.func.grad(loss)(logits)
    for _ in range(200):
        if gradient.abs().max() < 1e-12:
            return logits.softmax(0).numpy()
        # adding 1 to every entry fixes the constant that the softmax leaves free
        step = torch.linalg.solve(torch.func.hessian(loss)(logits) + 1, gradient)
        logits, gradient = _damped(torch.func.grad(loss), logits, step, gradient)
    raise ArithmeticError("Newton's method did not converge within 200 steps")


def dpo_gradient(ratios: Distribution, p: Distribution, q: Distribution, beta: float) -> Distribution:
    """Gradient of the population DPO loss with respect to the logits.

    Args:
        ratios: logits minus the log of the reference.
        p: distribution of the chosen item.
        q: distribution of the negative.
        beta: strength of the pull to the reference.
    """
    margins = beta * (ratios[:, None] - ratios)
    pull = beta * np.outer(p, q) / (1 + np.exp(margins))  # of chosen i against negative j
    gradient: Distribution = pull.sum(axis=0) - pull.sum(axis=1)
    return gradient


def exact_phase(policy: Distribution, p: Distribution, beta: float) -> Distribution:
    """One self-play phase run to its optimum: negatives and reference are the policy itself.

    The log-error e = log(policy/p) becomes (1 - 1/beta) e: a fixed point at p, stable only for beta > 1/2.
    """
    return optimum(p, policy, policy, beta)


def negative_distribution(policy: Distribution, kind: Negatives) -> Distribution:
    """The distribution of the negatives of a ``kind``: the ``policy``, all items alike, or its likeliest item."""
    if kind == "sampled":
        return policy
    if kind == "uniform":
        return np.full_like(policy, 1 / len(policy))
    mode: Distribution = np.eye(len(policy))[policy.argmax()]
    return mode


def phase(
    policy: Distribution,
    p: Distribution,
    negatives: Distribution | None,
    *,
    sft: bool = False,
    beta: float = 0.1,
) -> Distribution:
    """One iteration of SPRec in a few gradient steps: SFT on p when asked, then DPO against the negatives.

    As in training, the negatives were made before the SFT and the reference is the policy after it.

    Args:
        policy: the policy at the start.
        p: distribution of the data.
        negatives: distribution of the negatives; None leaves the DPO part out.
        sft: whether an SFT part comes first.
        beta: of the DPO loss.
    """
    logits: Distribution = np.log(policy)
    for _ in range(SFT_STEPS if sft else 0):
        logits = logits + SFT_RATE * (p - _softmax(logits))
    if negatives is None:
        return _softmax(logits)
    reference = logits
    for _ in range(PHASE_STEPS):
        logits = logits - PHASE_RATE * dpo_gradient(logits - reference, p, negatives, beta)
    return _softmax(logits)


def self_play(
    start: Distribution, p: Distribution, kind: Negatives | None, phases: int, *, sft: bool = False, beta: float = 0.1
) -> list[Distribution]:
    """The policies after 0, 1, ..., ``phases`` iterations of :func:`phase` with negatives of a ``kind`` (None: no DPO).

    ``sft`` puts an SFT part first in each.
    """
    policies = [start]
    for _ in range(phases):
        drawn = None if kind is None else negative_distribution(policies[-1], kind)
        policies.append(phase(policies[-1], p, drawn, sft=sft, beta=beta))
    return policies


def with_random_ratio(start: Distribution, p: Distribution, ratio: float, phases: int) -> Distribution:
    """Self-play where a share ``ratio`` of the negatives is uniform (the paper's Figure 5)."""
    policy = start
    for _ in range(phases):
        policy = phase(policy, p, (1 - ratio) * policy + ratio / len(p))
    return policy


def random_ratio_fixed_point(p: Distribution, ratio: float) -> Distribution:
    """Where :func:`with_random_ratio` ends: (p - r/n) / (1 - r), sharper than p; r is ``ratio``.

    It is no distribution if an entry is below 0.
    """
    fixed: Distribution = (p - ratio / len(p)) / (1 - ratio)
    return fixed


def importance_losses(
    policy: Distribution, p: Distribution, q: Distribution, reference: Distribution, beta: float
) -> tuple[float, float]:
    """DPO loss with negatives from the policy (Eq. 7), and from q weighted by policy/q (Eq. 8): they are equal."""
    logits = torch.from_numpy(np.log(policy))
    weights = torch.from_numpy(np.tile(np.log(policy / q), len(p))[:, None])  # in the order of the enumeration
    weighted = partial(importance_weighted_dpo, beta=beta, log_weights=weights)
    self_play_loss = population_loss(partial(dpo, beta=beta), logits, reference, p, policy)
    return float(self_play_loss), float(population_loss(weighted, logits, reference, p, q))


def _damped(slope: Callable[[Tensor], Tensor], logits: Tensor, step: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Go along the step, halved until the gradient gets shorter; returns the new logits and their gradient."""
    for halvings in range(40):
        moved = logits - step / 2**halvings
        new = slope(moved)
        if new.norm() < gradient.norm():
            break
    return moved, new


def _softmax(logits: Distribution) -> Distribution:
    return normalised(np.exp(logits - logits.max()))
