"""The paper's experiments as lists of runs: planned together, sharing stages, resumed by the same command."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sprec.config import Recipe
from sprec.data import Dataset
from sprec.engine import processes
from sprec.engine.backbone import pick_device, pick_precision
from sprec.errors import UserError
from sprec.progress import bar, say
from sprec.runs.pipeline import run
from sprec.runs.recipes import names, resolve
from sprec.runs.records import Record, find, key_of, of_run

_SWEEP = ("method=sprec", "loop.samples=1024")  # paper, RQ3: 1,024 samples per iteration

TABLE2: Mapping[str, tuple[str, ...]] = {
    "SASRec": ("method=sasrec",),
    "BIGRec": ("method=bigrec",),
    "RW": ("method=rw",),
    "D3": ("method=d3",),
    "DMPO": ("method=dmpo",),
    "SDPO": ("method=sdpo",),
    "RosePO": ("method=rosepo",),
    "SPRec": ("method=sprec",),
}
TABLE3: Mapping[str, tuple[str, ...]] = {
    "BIGRec": ("method=bigrec",),
    "SPRec": ("method=sprec",),
    "SPRec-RN": ("method=sprec-rn",),
    "SPRec-noSFT": ("method=sprec-nosft",),
    "SPRec-noDPO": ("method=sprec-nodpo",),
}
FIGURE5: Mapping[str, tuple[str, ...]] = {
    f"{ratio:g}": (*_SWEEP, f"negatives.random_ratio={ratio}") for ratio in (0, 0.25, 0.5, 0.75, 1)
}
FIGURE6: Mapping[str, tuple[str, ...]] = {
    str(count): (*_SWEEP, f"negatives.count={count}", "negatives.decode=beam", "prefer.objective=sdpo")
    for count in range(1, 6)
}
EXPERIMENTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "table2": TABLE2,
    "table3": TABLE3,
    "figure3": TABLE2,
    "figure4": TABLE3,
    "figure5": FIGURE5,
    "figure6": FIGURE6,
}
"""Experiment to its variants: the name that the paper prints (or the value that is swept) to changed settings."""

_NO_MODEL = {"SASRec"}  # recommends items directly: there is no other protocol
_OWN_PROTOCOL = {"D3"}


@dataclass(frozen=True)
class Job:
    """One run of an experiment."""

    dataset: str
    variant: str
    protocol: str
    seed: int
    recipe: Recipe

    @property
    def place(self) -> Path:
        """Where the job lives; jobs that differ in nothing but the experiment have the same place."""
        method, (_, _, searched) = self.recipe.method, self.variant.partition(" ")
        kind = f"{method}-{searched}" if searched else method
        if self.variant[0].isdigit():
            kind = f"{method}-{self.variant}-{self.recipe.negatives.decode}"
        kind += "-stages" if self.recipe.evaluate == "stages" else ""
        return Path(self.dataset) / kind / self.protocol / f"seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """The run directory."""
        return out / "runs" / self.place

    def record(self, out: Path) -> Path:
        """What is kept of the run (:mod:`sprec.runs.records`)."""
        return out / "records" / self.place.with_suffix(".json")


def recipe_for(dataset: Dataset, backbone: str | None) -> str:
    """The recipe of a dataset: the one asked for, else the shipped one that carries its name.

    Raises:
        UserError: none is shipped for this dataset.
    """
    if backbone is not None:
        return backbone
    wanted = f"{dataset.name.split('_')[0].split()[0].lower()}-scratch"
    if wanted not in names():
        raise UserError(f"no recipe {wanted} is shipped for {dataset.name}; name one with --backbone")
    return wanted


def plan(
    experiment: str,
    datasets: Sequence[Dataset],
    seeds: Sequence[int],
    *,
    backbone: str | None = None,
    protocols: Sequence[str] = ("paper",),
    changes: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> list[Job]:
    """All runs of an experiment, the cheap ones that others build on first.

    Args:
        experiment: a key of :data:`EXPERIMENTS`.
        datasets: the data.
        seeds: seeds of the runs; the scratch backbone is shared by all.
        backbone: recipe for all datasets; by default the shipped one of each.
        protocols: how the language models recommend.
        changes: further ``--set`` changes.
        variants: only these rows; all by default.

    Raises:
        UserError: an unknown experiment or variant, or a dataset without a recipe.
    """
    if experiment not in EXPERIMENTS:
        raise UserError(
            f"unknown experiment {experiment}; there are table1, figure2, {', '.join(EXPERIMENTS)}, claims, rates"
        )
    rows = EXPERIMENTS[experiment]
    unknown = set(variants) - set(rows)
    if unknown:
        raise UserError(f"{experiment} has no rows {', '.join(sorted(unknown))}; it has {', '.join(rows)}")
    evaluate = "stages" if experiment in ("figure4", "figure5", "figure6") else "last"
    jobs = []
    for dataset in datasets:
        name = recipe_for(dataset, backbone)
        for variant, settings in rows.items():
            if variants and variant not in variants:
                continue
            for protocol in _protocols_of(variant, protocols):
                asked = [*settings, f"evaluate={evaluate}", *changes]
                asked += [] if variant in _NO_MODEL | _OWN_PROTOCOL else [f"recommend.protocol={protocol}"]
                for seed in seeds:
                    recipe = resolve(name, [*asked, f"seed={seed}"])
                    jobs.append(Job(dataset.name, variant, protocol, seed, recipe))
    return jobs


def _protocols_of(variant: str, protocols: Sequence[str]) -> Sequence[str]:
    return protocols[:1] if variant in _NO_MODEL | _OWN_PROTOCOL else protocols


def execute(jobs: Sequence[Job], datasets: Sequence[Dataset], out: Path) -> dict[Job, Record]:
    """Run all jobs, sharing stages; those that are on record are not run again. Shows overall progress.

    Returns:
        What is kept of each job; also under ``out/records``.
    """
    by_name = {dataset.name: dataset for dataset in datasets}
    found = {}
    with bar("all runs", len(jobs)) as progress:
        for number, job in enumerate(jobs, start=1):
            found[job] = _execute(job, by_name[job.dataset], out, f"[{number}/{len(jobs)}]")
            progress.advance()
    return found


def _execute(job: Job, dataset: Dataset, out: Path, number: str) -> Record:
    key = key_of(job.recipe, dataset)
    record = find(job.record(out), key)
    if record is None:
        say(f"{number} {job.dataset}, {job.variant}, {job.protocol}, seed {job.seed}")
        began = time.monotonic()
        run(job.recipe, dataset, job.folder(out), shared=out / "stages")
        record = of_run(job.folder(out), key, time.monotonic() - began, precision_of(job.recipe))
        if processes.first():
            record.write(job.record(out))
    return record


def precision_of(recipe: Recipe) -> str:
    """The precision that a recipe gets on this machine."""
    fp32 = pick_precision(recipe.precision, pick_device(recipe.device)) is torch.float32
    return "fp32" if fp32 else "bf16"
