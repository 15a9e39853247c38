"""The search of learning rates: every method gets the same number of tries, judged on the validation split.

A rate is chosen by NDCG@5 on the validation cases, among the rates whose model still writes titles of the catalog
(:data:`EXACT` of them). Ablations take the rate of the method they are ablations of; what adds no training (RW's
weights, D3's decoding) takes BIGRec's.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sprec.data import Dataset
from sprec.errors import UserError
from sprec.evaluation import Cell, Table
from sprec.progress import say
from sprec.runs.recipes import resolve
from sprec.runs.records import Record
from sprec.runs.reproduce import Job, check_fits, execute, recipe_for

EXACT = 0.9
"""Share of the generated titles that must exist."""
PREFER = (2e-6, 5e-6, 1e-5)
Grid = Mapping[str, tuple[str, str, tuple[float, ...]]]
GRID: Grid = {
    "SASRec": ("sasrec", "sasrec.lr", (1e-3, 4e-3, 1e-2)),
    "BIGRec": ("bigrec", "sft.lr", (1e-4, 2e-4, 4e-4)),
    "DMPO": ("dmpo", "prefer.lr", PREFER),
    "SDPO": ("sdpo", "prefer.lr", PREFER),
    "RosePO": ("rosepo", "prefer.lr", PREFER),
    "SPRec": ("sprec", "prefer.lr", PREFER),
}
"""Name in the paper to method, setting and the rates tried."""
SHOWN = ("NDCG@5", "HR@5", "DivRatio@1", "ORRatio@1", "ExactTitles")


def search(
    datasets: Sequence[Dataset],
    out: Path,
    *,
    seed: int = 0,
    backbone: str | None = None,
    changes: Sequence[str] = (),
    variants: Sequence[str] = (),
    grid: Grid = GRID,
    workers: int = 1,
) -> Table:
    """Try all rates on the validation split; the chosen ones are marked.

    Args:
        datasets: the data.
        out: folder of runs and records; a second call finds what is there.
        seed: of the runs.
        backbone: recipe for all datasets; by default the shipped one of each.
        changes: further ``--set`` changes.
        variants: only these methods; all by default.
        grid: what to try.
        workers: processes that try rates of a method side by side.

    Raises:
        UserError: an unknown method, or a dataset without validation cases.
    """
    known = plan_search(datasets, seed=seed, backbone=backbone, changes=changes, variants=variants, grid=grid)
    check_fits(known, datasets)
    rows: list[tuple[tuple[str, ...], Mapping[str, Cell]]] = []
    for dataset in datasets:
        start: list[str] = []  # what the methods after BIGRec start from
        for variant in variants or grid:
            setting = grid[variant][1]
            jobs = _tries(dataset, variant, grid, seed, backbone, [*start, *changes])
            records = execute(list(jobs.values()), [dataset], out, workers)
            best = chosen({rate: records[job] for rate, job in jobs.items()})
            say(f"  {dataset.name}, {variant}: {setting}={best:g}")
            if variant == "BIGRec":
                start = [f"{setting}={best}"]
            rows += [
                ((dataset.name, variant, job.how, f"{setting}={rate:g}"), _cells(records[job], rate == best))
                for rate, job in jobs.items()
            ]
    return Table("", ("dataset", "method", "protocol", "rate"), SHOWN, tuple(rows))


def plan_search(
    datasets: Sequence[Dataset],
    *,
    seed: int = 0,
    backbone: str | None = None,
    changes: Sequence[str] = (),
    variants: Sequence[str] = (),
    grid: Grid = GRID,
) -> list[Job]:
    """The runs of :func:`search` as far as they are known: methods after BIGRec will start from the rate chosen for it.

    Raises:
        UserError: an unknown method, or a dataset without a recipe.
    """
    unknown = set(variants) - set(grid)
    if unknown:
        raise UserError(f"no rates are searched for {', '.join(sorted(unknown))}; methods: {', '.join(grid)}")
    return [
        job
        for dataset in datasets
        for variant in variants or grid
        for job in _tries(dataset, variant, grid, seed, backbone, changes).values()
    ]


def _tries(
    dataset: Dataset, variant: str, grid: Grid, seed: int, backbone: str | None, changes: Sequence[str]
) -> dict[float, Job]:
    """Rate to the run that tries it."""
    method, setting, rates = grid[variant]
    own = [f"method={method}", "split=valid", "evaluate=last", *changes]
    recipe = recipe_for(dataset, backbone)
    return {
        rate: Job(dataset.name, f"{variant} {setting}={rate:g}", "paper", seed,
                  resolve(recipe, [*own, f"{setting}={rate}", f"seed={seed}"]))
        for rate in rates
    }  # fmt: skip


def chosen(tried: Mapping[float, Record]) -> float:
    """The rate with the best NDCG@5 among those that keep the titles (all, if none does); ties to the lower rate."""
    last = {rate: record.results[-1].metrics for rate, record in tried.items()}
    sound = {rate: values for rate, values in last.items() if values.get("ExactTitles", 1.0) >= EXACT} or last
    return min(sound, key=lambda rate: (-sound[rate]["NDCG@5"], rate))


def _cells(record: Record, best: bool) -> dict[str, Cell]:
    values = record.results[-1].metrics
    mark = "best" if best else ""
    return {name: Cell(values[name], mark=mark) for name in SHOWN if not math.isnan(values.get(name, math.nan))}
