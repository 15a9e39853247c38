"""The health of a run: a few numbers per stage, and warnings with advice."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sprec.engine.train.stage import Outcome
from sprec.system.errors import UserError

EXACT = 0.9
"""If fewer of the generated titles exist, the model has begun to forget how titles are written."""
DISPLACED = -1.0
"""Change of the chosen titles' log-probability, in nats, below which to warn of likelihood displacement."""
_WINDOW = 20
_ACCURACY = "NDCG@5"


def of_training(outcome: Outcome, beta: float | None = None) -> dict[str, float]:
    """Numbers of a training stage: means over its first and last 20 steps.

    Args:
        outcome: what the stage reported.
        beta: of a preference step; then log-probabilities are changes relative to the reference.

    Returns:
        ``loss_first``, ``loss`` and the standard error of their difference, ``loss_error``; ``chosen`` and
        ``rejected`` (mean log-probability of a completion, or its change); of a preference step also ``margin`` = beta
        (chosen - rejected), the implicit reward (Rafailov et al. 2023, Eq. 5); ``valid_first``, ``valid_best`` where
        there is a validation split. Empty without steps.
    """
    if not outcome.steps:
        return {}
    first, last = outcome.steps[:_WINDOW], outcome.steps[-_WINDOW:]
    numbers = {
        "steps": float(len(outcome.steps)),
        "loss_first": _mean(first, "loss"),
        "loss": _mean(last, "loss"),
        "loss_error": math.sqrt(_error(first) + _error(last)),
        "chosen": _mean(last, "chosen"),
    }
    if beta is not None:
        rejected = _mean(last, "rejected")
        numbers |= {"rejected": rejected, "margin": beta * (numbers["chosen"] - rejected)}
    if outcome.valid_loss:
        numbers |= {"valid_first": outcome.valid_loss[0], "valid_best": min(outcome.valid_loss)}
    return numbers


def _error(steps: Sequence[Mapping[str, float]]) -> float:
    """Variance of the mean loss."""
    losses = [step["loss"] for step in steps]
    return float(np.var(losses, ddof=1)) / len(losses) if len(losses) > 1 else 0.0


def _mean(steps: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([step[key] for step in steps]))


def warn_of_training(numbers: Mapping[str, float], section: str) -> list[str]:
    """What is wrong with a training stage, and what to change.

    Args:
        numbers: of :func:`of_training`.
        section: of the recipe with the rates of this stage.
    """
    warnings = []
    rise = numbers.get("loss", 0.0) - numbers.get("loss_first", 0.0)
    if rise > max(0.05 * numbers.get("loss_first", 0.0), 3 * numbers.get("loss_error", 0.0)):
        warnings.append(f"the loss rose from {numbers['loss_first']:.3f} to {numbers['loss']:.3f}; lower {section}.lr")
    if "margin" in numbers:
        if numbers["chosen"] < DISPLACED:
            warnings.append(
                f"the chosen titles lost {-numbers['chosen']:.1f} nats, the rejected ones {-numbers['rejected']:.1f}: "
                f"likelihood displacement; lower {section}.lr or raise {section}.beta"
            )
        if numbers["steps"] >= _WINDOW and numbers["margin"] <= 0:
            warnings.append(f"no reward margin ({numbers['margin']:.4f}): nothing was learned; raise {section}.lr")
    return warnings


def of_rollouts(answered: int, asked: int) -> list[str]:
    """What is wrong with rollouts if only ``answered`` of the ``asked`` examples got a title."""
    if answered >= EXACT * asked:
        return []
    return [
        f"{asked - answered} of {asked} answers hold no title; train the SFT longer, or raise negatives.max_new_tokens"
    ]


def cure(preferred: bool) -> str:
    """What to change when a model does not write existing titles.

    Args:
        preferred: whether it has had a preference step.
    """
    return "lower prefer.lr" if preferred else "train the SFT longer or at another rate (sft.epochs, sft.lr)"


def of_evaluations(metrics: Sequence[Mapping[str, float]], preferred: bool = True) -> list[str]:
    """What is wrong after the last of several evaluations, compared with the first one, and what to change.

    Args:
        metrics: of each evaluation so far; protocols that write no titles have no ``ExactTitles``.
        preferred: whether the last model has had a preference step.
    """
    first, last = metrics[0], metrics[-1]
    warnings = []
    exact = last.get("ExactTitles", 1.0)
    before = first.get("ExactTitles", 1.0) if len(metrics) > 1 else 1.0
    if exact < min(EXACT, before):
        warnings.append(f"only {exact:.0%} of the generated titles exist in the catalog; {cure(preferred)}")
    if last.get("Entropy@1", math.inf) < 0.8 * first.get("Entropy@1", -math.inf):
        warnings.append(
            f"the recommendations concentrate (entropy {first['Entropy@1']:.2f}, now {last['Entropy@1']:.2f}); "
            "lower the rates (prefer.lr, sft_step.lr) or loop.iterations"
        )
    return warnings


def of_baselines(last: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Which recommenders without a model are more accurate than the last model of a run.

    Args:
        last: metrics of that model.
        baselines: name to metrics, on the same cases.
    """
    own = last.get(_ACCURACY, math.nan)
    better = {name: found[_ACCURACY] for name, found in baselines.items() if found.get(_ACCURACY, -math.inf) > own}
    if not better:
        return []
    values = " and ".join(f"{name} ({value:.4f})" for name, value in better.items())
    have = "have" if len(better) > 1 else "has"
    return [f"{values} {have} a higher {_ACCURACY} than the last model ({own:.4f}); do not deploy less than that"]


def require_titles(share: float, least: float, where: str, preferred: bool) -> None:
    """Stop a run that collapses, if the recipe asks for it.

    Args:
        share: of the generated titles that exist in the catalog.
        least: ``stop_below_exact_share`` of the recipe.
        where: the stage, for the message.
        preferred: whether there was a preference step, whose rate is then to blame.

    Raises:
        UserError: the share is below ``least``.
    """
    if share < least:
        raise UserError(
            f"stopped after {where}: {share:.0%} of the generated titles exist, the recipe demands {least:.0%}; "
            f"{cure(preferred)}"
        )
