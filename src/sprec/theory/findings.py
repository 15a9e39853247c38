"""The numbers behind ``sprec theory``: each finding is a table, a claim, and how far the computation is from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sprec.evaluation import Cell, Table
from sprec.methods.objectives import dmpo, dpo, sdpo
from sprec.theory import dynamics
from sprec.theory.dynamics import Distribution

ITEMS = 20
RULES: Mapping[str, tuple[dynamics.Negatives | None, bool]] = {
    "sampled from the policy": ("sampled", False),
    "uniform": ("uniform", False),
    "greedy": ("greedy", False),
    "sampled + SFT": ("sampled", True),
    "greedy + SFT": ("greedy", True),
    "SFT only": (None, True),
}
"""The rows of the few-step table: kind of negatives, and whether each iteration has an SFT part."""


@dataclass(frozen=True)
class Finding:
    """A claim that holds when ``deviation`` is at most ``tolerance``, and the table that shows it.

    Attributes:
        table: what was computed.
        claim: in words.
        deviation: how far the computation is from the claim.
        tolerance: the largest deviation with which it holds.
        also: further claims about the same table, and whether each is true; the finding holds when all of them are.
    """

    table: Table
    claim: str
    deviation: float
    tolerance: float
    also: Mapping[str, bool] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the computation confirms the claim, and the further ones."""
        return self.deviation <= self.tolerance and all(self.also.values())

    def record(self) -> dict[str, Any]:
        """The finding for JSON."""
        numbers = {"holds": self.holds, "deviation": self.deviation, "tolerance": self.tolerance}
        return {"claim": self.claim, **numbers, "also": dict(self.also), **self.table.record()}


def theorem() -> Finding:
    """Theorem 1: closed form against a numeric minimiser, on a fixed example and on random distributions."""
    p, uniform = np.array([0.4, 0.3, 0.15, 0.1, 0.05]), np.full(5, 0.2)
    rows = {f"beta {beta:g}": dynamics.optimum(p, uniform, p, beta) for beta in (1, 0.5, 0.1)}
    rng = np.random.default_rng(0)
    gaps = [_gap(p, uniform, p, beta) for beta in (1, 0.5, 0.1)]
    for beta in (0.1, 0.5, 1, 2) * 5:
        random_p, random_q, reference = rng.dirichlet(np.ones(5), 3)
        gaps.append(_gap(random_p, random_q, reference, beta))
    table = _distributions("Theorem 1: p = reference, uniform negatives", {"p": p, **rows}, digits=6)
    return Finding(table, "the DPO optimum is reference * (p/q)^(1/beta)", max(gaps), 1e-8)


def amplification() -> Finding:
    """What DPO with uniform negatives makes of a Zipf popularity: p^(1+1/beta), fewer items for smaller beta."""
    p, uniform, betas = dynamics.zipf(ITEMS), np.full(ITEMS, 1 / ITEMS), (2, 1, 0.5, 0.25, 0.1)
    found = {beta: dynamics.minimise(partial(dpo, beta=beta), p, uniform, p) for beta in betas}
    gaps = [np.abs(policy - dynamics.normalised(p ** (1 + 1 / beta))).max() for beta, policy in found.items()]
    rows = {"p": p} | {f"beta {beta:g}": policy for beta, policy in found.items()}
    table = _summaries(f"Popularity amplification: Zipf over {ITEMS} items, uniform negatives", rows, p)
    return Finding(table, "DPO turns p into p^(1 + 1/beta)", float(max(gaps)), 1e-8)


def importance() -> Finding:
    """Self-play negatives equal other negatives weighted by policy/q (Eq. 7 and Eq. 8)."""
    p, beta = dynamics.zipf(ITEMS), 0.5
    policy, reference = dynamics.normalised(p**1.5), dynamics.normalised(p**0.5)
    losses = {
        name: dynamics.importance_losses(policy, p, q, reference, beta)
        for name, q in {"uniform": np.full(ITEMS, 1 / ITEMS), "data": p}.items()
    }
    rows = tuple(((name,), {"self-play": Cell(a), "weighted": Cell(b)}) for name, (a, b) in losses.items())
    table = Table("Expected loss over self-play and over weighted negatives", ("q",), tuple(rows[0][1]), rows, 12)
    gap = max(abs(a - b) for a, b in losses.values())
    return Finding(table, "weighting by policy/q turns any negatives into self-play ones", gap, 1e-12)


def exact_self_play() -> Finding:
    """Self-play whose phases run to their optimum: stable only for beta above one half."""
    p, start, betas = dynamics.zipf(ITEMS), dynamics.normalised(dynamics.zipf(ITEMS) ** 1.5), (1, 0.6, 0.5, 0.4, 0.1)
    gaps, rows = [], []
    for beta in betas:
        found = dynamics.minimise(partial(dpo, beta=beta), p, start, start)
        gaps.append(np.abs(found - dynamics.normalised(p * (start / p) ** (1 - 1 / beta))).max())
        policy, distances = start, {}
        for number in (1, 2, 3):
            policy = dynamics.exact_phase(policy, p, beta)
            distances[f"phase {number}"] = Cell(dynamics.total_variation(policy, p))
        rows.append(((f"{beta:g}",), distances))
    table = Table("Distance to p, self-play to the optimum", ("beta",), tuple(rows[0][1]), tuple(rows))
    return Finding(table, "a phase multiplies log(policy/p) by 1 - 1/beta", float(max(gaps)), 1e-8)


def few_steps() -> Finding:
    """Self-play as it is trained, a few gradient steps per iteration, beta 0.1."""
    p = dynamics.zipf(ITEMS)
    rows = []
    for rule, (kind, sft) in RULES.items():
        policies = dynamics.self_play(dynamics.normalised(p**1.5), p, kind, 10, sft=sft)
        rows += [((rule, str(number)), _summary(policies[number], p)) for number in (0, 1, 2, 5, 10)]
    metrics = tuple(rows[0][1])
    table = Table("Self-play in a few steps, beta 0.1", ("negatives", "iteration"), metrics, tuple(rows))
    values = {label: {name: cell.value for name, cell in cells.items()} for label, cells in rows}
    uniform, greedy = values["uniform", "10"], values["greedy", "10"]
    also = {
        "with uniform negatives it ends on one item": uniform["top item"] > 0.99 and uniform["effective items"] < 1.01,
        "with greedy negatives it spreads over more items than p and stays further from p than it began": (
            greedy["effective items"] > dynamics.effective_items(p)
            and greedy["distance to p"] > values["greedy", "0"]["distance to p"]
        ),
    }
    end = values["sampled from the policy", "10"]["distance to p"]
    return Finding(table, "with sampled negatives the policy returns to p", end, 0.02, also)


def random_ratio() -> Finding:
    """A share r of uniform negatives, 200 iterations: the tabular counterpart of Figure 5."""
    p, start = dynamics.zipf(ITEMS), dynamics.normalised(dynamics.zipf(ITEMS) ** 1.5)
    policies = {r: dynamics.with_random_ratio(start, p, r, 200) for r in (0, 0.25, 0.5, 0.75, 1)}
    gaps = [np.abs(policies[r] - dynamics.random_ratio_fixed_point(p, r)).max() for r in (0, 0.25)]
    rows = {f"r = {r:g}": policy for r, policy in policies.items()}
    table = _summaries("Share r of uniform negatives, 200 iterations", rows, p)
    return Finding(table, "the policy ends at (p - r/n)/(1 - r) while that is positive", float(max(gaps)), 1e-3)


def many_negatives() -> Finding:
    """The optima of S-DPO and DMPO with K negatives, every combination of negatives enumerated."""
    p, q, reference = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4]), np.full(4, 0.25)
    closed = dynamics.optimum(p, q, reference, 1)
    objectives = {
        "S-DPO": partial(sdpo, beta=1),
        "DMPO mean": partial(dmpo, beta=1),
        "DMPO sum": partial(dmpo, beta=1, reduction="sum"),
    }
    optima = {
        f"{name} K={count}": dynamics.minimise(objective, p, q, reference, count)
        for name, objective in objectives.items()
        for count in (1, 2, 3)
    }
    gap = max(float(np.abs(optima[f"S-DPO K={count}"] - closed).max()) for count in (1, 2, 3))
    table = _distributions("K negatives, beta 1", {"Theorem 1": closed, **optima}, digits=5)
    return Finding(table, "S-DPO has the optimum of Theorem 1 for every K (DMPO has not)", gap, 1e-8)


CHECKS: tuple[Callable[[], Finding], ...] = (
    theorem,
    amplification,
    importance,
    exact_self_play,
    few_steps,
    random_ratio,
    many_negatives,
)
"""All findings, in the order of the argument."""


def draw(folder: Path) -> list[Path]:
    """Draw Figure 2 into a ``folder`` and return the files: where DPO takes the data's distribution, and back.

    Raises:
        UserError: matplotlib is missing, or the folder cannot be written.
    """
    from sprec.evaluation.plots import sharpening_and_self_play

    p, uniform = dynamics.zipf(ITEMS), np.full(ITEMS, 1 / ITEMS)
    sharpened = {f"beta = {beta:g}": dynamics.optimum(p, uniform, p, beta) for beta in (2, 1, 0.5)}
    policies = dynamics.self_play(sharpened["beta = 2"], p, "sampled", 10)
    rounds = {"start: (a), beta = 2": policies[0]} | {f"iteration {t}": policies[t] for t in (1, 2, 10)}
    return sharpening_and_self_play(p, sharpened, rounds, folder / "figure2")


def _gap(p: Distribution, q: Distribution, reference: Distribution, beta: float) -> float:
    found = dynamics.minimise(partial(dpo, beta=beta), p, q, reference)
    return float(np.abs(found - dynamics.optimum(p, q, reference, beta)).max())


def _distributions(title: str, rows: Mapping[str, Distribution], digits: int) -> Table:
    names = tuple(f"item {number + 1}" for number in range(len(next(iter(rows.values())))))
    cells = tuple(
        ((label,), {n: Cell(float(v)) for n, v in zip(names, row, strict=True)}) for label, row in rows.items()
    )
    return Table(title, ("",), names, cells, digits)


def _summaries(title: str, rows: Mapping[str, Distribution], p: Distribution) -> Table:
    cells = tuple(((label,), _summary(policy, p)) for label, policy in rows.items())
    return Table(title, ("",), tuple(cells[0][1]), cells)


def _summary(policy: Distribution, p: Distribution) -> dict[str, Cell]:
    """Distance to p, mass of p's most popular item, of the policy's three largest, effective items."""
    return {
        "distance to p": Cell(dynamics.total_variation(policy, p)),
        "top item": Cell(float(policy[p.argmax()])),
        "largest 3": Cell(dynamics.top(policy, 3)),
        "effective items": Cell(dynamics.effective_items(policy)),
    }
