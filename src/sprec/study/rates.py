"""The search for learning rates: every method gets the same number of tries, judged on the validation split.

The rates are for one backbone recipe, so they are judged on all its datasets together: by NDCG@5, averaged over them,
among the rates whose models still write titles of the catalog (:data:`EXACT` of them). With only a few hundred cases
the largest number is often luck: the recipe's rate stays unless the best one is significantly better, that is, unless
the 95% interval of the paired difference is above zero. Ablations take the rate of their method; D3, which decodes with
BIGRec's model, takes BIGRec's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sprec.data import Dataset
from sprec.evaluation import Bootstrap, Cell, Table, bootstrap, change_mark, compare, mean_over_datasets
from sprec.runs.health import EXACT
from sprec.study.execute import execute
from sprec.study.plan import PAPERS, Job, check_fits, of_row, recipe_for, refuse_changes
from sprec.study.records import Record
from sprec.system.errors import UserError
from sprec.system.progress import say

SFT = (5e-5, 1e-4, 2e-4)
PREFER = (5e-6, 1e-5, 2e-5)
Grid = Mapping[str, tuple[str, str, tuple[float, ...]]]
GRID: Grid = {
    "SASRec": ("sasrec", "sasrec.lr", (5e-4, 1e-3, 2e-3)),
    "BIGRec": ("bigrec", "sft.lr", SFT),
    "RW": ("rw", "sft.lr", SFT),
    "DMPO": ("dmpo", "prefer.lr", PREFER),
    "SDPO": ("sdpo", "prefer.lr", PREFER),
    "RosePO": ("rosepo", "prefer.lr", PREFER),
    "SPRec": ("sprec", "prefer.lr", (1e-6, 2e-6, 4e-6)),
}
"""Name in the paper to method, setting and the rates tried: that of the scratch recipes, half and twice of it.

If one at the end of its row wins, all rows must be made wider.
"""
JUDGE = "NDCG@5"
SHOWN = (JUDGE, "difference", "HR@5", "DivRatio@1", "ORRatio@1", "ExactTitles")
_EXACT = "ExactTitles"
Row = tuple[tuple[str, ...], Mapping[str, Cell]]


@dataclass(frozen=True)
class Try:
    """The result of a rate, on one dataset or on several together.

    Attributes:
        sample: its metrics with their resamples.
        exact: share of the generated titles that exist; NaN for methods that write none.
    """

    sample: Bootstrap
    exact: float


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
) -> tuple[Table, Table]:
    """Try all rates on the validation split.

    Args:
        datasets: the data.
        out: folder of runs and records; a second call finds what is there.
        seed: of the runs.
        backbone: recipe for all datasets; by default the shipped one of each.
        changes: further ``--set`` changes.
        variants: only these methods; by default all.
        grid: the rates to try.
        workers: processes that try rates of a method in parallel.

    Returns:
        A table of all datasets together, with the chosen rates marked and the difference in NDCG@5 from the recipe's
        rate; and one of each dataset, with the rates marked that it alone would choose.

    Raises:
        UserError: a method is unknown, or a dataset has no validation cases.
    """
    known = plan_search(datasets, seed=seed, backbone=backbone, changes=changes, variants=variants, grid=grid)
    check_fits(known, datasets)
    start: list[str] = []  # changes for the methods after BIGRec, which start from its rate
    together: list[Row] = []
    alone: list[Row] = []
    name = ", ".join(data.name for data in datasets) if len(datasets) < 3 else f"{len(datasets)} datasets"
    for variant in variants or grid:
        setting = grid[variant][1]
        tries = [_tries(data, variant, grid, seed, backbone, [*start, *changes]) for data in datasets]
        records = execute([job for jobs in tries for job in jobs.values()], datasets, out, workers)
        each = [{rate: _tried(records[job], data, index) for rate, job in jobs.items()}
                for index, (data, jobs) in enumerate(zip(datasets, tries, strict=True))]  # fmt: skip
        pooled = {rate: _together([found[rate] for found in each]) for rate in each[0]}
        own = _own_rate(datasets, variant, grid, backbone, changes)
        best = chosen(pooled, own)
        say(f"  {variant}: {setting}={best:g}" + ("" if own is None or own == best else f", the recipe has {own:g}"))
        if variant == "BIGRec":
            start = [f"{setting}={best}"]
        how = next(iter(tries[0].values())).how
        together += _rows((name, variant, how, setting), pooled, best, own)
        for data, found in zip(datasets, each, strict=True):
            alone += _rows((data.name, variant, how, setting), found, chosen(found), own)
    labels = ("dataset", "method", "protocol", "rate")
    return Table("", labels, SHOWN, tuple(together)), Table("", labels, SHOWN, tuple(alone))


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

    ``datasets``, ``seed``, ``backbone``, ``changes``, ``variants`` and ``grid`` are as there.

    Raises:
        UserError: a method is unknown, a dataset has no recipe, or a change is of a searched setting.
    """
    unknown = set(variants) - set(grid)
    if unknown:
        raise UserError(f"no rates are searched for {', '.join(sorted(unknown))}; methods: {', '.join(grid)}")
    tried = {grid[variant][1] for variant in variants or grid}
    refuse_changes(changes, {"method", "seed", "evaluate", "split", "recommend.protocol", *tried}, "rates")
    return [
        job
        for variant in variants or grid
        for dataset in datasets
        for job in _tries(dataset, variant, grid, seed, backbone, changes).values()
    ]


def _tries(
    dataset: Dataset, variant: str, grid: Grid, seed: int, backbone: str | None, changes: Sequence[str]
) -> dict[float, Job]:
    """Rate to the run that tries it."""
    method, setting, rates = grid[variant]
    own = [f"method={method}", "split=valid", "evaluate=last", f"seed={seed}"]
    recipe = recipe_for(dataset, backbone)
    return {
        rate: Job(dataset.name, f"{variant} {setting}={rate:g}", PAPERS, seed,
                  of_row(recipe, [*own, f"{setting}={rate}"], changes))
        for rate in rates
    }  # fmt: skip


def chosen(tried: Mapping[float, Try], own: float | None = None) -> float:
    """The rate with the best NDCG@5 among those that keep the titles (all, if none does); ties go to the lower rate.

    Args:
        tried: rate to its result.
        own: the rate of the recipe, which stays unless the best one is significantly better.
    """
    sound = {rate: one for rate, one in tried.items() if not one.exact < EXACT} or tried
    best = min(sound, key=lambda rate: (-float(sound[rate].sample.per_seed[JUDGE].mean()), rate))
    if own is not None and own in sound and not compare(sound[best].sample, sound[own].sample)[JUDGE].real:
        return own
    return best


def _own_rate(
    datasets: Sequence[Dataset], variant: str, grid: Grid, backbone: str | None, changes: Sequence[str]
) -> float | None:
    """The rate that the recipes of all datasets have; None if they differ."""
    method, setting, _ = grid[variant]
    section, _, name = setting.partition(".")
    recipes = [of_row(recipe_for(dataset, backbone), [f"method={method}"], changes) for dataset in datasets]
    rates = {float(getattr(getattr(recipe, section), name)) for recipe in recipes}
    return rates.pop() if len(rates) == 1 else None


def _tried(record: Record, dataset: Dataset, index: int) -> Try:
    """A record as a try; each dataset is resampled with its own seed, as their cases are independent."""
    sample = bootstrap([record.cases(dataset, "valid")], seed=index, metrics=SHOWN)
    return Try(sample, record.results[-1].metrics.get(_EXACT, math.nan))


def _together(tries: Sequence[Try]) -> Try:
    return Try(mean_over_datasets([one.sample for one in tries]), fmean(one.exact for one in tries))


def _rows(labels: tuple[str, str, str, str], tried: Mapping[float, Try], best: float, own: float | None) -> list[Row]:
    """A row for each rate; the last of the labels is the setting."""
    *first, setting = labels
    reference = tried.get(best if own is None else own)
    return [((*first, f"{setting}={rate:g}"), _cells(one, reference, rate == best)) for rate, one in tried.items()]


def _cells(one: Try, own: Try | None, best: bool) -> dict[str, Cell]:
    mark = "best" if best else ""
    cells = {name: Cell(one.sample.interval(name).value, mark=mark) for name in SHOWN if name in one.sample.per_seed}
    found = one.sample.interval(JUDGE)
    cells[JUDGE] = Cell(found.value, found.low, found.high, mark)
    if own is not None and own is not one:
        change = compare(one.sample, own.sample)[JUDGE]
        cells["difference"] = Cell(change.value, change.low, change.high, change_mark(change, JUDGE))
    return cells | ({} if math.isnan(one.exact) else {_EXACT: Cell(one.exact, mark=mark)})
