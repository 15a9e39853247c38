"""The paper's tables from finished experiments, with the paper's numbers.

``samples`` maps a dataset to the bootstraps of its methods (:func:`sampled`), ``found`` are comparisons of
:func:`compared` or, there, the runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sprec.data import Dataset
from sprec.data.stats import stats
from sprec.evaluation import (
    DIFFERENCE,
    PAPER_METRICS,
    Bootstrap,
    Cases,
    Cell,
    Difference,
    Table,
    bootstrap,
    change_mark,
    compare,
    cutoffs,
    difference_cells,
    marks,
    measurable,
    plain_marks,
    selected,
    shared_seeds,
    with_arrow,
)
from sprec.runs.store import is_run
from sprec.study.plan import OWN_WAY, Job
from sprec.study.published import published, published_sizes
from sprec.study.records import Record
from sprec.system import storage
from sprec.system.errors import UserError
from sprec.system.progress import bar

REFERENCE = "BIGRec"
MARKS = ("real", "paper")
"""How values are marked: if the interval of the difference excludes zero, or by the paper's rule."""
_PRINTED_IN = {"variants": "table2"}
"""Experiment to the paper's table with its rows, if that has another name."""

Row = tuple[tuple[str, ...], Mapping[str, Cell]]
Samples = Mapping[tuple[str, str], Bootstrap]
"""(variant, protocol in words) to its bootstrap over the test cases."""


@dataclass(frozen=True)
class Compared:
    """A method and its reference.

    Attributes:
        labels: dataset, source, method, reference.
        sample: of the method.
        apart: the paired differences by metric.
    """

    labels: tuple[str, str, str, str]
    sample: Bootstrap
    apart: Mapping[str, Difference]


def write_table(table: Table, stem: Path) -> list[Path]:
    """Write a ``table`` as CSV, JSON, Markdown and LaTeX to files with the path ``stem`` and a suffix; returns them.

    Raises:
        UserError: the folder cannot be written, or is a run, whose metrics must not be replaced.
    """
    if is_run(stem.parent):
        raise UserError(f"{stem.parent} is a run, and tables would replace its files; choose another -o")
    forms = {"csv": table.csv(), "json": table.json(), "md": table.markdown(), "tex": table.latex()}
    with storage.writing(stem.parent, "choose another -o"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in forms.items():
            storage.write_text(stem.with_suffix(f".{suffix}"), content)
    return [stem.with_suffix(f".{suffix}") for suffix in forms]


def sampled(
    found: Mapping[Job, Record], dataset: Dataset, metrics: str | None = None
) -> dict[tuple[str, str], Bootstrap]:
    """(variant, protocol in words) to its bootstrap, all seeds together, from the last evaluation of each run.

    Args:
        found: the runs.
        dataset: only its jobs count.
        metrics: names separated by commas, or ``all`` (:func:`selected`); by default the paper's.

    Raises:
        UserError: a metric cannot be measured on these lists.
    """
    groups: dict[tuple[str, str], dict[int, Cases]] = {}
    for job, record in found.items():
        if job.dataset == dataset.name:
            groups.setdefault((job.variant, job.how), {})[job.seed] = record.cases(
                dataset, job.recipe.split, cutoffs(metrics)
            )
    measured = dict.fromkeys(name for own in groups.values() for cases in own.values() for name in measurable(cases))
    wanted = PAPER_METRICS if metrics is None or not measured else selected(metrics, measured)
    samples: dict[tuple[str, str], Bootstrap] = {}
    with bar(f"resample {dataset.name}", len(groups)) as progress:
        for key, own in groups.items():
            samples[key] = bootstrap(list(own.values()), training_seeds=list(own), metrics=wanted)
            progress.advance(1)
    return samples


def paper_table(experiment: str, samples: Mapping[str, Samples], mark: str) -> Table:
    """Table 2 or 3: our values with intervals for each dataset and protocol, then the published ones.

    Marks compare the rows of one source: methods with the same protocol.

    Args:
        experiment: ``table2``, ``table3`` or ``variants``.
        samples: dataset to the result of :func:`sampled`.
        mark: ``real`` marks best and second best only if the difference is real, ``paper`` as in the paper.
    """
    rows: list[Row] = []
    columns = _columns(samples)
    for dataset, ours in samples.items():
        ways = dict.fromkeys(how for _, how in ours)
        with bar(f"mark {dataset}", len(ways)) as progress:
            for how in ways:
                block = {variant: sample for (variant, own), sample in ours.items() if own == how}
                cells = _cells(block, mark)
                rows += [((dataset, f"ours, {how}, {_seeds(block[name])}", name), cells[name]) for name in block]
                progress.advance(1)
        theirs = _theirs(experiment, dataset)
        printed = [name for name in columns if name in PAPER_METRICS]
        stars = {metric: plain_marks({m: v[metric] for m, v in theirs.items()}, metric) for metric in printed}
        rows += [
            ((dataset, "paper", m), {k: Cell(v[k], mark=stars[k][m]) for k in printed if k in v})
            for m, v in theirs.items()
            if printed
        ]
    return Table("", ("dataset", "source", "method"), columns, tuple(rows))


def _columns(samples: Mapping[str, Samples]) -> tuple[str, ...]:
    """The metrics that were resampled; the paper's if none were."""
    found = (name for ours in samples.values() for sample in ours.values() for name in sample.per_seed)
    return tuple(dict.fromkeys(found)) or PAPER_METRICS


def _seeds(sample: Bootstrap) -> str:
    count = len(sample.training_seeds)
    return f"{count} seed" + ("s" if count != 1 else "")


def left_out(dataset: Dataset) -> str:
    """A note for comparisons with the paper's accuracy if test rows are missing; else empty.

    Args:
        dataset: its import counted them.
    """
    kept = len(dataset.test)
    lost = sum(count for name, count in dataset.warnings.items() if name.startswith("test_rows_dropped_"))
    if not lost:
        return ""
    share = lost / (kept + lost)
    return (
        f"{dataset.name}: {lost:,} of {kept + lost:,} test rows have a target that is not in the catalog, and are left "
        f"out; counted as misses they would lower HR and NDCG by {share:.1%}"
    )


def _theirs(experiment: str, dataset: str) -> dict[str, dict[str, float]]:
    """Method to the numbers that the paper printed."""
    wanted = (_PRINTED_IN.get(experiment, experiment), dataset)
    return {m: values for (table, data, m), values in published().items() if (table, data) == wanted}


def _cells(block: Mapping[str, Bootstrap], mark: str) -> dict[str, dict[str, Cell]]:
    cells: dict[str, dict[str, Cell]] = {name: {} for name in block}
    for metric in next(iter(block.values())).per_seed:
        intervals = {name: sample.interval(metric) for name, sample in block.items()}
        plain = {name: interval.value for name, interval in intervals.items()}
        given = marks(block, metric) if mark == MARKS[0] else plain_marks(plain, metric)
        for name, interval in intervals.items():
            shown = given[name] if len(block) > 1 else ""  # a single row is not marked
            cells[name][metric] = Cell(interval.value, interval.low, interval.high, shown)
    return cells


def compared(samples: Mapping[str, Samples]) -> list[Compared]:
    """Every method with its reference, dataset by dataset.

    The reference is BIGRec by the same protocol; for methods with their own protocol, BIGRec by the first one.
    """
    found = []
    for dataset, ours in samples.items():
        pairs = list(_references(ours))
        with bar(f"compare {dataset}", len(pairs)) as progress:
            for variant, how, reference in pairs:
                labels = (dataset, f"ours, {how}", variant, f"{REFERENCE}, {reference}")
                sample = ours[variant, how]
                found.append(Compared(labels, sample, compare(sample, ours[REFERENCE, reference])))
                progress.advance(1)
    return found


def _references(ours: Samples) -> Iterable[tuple[str, str, str]]:
    """Each method, its protocol, and the protocol of the BIGRec that it is compared with."""
    references = [how for variant, how in ours if variant == REFERENCE]
    for (variant, how), sample in ours.items():
        fitting = [own for own in references if own == how or variant in OWN_WAY]
        fitting = [own for own in fitting if shared_seeds(sample, ours[REFERENCE, own])]
        if variant != REFERENCE and fitting:
            yield variant, how, fitting[0]


def changes_table(experiment: str, datasets: Iterable[str], found: Sequence[Compared]) -> Table:
    """Relative change of every method of an ``experiment`` from BIGRec on ``datasets``: ours and the paper's.

    Real changes are also marked in words.
    """
    rows: list[Row] = []
    for dataset in datasets:
        for one in (one for one in found if one.labels[0] == dataset):
            cells = {m: Cell(apart.relative, mark=change_mark(apart, m)) for m, apart in one.apart.items()}
            rows.append((one.labels, cells))
        theirs = _theirs(experiment, dataset)
        base = theirs.get(REFERENCE, {})
        for method, values in theirs.items():
            if method != REFERENCE:
                cells = {m: Cell(values[m] / base[m] - 1) for m in PAPER_METRICS if m in values and base.get(m)}
                rows.append(((dataset, "paper", method, REFERENCE), cells))
    columns = tuple(dict.fromkeys(metric for one in found for metric in one.apart)) or PAPER_METRICS
    return Table("", ("dataset", "source", "method", "reference"), columns, tuple(rows), digits=3)


def differences_table(found: Sequence[Compared]) -> Table:
    """Paired difference of every method from BIGRec, metric by metric: 95% interval, relative, effect size, p."""
    rows: list[Row] = []
    for one in found:
        for metric, apart in one.apart.items():
            cells = {"value": Cell(one.sample.interval(metric).value), **difference_cells(apart, metric)}
            rows.append(((*one.labels, with_arrow(metric)), cells))
    return Table("", ("dataset", "source", "method", "reference", "measure"), ("value", *DIFFERENCE), tuple(rows))


def table1(datasets: Sequence[Dataset]) -> Table:
    """Table 1: items, interactions and sequences of each of the ``datasets``, ours and the paper's."""
    rows: list[Row] = []
    printed = published_sizes()
    for dataset in datasets:
        for source, facts in (("ours", stats(dataset)["table1"]), ("paper", printed.get(dataset.name, {}))):
            if facts:
                cells = {name: Cell(float(value)) for name, value in facts.items()}
                rows.append(((dataset.name, source), cells))
    return Table("", ("dataset", "source"), ("items", "interactions", "sequences"), tuple(rows), digits=0)
