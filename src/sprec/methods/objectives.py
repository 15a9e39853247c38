"""Objectives: pure functions from completion log-probabilities to one loss per prompt group.

Every preference objective is ``f(policy, reference, mask, *, beta, ...)``. ``policy`` and ``reference`` are summed
log-probabilities of completions, shape (B, 1+K): column 0 is the chosen one, columns 1.. are the rejected ones.
``mask``, bool of the same shape, is False for missing negatives, whose values are never read. ``beta`` is the strength
of the pull to the reference. The result has shape (B,). A group without negatives has loss 0 and gradient 0.

With D(y) = policy(y) - reference(y), the margin of a negative is m = beta (D(chosen) - D(rejected)).

Examples:
    A policy that still equals its reference has margin 0, and the loss is log 2:

    >>> import torch
    >>> scores, mask = torch.tensor([[-5.0, -7.0]]), torch.ones(1, 2, dtype=torch.bool)
    >>> round(dpo(scores, scores, mask, beta=0.1).item(), 4)
    0.6931
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus


def sft(policy: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen completion, summed over its tokens, shape (B,).

    The token-mean loss of BIGRec is the sum of these over a batch, divided by the batch's completion tokens.
    """
    return -policy[:, 0]


def weighted_sft(policy: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """Token-mean negative log-likelihood of each sample times its weight, shape (B,): RW (IFairLRS).

    Args:
        policy: log-probabilities, shape (B, 1+K); only column 0 is read.
        lengths: tokens of the chosen completion, shape (B,).
        weights: one weight per sample, shape (B,).
    """
    return weights * sft(policy) / lengths


def catalog_softmax(logits: Tensor, tokens: Tensor, children: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """Negative log-likelihood of tokens among those that lead to a title of the catalog, shape (M,): MSL (SIGIR 2025).

        -log exp(z_t / tau) / sum over the children c of the prefix in the trie of exp(z_c / tau)

    A forced token, the only child, has loss 0 and gradient 0: only decisions between titles are learned. With few
    children gradients are small; a lower tau makes them larger.

    Args:
        logits: of the whole vocabulary at M places of titles, shape (M, V).
        tokens: the token of the target's title that follows each place, shape (M,); one of the children.
        children: tokens that continue to some title, shape (M, C), padded.
        mask: False where ``children`` is padding, shape (M, C).
        temperature: tau.
    """
    allowed = (logits.gather(1, children) / temperature).masked_fill(~mask, -torch.inf)
    chosen = logits.gather(1, tokens[:, None])[:, 0] / temperature
    return allowed.logsumexp(1) - chosen


def dpo(policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """-log sigma(m) (Rafailov et al. 2023, Eq. 7).

    Raises:
        ValueError: more than one negative per group; use :func:`sdpo` or :func:`dmpo`.
    """
    _require_one_negative(policy, "dpo")
    return _pairwise_losses(policy, reference, mask, beta)[:, 0]


def importance_weighted_dpo(
    policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float, log_weights: Tensor
) -> Tensor:
    """Mean over the negatives of w times the DPO loss, w = pi_t(y_l|x) / q(y_l|x) (SPRec, Eq. 8).

    With y_l drawn from q, this has the expectation of the DPO loss with y_l drawn from the policy pi_t, as far as q
    reaches: negatives that q never draws (the target, the history) are left out on both sides.

    Args:
        policy: log-probabilities of the policy, shape (B, 1+K).
        reference: log-probabilities of the reference, shape (B, 1+K).
        mask: False where a negative is missing, shape (B, 1+K).
        beta: strength of the pull to the reference.
        log_weights: log w, shape (B, K); no gradient flows through it.
    """
    weights = log_weights.detach().exp()
    losses = torch.where(mask[:, 1:], weights, 0) * _pairwise_losses(policy, reference, mask, beta)
    return losses.sum(1) / _count(mask)


def dmpo(
    policy: Tensor,
    reference: Tensor,
    mask: Tensor,
    *,
    beta: float,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """-log sigma of the mean margin (DMPO, CIKM 2024), or by ``reduction`` of the sum (the research code of SPRec)."""
    margin = _margins(policy, reference, mask, beta).sum(1)
    if reduction == "mean":
        margin = margin / _count(mask)
    return torch.where(mask[:, 1:].any(1), softplus(-margin), 0)


def sdpo(policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """-log sigma(-log sum_i exp(-m_i)) (S-DPO, NeurIPS 2024): the chosen against all rejected, a softmax.

    Written as log(1 + sum_i exp(-m_i)): the 1 keeps it finite, with zero gradient, when there is no negative.
    """
    against = -_margins(policy, reference, mask, beta)
    against = against.masked_fill(~mask[:, 1:], -torch.inf)
    return torch.logsumexp(torch.cat([torch.zeros_like(against[:, :1]), against], 1), 1)


def smoothed_dpo(
    policy: Tensor, reference: Tensor, mask: Tensor, *, beta: float, smoothing: Tensor, robust: bool = False
) -> Tensor:
    """-(1-eps) log sigma(m) - eps log sigma(-m): RosePO with one smoothing factor eps per pair.

    Args:
        policy: log-probabilities of the policy, shape (B, 2).
        reference: log-probabilities of the reference, shape (B, 2).
        mask: False where the negative is missing, shape (B, 2).
        beta: strength of the pull to the reference.
        smoothing: eps in [0, 0.5), shape (B,): the probability that the pair is in the wrong order.
        robust: the unbiased form (rDPO, Chowdhury et al. 2024): [(1-eps) l(m) - eps l(-m)] / (1 - 2 eps).

    Raises:
        ValueError: more than one negative per group.
    """
    _require_one_negative(policy, "smoothed_dpo")
    margin = _margins(policy, reference, mask, beta)[:, 0]
    right, wrong = (1 - smoothing) * softplus(-margin), smoothing * softplus(margin)
    loss = (right - wrong) / (1 - 2 * smoothing) if robust else right + wrong
    return torch.where(mask[:, 1], loss, 0)


def oracle_smoothing(chosen: Tensor, rejected: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Smoothing factors of a preference oracle f, shape (B,).

    eps = min(0.5 - 1e-3, sigma((f(rejected) - f(chosen)) / temperature)).

    Args:
        chosen: scores f (SASRec logits) of the chosen items, shape (B,).
        rejected: scores of the rejected items, shape (B,).
        temperature: scale of the score difference; a lower one makes the oracle more certain.
    """
    return torch.sigmoid((rejected - chosen) / temperature).clamp(max=0.5 - 1e-3)


def _margins(policy: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The margin of each negative, shape (B, K); 0, without gradient, for missing ones."""
    ratios = torch.where(mask, policy - reference, 0)
    return torch.where(mask[:, 1:], beta * (ratios[:, :1] - ratios[:, 1:]), 0)


def _pairwise_losses(policy: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-log sigma(m) of each negative, shape (B, K); 0 for missing ones."""
    return torch.where(mask[:, 1:], softplus(-_margins(policy, reference, mask, beta)), 0)


def _count(mask: Tensor) -> Tensor:
    """Negatives per group, at least 1, shape (B,)."""
    return mask[:, 1:].sum(1).clamp(min=1)


def _require_one_negative(policy: Tensor, name: str) -> None:
    if policy.shape[1] != 2:
        raise ValueError(f"{name} takes one negative per group, got {policy.shape[1] - 1}; use sdpo or dmpo")
