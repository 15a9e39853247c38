"""The paper's claims as comparisons that can be checked, and the verdict of our runs (paper, Tables 2 and 3).

A claim is a list of statements "method A has more (less, as much) of a metric than method B" on some datasets, or "than
a number". Each is decided by the 95% interval of the paired difference over the same cases and seeds. ``samples`` are
the bootstraps of the methods by name, ``found`` the runs.

* More and less hold if the interval is on the claimed side of zero, fail if it is on the other side, and are open
  otherwise.
* As much, not more and not less cannot be proven by an interval that includes zero: with few cases every interval
  does. They hold if the interval is within the margin of equivalence (for "not more" its upper end, for "not less" its
  lower end), :data:`MARGIN` of the reference's value; they fail if it excludes zero on a side that they rule out and
  extends beyond the margin; else they are open.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sprec.data import Dataset
from sprec.evaluation import PAPER_METRICS, Bootstrap, Cell, Table, compare, shared_seeds
from sprec.evaluation.metrics import direction
from sprec.study.plan import OWN_WAY, PAPERS, Job
from sprec.study.records import Record
from sprec.study.tables import sampled

ALL = ("MovieLens", "Goodreads", "CDs_and_Vinyl", "Steam")
Relation = Literal[">", "<", "=", "<=", ">="]
MARGIN = 0.1
"""Margin of equivalence, a share of the reference's value. It is our choice: the paper's "unchanged" has no number."""


def decide(relation: Relation, low: float, high: float, margin: float) -> str:
    """``holds``, ``fails`` or ``open``, from the interval of a difference.

    Args:
        relation: the claim about the difference, compared with zero.
        low: lower end of the interval; NaN if the difference is undefined, which leaves the claim open.
        high: upper end.
        margin: largest difference that counts as none; not for ``>`` and ``<``.
    """
    if math.isnan(low) or math.isnan(high):
        return "open"
    above, below = low > 0, high < 0
    if relation in (">", "<"):
        claimed, opposite = (above, below) if relation == ">" else (below, above)
        return "holds" if claimed else "fails" if opposite else "open"
    if (relation == ">=" or high <= margin) and (relation == "<=" or low >= -margin):
        return "holds"
    return "fails" if (above and relation != ">=") or (below and relation != "<=") else "open"


class Statement(Protocol):
    """A part of a claim."""

    @property
    def methods(self) -> frozenset[str]:
        """The methods in it."""

    @property
    def metric(self) -> str:
        """The metric in it."""

    def verdict(self, samples: Mapping[str, Bootstrap]) -> str:
        """``holds``, ``fails`` or ``open``."""


@dataclass(frozen=True)
class Check:
    """``method`` has more (``>``), less, as much (``=``), not more (``<=``) or not less of ``metric`` than ``other``.

    Which of these is the ``relation``.
    """

    method: str
    relation: Relation
    other: str
    metric: str

    @property
    def methods(self) -> frozenset[str]:
        """Both methods."""
        return frozenset((self.method, self.other))

    def verdict(self, samples: Mapping[str, Bootstrap]) -> str:
        """``holds``, ``fails`` or ``open``, by the paired difference."""
        if not shared_seeds(samples[self.method], samples[self.other]):
            return "open"
        found = compare(samples[self.method], samples[self.other])[self.metric]
        margin = MARGIN * abs(samples[self.other].interval(self.metric).value)
        return decide(self.relation, found.low, found.high, margin)

    def __str__(self) -> str:
        return f"{self.method} {self.relation} {self.other}: {self.metric}"


@dataclass(frozen=True)
class Level:
    """The ``metric`` of a ``method`` is more, less or as much as a ``number`` in the paper, by the ``relation``."""

    method: str
    relation: Relation
    number: float
    metric: str

    @property
    def methods(self) -> frozenset[str]:
        """The one method."""
        return frozenset((self.method,))

    def verdict(self, samples: Mapping[str, Bootstrap]) -> str:
        """``holds``, ``fails`` or ``open``, by the interval of the metric around the number."""
        found = samples[self.method].interval(self.metric)
        return decide(self.relation, found.low - self.number, found.high - self.number, MARGIN * self.number)

    def __str__(self) -> str:
        return f"{self.method} {self.relation} {self.number:g}: {self.metric}"


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        text: the claim in words.
        source: its place in the paper.
        checks: decide it.
        datasets: that it is about.
    """

    text: str
    datasets: tuple[str, ...]
    checks: tuple[Statement, ...]

    @property
    def methods(self) -> frozenset[str]:
        """All methods that it speaks of."""
        return frozenset(method for check in self.checks for method in check.methods)


def _better(method: str, other: str, metrics: Sequence[str]) -> tuple[Check, ...]:
    """One check per metric: the method is better than the other, in the direction of the metric."""
    return tuple(Check(method, ">" if direction(metric) > 0 else "<", other, metric) for metric in metrics)


_DIVERSE = ("DivRatio@1", "DivRatio@5", "ORRatio@1", "ORRatio@5")
_LLM = ("BIGRec", "RW", "D3", "DMPO", "SDPO", "RosePO")
CLAIMS = (
    Claim("SPRec is better than BIGRec in all eight metrics", ALL, _better("SPRec", "BIGRec", PAPER_METRICS)),
    Claim(
        "BIGRec recommends 14 different items per 100 recommendations",
        ("Goodreads",),
        (Level("BIGRec", "=", 0.14, "DivRatio@1"),),
    ),
    Claim(
        "The three most recommended items take more than 39% of BIGRec's recommendations",
        ("Steam",),
        (Level("BIGRec", ">", 0.39, "ORRatio@1"),),
    ),
    Claim(
        "DMPO and SDPO over-recommend more than BIGRec",
        ("MovieLens", "Goodreads"),
        tuple(Check(m, ">", "BIGRec", metric) for m in ("DMPO", "SDPO") for metric in ("ORRatio@1", "ORRatio@5")),
    ),
    Claim(
        "DMPO and SDPO over-recommend less than BIGRec, their diversity is unchanged",
        ("CDs_and_Vinyl", "Steam"),
        (
            *(Check(method, "<", "BIGRec", "ORRatio@1") for method in ("DMPO", "SDPO")),
            *(Check(method, "=", "BIGRec", "DivRatio@1") for method in ("DMPO", "SDPO")),
        ),
    ),
    Claim(
        "SPRec has the fairest first recommendations of the language models",
        ("MovieLens", "Goodreads", "CDs_and_Vinyl"),
        tuple(Check("SPRec", "<", other, "MGU@1") for other in _LLM),
    ),
    Claim(
        "SPRec is more diverse than the other language models and over-recommends less than most",
        ALL,
        tuple(check for other in _LLM for check in _better("SPRec", other, _DIVERSE)),
    ),
    Claim(
        "RosePO over-recommends less than BIGRec and than SPRec",
        ("CDs_and_Vinyl",),
        tuple(Check("RosePO", "<", other, "ORRatio@1") for other in ("BIGRec", "SPRec")),
    ),
    Claim(
        "RW is more diverse than BIGRec, and fairer than BIGRec and SPRec",
        ("Steam",),
        (
            Check("RW", ">", "BIGRec", "DivRatio@1"),
            *(Check("RW", "<", other, "MGU@1") for other in ("BIGRec", "SPRec")),
        ),
    ),
    Claim(
        "SPRec-noSFT is the least accurate of the ablations",
        ("MovieLens", "Goodreads", "CDs_and_Vinyl"),
        tuple(Check("SPRec-noSFT", "<", other, "HR@5") for other in ("SPRec", "SPRec-RN", "SPRec-noDPO")),
    ),
    Claim(
        "On Steam SPRec-noDPO is the least accurate of the ablations",
        ("Steam",),
        tuple(Check("SPRec-noDPO", "<", other, "HR@5") for other in ("SPRec", "SPRec-RN", "SPRec-noSFT")),
    ),
    Claim(
        "SPRec-noDPO changes little against BIGRec",
        ALL,
        tuple(Check("SPRec-noDPO", "=", "BIGRec", metric) for metric in ("DivRatio@1", "ORRatio@1", "MGU@1", "HR@5")),
    ),
    Claim(
        "Random negatives do not improve diversity or over-recommendation over BIGRec",
        ("MovieLens", "Goodreads"),
        (
            Check("SPRec-RN", "<=", "BIGRec", "DivRatio@1"),
            Check("SPRec-RN", ">=", "BIGRec", "ORRatio@1"),
        ),
    ),
    Claim(
        "Random negatives improve diversity over BIGRec, but not over-recommendation",
        ("CDs_and_Vinyl",),
        (
            Check("SPRec-RN", ">", "BIGRec", "DivRatio@1"),
            Check("SPRec-RN", ">=", "BIGRec", "ORRatio@1"),
        ),
    ),
    Claim(
        "Random negatives over-recommend more than self-play, with less diversity",
        ALL,
        _better("SPRec", "SPRec-RN", _DIVERSE),
    ),
    Claim("Random negatives are less fair than self-play", ALL, _better("SPRec", "SPRec-RN", ("MGU@1", "MGU@5"))),
    Claim(
        "SPRec-noSFT is more diverse and fairer than SPRec",
        ("MovieLens",),
        _better("SPRec-noSFT", "SPRec", ("DivRatio@1", "ORRatio@1", "ORRatio@5", "MGU@1")),
    ),
    Claim(
        "SASRec is the most accurate",
        ("Goodreads", "CDs_and_Vinyl", "Steam"),
        tuple(Check("SASRec", ">", other, "HR@5") for other in (*_LLM, "SPRec")),
    ),
)
"""The paper's claims about its tables, in our words; those about figures are left out."""


def claims_table(found: Mapping[Job, Record], datasets: Sequence[Dataset]) -> Table:
    """How many checks of each claim hold, are open and fail on each of the ``datasets``, by the paper's protocol.

    A claim is left out if one of its methods was not run.
    """
    rows: list[tuple[tuple[str, ...], Mapping[str, Cell]]] = []
    samples = {dataset.name: _by_method(found, dataset) for dataset in datasets}
    for claim in CLAIMS:
        for name in (name for name in claim.datasets if name in samples):
            own = samples[name]
            if claim.methods <= set(own):
                rows.append(_row(claim, name, {check: check.verdict(own) for check in claim.checks}))
    labels = ("claim", "dataset", "holds for", "open for", "fails for")
    return Table("", labels, ("holds", "open", "fails"), tuple(rows), digits=0)


def _by_method(found: Mapping[Job, Record], dataset: Dataset) -> dict[str, Bootstrap]:
    """The methods by the paper's protocol, or by the only one that they have."""
    own = {job: record for job, record in found.items() if job.variant in OWN_WAY or job.protocol == PAPERS}
    return {variant: sample for (variant, _), sample in sampled(own, dataset).items()}


def _row(claim: Claim, name: str, verdicts: Mapping[Statement, str]) -> tuple[tuple[str, ...], Mapping[str, Cell]]:
    kinds = {kind: [check for check, found in verdicts.items() if found == kind] for kind in ("holds", "open", "fails")}
    labels = (claim.text, name, *("; ".join(map(str, kinds[kind])) for kind in kinds))
    return labels, {kind: Cell(float(len(checks))) for kind, checks in kinds.items()}
