"""The objectives of the preference step as rows of one table. Naming one imports no model library.

A new objective is a pure function in :mod:`sprec.methods.objectives` and a row of :data:`PREFERENCES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sprec.config import Prefer, Recipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preference:
    """A row of the table.

    Attributes:
        about: one line for the documentation.
        pairwise: whether it takes exactly one negative per prompt.
        needs: a further input per example: the oracle's ``smoothing`` factor (B,), or ``log_weights`` of the negatives
            (B, K); "" for none.
        loss: one loss per prompt group (B,) from the log-probabilities of the policy and the reference (B, 1 + K), the
            chosen completion first, their mask (B, 1 + K), the further inputs by name, and the settings.
    """

    about: str
    pairwise: bool
    needs: Literal["", "smoothing", "log_weights"]
    loss: "Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor], Prefer], Tensor]"


def _dpo(policy: "Tensor", reference: "Tensor", mask: "Tensor", extra: "Mapping[str, Tensor]", own: Prefer) -> "Tensor":
    from sprec.methods.objectives import dpo

    return dpo(policy, reference, mask, beta=own.beta)


def _dmpo(
    policy: "Tensor", reference: "Tensor", mask: "Tensor", extra: "Mapping[str, Tensor]", own: Prefer
) -> "Tensor":
    from sprec.methods.objectives import dmpo

    return dmpo(policy, reference, mask, beta=own.beta, reduction=own.reduction)


def _sdpo(
    policy: "Tensor", reference: "Tensor", mask: "Tensor", extra: "Mapping[str, Tensor]", own: Prefer
) -> "Tensor":
    from sprec.methods.objectives import sdpo

    return sdpo(policy, reference, mask, beta=own.beta)


def _smoothed(
    policy: "Tensor", reference: "Tensor", mask: "Tensor", extra: "Mapping[str, Tensor]", own: Prefer
) -> "Tensor":
    from sprec.methods.objectives import smoothed_dpo

    factor = extra["smoothing"]
    return smoothed_dpo(policy, reference, mask, beta=own.beta, smoothing=factor, robust=own.robust)


def _weighted(
    policy: "Tensor", reference: "Tensor", mask: "Tensor", extra: "Mapping[str, Tensor]", own: Prefer
) -> "Tensor":
    from sprec.methods.objectives import importance_weighted_dpo

    weights = extra["log_weights"][:, : policy.shape[1] - 1]  # as narrow as the batch
    return importance_weighted_dpo(policy, reference, mask, beta=own.beta, log_weights=weights)


PREFERENCES: dict[str, Preference] = {
    "dpo": Preference("one negative (Rafailov et al. 2023)", True, "", _dpo),
    "dmpo": Preference("the mean over several negatives", False, "", _dmpo),
    "sdpo": Preference("a softmax over several negatives", False, "", _sdpo),
    "smoothed-dpo": Preference("pairs smoothed by a SASRec oracle (RosePO)", True, "smoothing", _smoothed),
    "weighted-dpo": Preference("uniform negatives, weighted by the policy (Eq. 8)", False, "log_weights", _weighted),
}
"""All objectives of the preference step, by name (``prefer.objective``)."""


def check_preference(recipe: Recipe) -> None:
    """Refuse an objective that does not exist, or does not fit the negatives or other settings.

    Args:
        recipe: all settings.

    Raises:
        ValueError: names the setting.
    """
    settings, negatives, name = recipe.prefer, recipe.negatives, recipe.prefer.objective
    row = PREFERENCES.get(name)
    if row is None:
        raise ValueError(f'prefer.objective: there is no "{name}"; objectives: {", ".join(PREFERENCES)}')
    if row.pairwise and recipe.loop.dpo_step and negatives.count > 1:
        raise ValueError(
            f"prefer.objective={name} takes one negative, not negatives.count={negatives.count}; use sdpo or dmpo"
        )
    if row.needs == "log_weights" and negatives.source != "uniform":
        raise ValueError(f"prefer.objective={name} weighs uniform negatives, not negatives.source={negatives.source}")
    if settings.robust and row.needs != "smoothing":
        raise ValueError("prefer.robust is a form of prefer.objective=smoothed-dpo")
