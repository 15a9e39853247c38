"""The paper's experiments as lists of runs: planned together, sharing stages, resumed by the same command."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sprec.config import Recipe, Recommend
from sprec.data import Dataset
from sprec.methods.table import METHODS
from sprec.recommend.protocols import of_language_models, words_of
from sprec.runs.checks import check_fit, check_installed
from sprec.runs.recipes import names, resolve
from sprec.system.errors import UserError

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
FLOOR: Mapping[str, tuple[str, ...]] = {"Popularity": ("method=popularity",), "Random": ("method=random",)}
"""Rows without training, which the paper's Table 2 lacks, but its readers need."""
TABLE3: Mapping[str, tuple[str, ...]] = {
    "BIGRec": ("method=bigrec",),
    "SPRec": ("method=sprec",),
    "SPRec-RN": ("method=sprec-rn",),
    "SPRec-noSFT": ("method=sprec-nosft",),
    "SPRec-noDPO": ("method=sprec-nodpo",),
}
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "BIGRec": ("method=bigrec",),
    "RW": ("method=rw",),
    "RW equal": ("method=rw", "sft.weights=equal"),
    "RW official": ("method=rw", "sft.weights=official"),
    "D3": ("method=d3",),
    "D3 official": ("method=d3", "recommend.protocol=d3-grounded", "recommend.alpha=1.0", "recommend.beams=1"),
    "DMPO": ("method=dmpo",),
    "DMPO official": ("method=dmpo", "prefer.reduction=sum"),
    "RosePO": ("method=rosepo",),
    "RosePO official": ("method=rosepo-official",),
    "SPRec": ("method=sprec",),
}
"""The baselines as in their papers, and as in the research code of SPRec for its tables. RW with equal weights is the
control that separates weighting from averaging over samples."""
FIGURE5: Mapping[str, tuple[str, ...]] = {
    f"{ratio:g}": (*_SWEEP, f"negatives.random_ratio={ratio}") for ratio in (0, 0.25, 0.5, 0.75, 1)
}
FIGURE6: Mapping[str, tuple[str, ...]] = {
    str(count): (*_SWEEP, f"negatives.count={count}", "negatives.decode=beam", "prefer.objective=sdpo")
    for count in range(1, 6)
}
EXPERIMENTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "table2": {**TABLE2, **FLOOR},
    "table3": TABLE3,
    "variants": VARIANTS,
    "tradeoff": TABLE2,
    "figure3": TABLE2,
    "figure4": {
        variant: settings for variant, settings in TABLE3.items() if variant != "BIGRec"
    },  # which has no iterations
    "figure5": FIGURE5,
    "figure6": FIGURE6,
    "claims": {**TABLE2, **TABLE3},
}
"""Experiment to its variants: the name in the paper (or the swept value) to changed settings."""

OWN_WAY = frozenset({"SASRec", "D3", "D3 official", *FLOOR})
"""Methods with only one protocol, whatever that of the others; their records are under the paper's."""
LIST = 5
"""Length of the lists in tables and figures."""

PAPERS = Recommend().protocol
"""The paper's protocol."""


def default_protocols(experiment: str) -> tuple[str, ...]:
    """The protocols of an ``experiment``: all for tables, to separate training from decoding; else the paper's."""
    return of_language_models() if experiment in ("table2", "table3", "tradeoff") else (PAPERS,)


@dataclass(frozen=True)
class Job:
    """One run of an experiment.

    Attributes:
        dataset: its name.
        variant: the row of the table, or the swept value.
        protocol: the folder of its protocol; :attr:`how` is its name.
        seed: of the run.
        recipe: all its settings.
    """

    dataset: str
    variant: str
    protocol: str
    seed: int
    recipe: Recipe

    @property
    def how(self) -> str:
        """Its protocol in words."""
        return words_of(self.recipe.recommend)

    @property
    def title(self) -> str:
        """The run in words."""
        return f"{self.dataset}, {self.variant}, {self.how}, seed {self.seed}"

    @property
    def place(self) -> Path:
        """The path of the job; jobs that differ only in the experiment have the same."""
        method, (_, _, searched) = self.recipe.method, self.variant.partition(" ")
        kind = f"{method}-{searched}" if searched else method
        if self.variant[0].isdigit():
            kind = f"{method}-{self.variant}-{self.recipe.negatives.decode}"
        kind += "-stages" if self.recipe.evaluate == "stages" else ""
        return Path(self.dataset) / kind / self.protocol / f"seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """The run directory in the folder ``out``."""
        return out / "runs" / self.place

    def record(self, out: Path) -> Path:
        """The record of the run in the folder ``out`` (:mod:`sprec.study.records`)."""
        return out / "records" / self.place.with_suffix(".json")


def recipe_for(dataset: Dataset, backbone: str | None) -> str:
    """The recipe of a ``dataset``: ``backbone`` if given, else the shipped one with the dataset's name.

    Raises:
        UserError: none is shipped for this dataset.
    """
    if backbone is not None:
        return backbone
    wanted = f"{(re.findall('[^_ ]+', dataset.name) or [''])[0].lower()}-scratch"
    if wanted not in names():
        raise UserError(f"no recipe {wanted} is shipped for {dataset.name}; name one with --backbone")
    return wanted


def plan(
    experiment: str,
    datasets: Sequence[Dataset],
    seeds: Sequence[int],
    *,
    backbone: str | None = None,
    protocols: Sequence[str] = (),
    changes: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> list[Job]:
    """All runs of an experiment; cheap ones that others build on come first.

    Args:
        experiment: a key of :data:`EXPERIMENTS`.
        datasets: the data.
        seeds: seeds of the runs; the scratch backbone is shared by all.
        backbone: recipe for all datasets; by default the shipped one of each.
        protocols: of the language models; by default :func:`default_protocols`.
        changes: further ``--set`` changes.
        variants: only these rows; by default all.

    Raises:
        UserError: the experiment or a variant is unknown, a dataset has no recipe, a figure would be empty, or a change
            is of a setting that the experiment sets itself.
    """
    if experiment not in EXPERIMENTS:
        known = ", ".join(["table1", "figure2", *EXPERIMENTS, "frontier", "rates"])
        raise UserError(f"unknown experiment {experiment}; there are {known}")
    rows = EXPERIMENTS[experiment]
    unknown = set(variants) - set(rows)
    if unknown:
        raise UserError(f"{experiment} has no rows {', '.join(sorted(unknown))}; it has {', '.join(rows)}")
    refuse_changes(changes, {"method", "seed", "evaluate", "recommend.protocol", *_varied(rows)}, experiment)
    evaluate = "stages" if experiment in ("figure4", "figure5", "figure6") else "last"
    jobs = []
    for dataset in datasets:
        name = recipe_for(dataset, backbone)
        for variant, settings in rows.items():
            if variants and variant not in variants:
                continue
            wanted = protocols or default_protocols(experiment)
            for protocol in (PAPERS,) if variant in OWN_WAY else dict.fromkeys(wanted):
                asked = [*settings, f"evaluate={evaluate}"]
                asked += [] if variant in OWN_WAY else [f"recommend.protocol={protocol}"]
                for seed in dict.fromkeys(seeds):
                    recipe = of_row(name, [*asked, f"seed={seed}"], changes)
                    _check_drawable(experiment, recipe, dataset)
                    jobs.append(Job(dataset.name, variant, protocol, seed, recipe))
    return jobs


def of_row(name: str, settings: Sequence[str], changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a row. Changes for all rows leave alone what defines its method: BIGRec has no iterations.

    Args:
        name: of the recipe.
        settings: the row's own, ``method=...`` first.
        changes: ``--set`` of all rows; the row's method (:data:`sprec.methods.table.METHODS`) and settings win.

    Raises:
        UserError: as :func:`sprec.runs.recipes.resolve`.
    """
    row = METHODS[settings[0].removeprefix("method=")]
    fixed = [f"{section}.{key}={json.dumps(value)}" for section, own in row.items() for key, value in own.items()]
    return resolve(name, [*changes, *fixed, *settings])


def _varied(rows: Mapping[str, Sequence[str]]) -> set[str]:
    """The settings in which the rows of an experiment differ."""
    whole = set(rows.values())
    return {
        setting.partition("=")[0] for settings in whole for setting in settings if any(setting not in o for o in whole)
    }


def refuse_changes(changes: Sequence[str], own: Collection[str], experiment: str) -> None:
    """Refuse ``changes`` of the settings that an ``experiment`` varies or fixes (``own``): its labels would be wrong.

    Raises:
        UserError: names the setting.
    """
    for change in changes:
        key = change.partition("=")[0]
        if any(key == name or name.startswith(f"{key}.") for name in own):
            raise UserError(f"--set {change}: {experiment} sets {key} itself; leave it out (see --seeds, --protocols)")


def _check_drawable(experiment: str, recipe: Recipe, dataset: Dataset) -> None:
    if experiment == "figure3" and not dataset.genres:
        raise UserError(f"figure3 shows unfairness per genre, but {dataset.name} has no genres")
    if experiment in ("figure4", "figure5", "figure6") and not recipe.loop.iterations:
        raise UserError(f"{experiment} shows iterations, and loop.iterations=0 leaves none")


def by_name(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """The ``datasets`` by their names, under which runs and records are kept.

    Raises:
        UserError: two have the same name.
    """
    found: dict[str, Dataset] = {}
    for dataset in datasets:
        if dataset.name in found:
            raise UserError(f"two datasets are called {dataset.name}; runs are kept by name: import one with --name")
        found[dataset.name] = dataset
    return found


def check_fits(jobs: Sequence[Job], datasets: Sequence[Dataset]) -> None:
    """Refuse, before the first run, ``jobs`` that cannot work on their ``datasets``.

    Raises:
        UserError: two datasets have the same name, a recipe does not fit its dataset or needs a package that is not
            installed, or lists are too short for the metrics.
    """
    named = by_name(datasets)
    for job in jobs:
        check_fit(job.recipe, named[job.dataset])
        check_installed(job.recipe)
        if job.recipe.recommend.top_k < LIST:
            raise UserError(
                f"tables and figures measure lists of {LIST}; recommend.top_k={job.recipe.recommend.top_k} is too short"
            )
