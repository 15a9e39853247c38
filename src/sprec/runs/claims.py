"""The paper's claims as comparisons that can be checked, and what our runs say to each (paper, Tables 2 and 3).

A claim is a list of statements "method A has more (less, as much) of a metric than method B" on some datasets. Each is
decided by the paired difference over the same cases and seeds: it holds when the interval excludes zero on the claimed
side, fails when it excludes zero on the other side, and stays open in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sprec.data import Dataset
from sprec.evaluation import PAPER_METRICS, Bootstrap, Cell, Table, compare
from sprec.evaluation.metrics import direction
from sprec.runs.paper import sampled
from sprec.runs.records import Record
from sprec.runs.reproduce import Job

ALL = ("MovieLens", "Goodreads", "CDs_and_Vinyl", "Steam")
Relation = Literal[">", "<", "="]


@dataclass(frozen=True)
class Check:
    """``method`` has more (``>``), less (``<``) or as much (``=``) of a metric than (as) ``other``."""

    method: str
    relation: Relation
    other: str
    metric: str

    def verdict(self, samples: Mapping[str, Bootstrap]) -> str:
        """``holds``, ``fails``, or ``open``: the interval includes zero."""
        found = compare(samples[self.method], samples[self.other])[self.metric]
        if self.relation == "=":
            return "fails" if found.real else "holds"
        if not found.real:
            return "open"
        return "holds" if (found.value > 0) == (self.relation == ">") else "fails"

    def __str__(self) -> str:
        return f"{self.method} {self.relation} {self.other}: {self.metric}"


@dataclass(frozen=True)
class Claim:
    """A claim, where the paper makes it, and the checks that decide it."""

    text: str
    datasets: tuple[str, ...]
    checks: tuple[Check, ...]


def _better(method: str, other: str, metrics: Sequence[str]) -> tuple[Check, ...]:
    """One check per metric: the method is better than the other one, in the direction of the metric."""
    return tuple(Check(method, ">" if direction(metric) > 0 else "<", other, metric) for metric in metrics)


_DIVERSE = ("DivRatio@1", "DivRatio@5", "ORRatio@1", "ORRatio@5")
_LLM = ("BIGRec", "RW", "D3", "DMPO", "SDPO", "RosePO")
CLAIMS = (
    Claim("SPRec is better than BIGRec in all eight metrics", ALL, _better("SPRec", "BIGRec", PAPER_METRICS)),
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
    Claim("RosePO over-recommends less than SPRec", ("CDs_and_Vinyl",), (Check("RosePO", "<", "SPRec", "ORRatio@1"),)),
    Claim("RW is fairer than SPRec", ("Steam",), (Check("RW", "<", "SPRec", "MGU@1"),)),
    Claim(
        "SPRec-noSFT is the least accurate of the ablations",
        ("MovieLens", "Goodreads", "CDs_and_Vinyl"),
        tuple(Check("SPRec-noSFT", "<", other, "HR@5") for other in ("SPRec", "SPRec-RN", "SPRec-noDPO")),
    ),
    Claim(
        "SPRec-noDPO changes little against BIGRec",
        ALL,
        tuple(Check("SPRec-noDPO", "=", "BIGRec", metric) for metric in ("DivRatio@1", "ORRatio@1", "MGU@1", "HR@5")),
    ),
    Claim(
        "Random negatives over-recommend at least as much as self-play, with less diversity",
        ALL,
        _better("SPRec", "SPRec-RN", _DIVERSE),
    ),
    Claim("Random negatives are less fair than self-play", ALL, _better("SPRec", "SPRec-RN", ("MGU@1", "MGU@5"))),
    Claim(
        "SPRec-noSFT is more diverse and fairer than SPRec",
        ("MovieLens",),
        _better("SPRec-noSFT", "SPRec", ("DivRatio@1", "ORRatio@1", "MGU@1")),
    ),
    Claim(
        "SASRec is the most accurate",
        ("Goodreads", "CDs_and_Vinyl", "Steam"),
        tuple(Check("SASRec", ">", other, "HR@5") for other in (*_LLM, "SPRec")),
    ),
)
"""What the paper says about its tables, in our words; claims about figures are not among them."""


def claims_table(found: Mapping[Job, Record], datasets: Sequence[Dataset]) -> Table:
    """How many checks of each claim hold, stay open and fail on each dataset, by the paper's protocol.

    A claim is left out where a method of it was not run.
    """
    rows: list[tuple[tuple[str, ...], Mapping[str, Cell]]] = []
    samples = {dataset.name: _by_method(found, dataset) for dataset in datasets}
    for claim in CLAIMS:
        for name in (name for name in claim.datasets if name in samples):
            own = samples[name]
            needed = {check.method for check in claim.checks} | {check.other for check in claim.checks}
            if needed <= set(own):
                rows.append(_row(claim, name, {check: check.verdict(own) for check in claim.checks}))
    return Table("", ("claim", "dataset", "holds for", "fails for"), ("holds", "open", "fails"), tuple(rows), digits=0)


def _by_method(found: Mapping[Job, Record], dataset: Dataset) -> dict[str, Bootstrap]:
    """The methods by the paper's protocol, or by the only one that they have."""
    own = {job: record for job, record in found.items() if job.protocol == "paper"}
    return {variant: sample for (variant, _), sample in sampled(own, dataset).items()}


def _row(claim: Claim, name: str, verdicts: Mapping[Check, str]) -> tuple[tuple[str, ...], Mapping[str, Cell]]:
    kinds = {kind: [check for check, found in verdicts.items() if found == kind] for kind in ("holds", "open", "fails")}
    labels = (claim.text, name, *("; ".join(map(str, kinds[kind])) for kind in ("holds", "fails")))
    return labels, {kind: Cell(float(len(checks))) for kind, checks in kinds.items()}
