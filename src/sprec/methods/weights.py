"""Sample weights of the SFT: the re-weighting baseline RW, first half of IFairLRS (Jiang et al., WWW 2024).

A sample has a larger weight if its genres are rarer among the targets of the training data than in the histories.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sprec.data import Catalog, Split
from sprec.system.errors import UserError

Variant = Literal["correct", "ifairlrs", "official"]
MICRO_BATCH = 4
"""Samples of a micro-batch in the research code."""


def reweighting(
    split: Split,
    catalog: Catalog,
    genres: Sequence[str],
    variant: Variant | Literal["equal"] = "correct",
    *,
    counted: Split | None = None,
    normalise: bool = False,
) -> np.ndarray:
    """Weight of each example: the mean of :func:`genre_weights` over its target's selected genres, shape (n,).

    It is 1 if the target has no selected genre, and always for ``equal``: this control differs from SFT only in that
    all samples, not all tokens, count the same.

    Args:
        split: the examples that get a weight.
        catalog: the items and their genres.
        genres: the selected genres G.
        variant: how genres are counted, see :func:`genre_weights`.
        counted: the examples whose genres are counted, usually all training examples; by default ``split``.
        normalise: scale the weights to mean 1.

    Raises:
        UserError: no genres are selected, or no counted item has one.
    """
    if variant == "equal":
        return np.ones(len(split))
    member = catalog.genre_matrix(genres)[split.targets] > 0
    degree = member.sum(1)
    summed = member @ genre_weights(split if counted is None else counted, catalog, genres, variant)
    weights: np.ndarray = np.where(degree > 0, summed / np.maximum(degree, 1), 1.0)
    return weights / weights.mean() if normalise else weights


def genre_weights(split: Split, catalog: Catalog, genres: Sequence[str], variant: Variant = "correct") -> np.ndarray:
    """w(g) = share of g among the history items / share of g among the targets of a ``split``, shape (|G|,).

    It is 1 if no target has g. An item i of the ``catalog`` adds a_i to each of its genres in ``genres`` (G), by
    ``variant``:

    * ``correct``: a_i = 1/|g_i ∩ G|, as in the fairness metrics;
    * ``ifairlrs``: a_i = 1, as in IFairLRS;
    * ``official``: a_i = 1/|g_i| over all genres of the item, and the target counts are added to the history counts, as
      in the research code of SPRec; this moves all weights close to 1. There the weights also act on micro-batches:
      :func:`micro_batch_means`.

    Raises:
        UserError: no genres are selected, or no item of the split has one.
    """
    shares = _item_shares(catalog, genres, variant)
    histories = np.bincount(split.items, minlength=len(catalog)) @ shares
    targets = np.bincount(split.targets, minlength=len(catalog)) @ shares
    if variant == "official":
        targets = histories + targets
    if not histories.any() or not targets.any():
        raise UserError(
            "re-weighting needs genres, but no training item has one of the selected genres; "
            "import the dataset with genres or choose another method"
        )
    over, under = histories / histories.sum(), targets / targets.sum()
    weights: np.ndarray = np.divide(over, under, out=np.ones_like(over), where=under > 0)
    return weights


def micro_batch_means(weights: Tensor, lengths: Tensor, size: int = MICRO_BATCH) -> tuple[Tensor, Tensor]:
    """The weights of an optimiser step with their effect in the research code: on micro-batches, not on samples.

    Its loss of a micro-batch is mean(w) * mean(CE), where the second mean runs over all positions, including padding.
    So every sample has the mean weight of its micro-batch, and its tokens are divided by the length of the longest one.
    There the samples are shuffled; here those of a step have similar lengths, so that its divisors are larger.

    Args:
        weights: of the samples of the step, in their order, (B,).
        lengths: the numbers of their tokens with loss, (B,).
        size: samples of a micro-batch; the last one may be smaller.

    Returns:
        Weight and divisor of each sample, both (B,), for :func:`sprec.methods.objectives.weighted_sft`.
    """
    means, longest = torch.empty_like(weights), torch.empty_like(lengths)
    for start in range(0, len(weights), size):
        own = slice(start, start + size)
        means[own], longest[own] = weights[own].mean(), lengths[own].max()
    return means, longest


def _item_shares(catalog: Catalog, genres: Sequence[str], variant: Variant) -> np.ndarray:
    """The contribution of each item to each selected genre, shape (items, |G|)."""
    shares = catalog.genre_matrix(genres)
    if variant == "correct":
        return shares
    member = (shares > 0).astype(float)
    if variant == "ifairlrs":
        return member
    per_genre: np.ndarray = member / np.array([max(len(set(own)), 1) for own in catalog.genres])[:, None]
    return per_genre
