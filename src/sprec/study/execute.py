"""Running the jobs of an experiment, several at a time, and finding their records.

The ``jobs`` are of :func:`sprec.study.plan.plan`, ``datasets`` are all that they name, ``out`` is the folder of runs,
shared stages and records; ``found`` are the jobs' records.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from sprec.config import Recipe
from sprec.data import Dataset
from sprec.runs.pipeline import planned, run
from sprec.runs.store import BusyError
from sprec.study.eta import Outlook
from sprec.study.plan import Job, by_name, check_fits
from sprec.study.records import Record, at, find, key_of, of_run
from sprec.system import processes, storage
from sprec.system.errors import UserError
from sprec.system.hardware import pick_device, pick_precision
from sprec.system.progress import bar, say
from sprec.system.workers import divide


def check_records(jobs: Sequence[Job], datasets: Sequence[Dataset], out: Path) -> None:
    """Refuse to replace the record of another recipe or other data, which may have taken hours.

    Raises:
        UserError: names the first such record, or one that is damaged or was edited.
    """
    named = by_name(datasets)
    for job in jobs:
        file = job.record(out)
        there = at(file)
        if there is not None and there.key != key_of(job.recipe, named[job.dataset]):
            raise UserError(
                f"{file} was made by another recipe (--backbone, --set) or from other data; choose another -o, "
                "or remove it to run this one"
            )


def on_record(jobs: Sequence[Job], datasets: Sequence[Dataset], out: Path) -> list[Job]:
    """The jobs that have been run: a table of them needs no runs, and datasets may differ in their seeds.

    Raises:
        UserError: there are none.
    """
    named = by_name(datasets)
    found = [job for job in jobs if _find(job, named, out) is not None]
    if not found:
        raise UserError(f"none of these {len(jobs)} runs is on record under {out}; leave out --recorded to run them")
    return found


def execute(jobs: Sequence[Job], datasets: Sequence[Dataset], out: Path, workers: int = 1) -> dict[Job, Record]:
    """Run all jobs, sharing stages; those on record are not run again. Shows overall progress.

    Jobs that another process is running are left to it: the same call in several processes divides the jobs among them.

    Args:
        jobs: of :func:`plan`.
        datasets: all that the jobs name.
        out: folder of runs, shared stages and records.
        workers: processes to start (:mod:`sprec.system.workers`).

    Returns:
        The record of each job; also under ``out/records``.

    Raises:
        UserError: a job cannot run on its dataset, or would replace the record of another recipe.
    """
    check_fits(jobs, datasets)
    check_records(jobs, datasets, out)
    named = by_name(datasets)
    if workers > 1:
        _divide(jobs, named, out, workers)
    found = _finish(jobs, named, out)
    for warning in mixed_backbones(found):
        say(f"! {warning}")
    return found


def mixed_backbones(found: Mapping[Job, Record]) -> list[str]:
    """A line for each dataset whose runs have different backbones, so that they differ in more than their methods.

    This happens when records are moved to a machine without their stages, and more runs follow.
    """
    sides: dict[str, dict[str, set[str]]] = {}
    for job, record in found.items():
        if record.backbone:
            sides.setdefault(job.dataset, {}).setdefault(record.backbone, set()).add(job.variant)
    warnings = []
    for dataset, backbones in sides.items():
        if len(backbones) > 1:
            who = "; ".join(f"{', '.join(sorted(rows))} from {name}" for name, rows in backbones.items())
            warnings.append(
                f"{dataset}: these runs descend from {len(backbones)} backbones, made at different times, "
                f"so that more than the methods differs: {who}. Remove the records of all but one and run it again"
            )
    return warnings


def _divide(jobs: Sequence[Job], named: Mapping[str, Dataset], out: Path, workers: int) -> None:
    if processes.launched() > 1:
        raise UserError("a launcher has started several processes for each run; --jobs is for processes without one")
    missing = {number: job for number, job in enumerate(jobs, start=1) if _find(job, named, out) is None}
    total = len(missing)
    places = {number: place for place, number in enumerate(missing)}
    outlook = Outlook(_planned(missing.values(), named), min(workers, total))

    def look() -> None:
        for number, job in list(missing.items()):
            record = _find(job, named, out)
            if record is not None:
                outlook.finished(places[number], record.seconds)
                say(f"✓ [{number}/{len(jobs)}] {job.title}  {record.seconds:.0f} s  {outlook}".rstrip())
                progress.advance(note=str(outlook))
                del missing[number]

    if missing:
        with bar("all runs", total, eta=False) as progress:
            divide(min(workers, total), out, look, _finish, jobs, named, out)


def _finish(jobs: Sequence[Job], named: Mapping[str, Dataset], out: Path) -> dict[Job, Record]:
    """The records of all jobs, in their order; runs those that no other process is running."""
    found: dict[Job, Record] = {}
    spent: dict[Job, float] = {}
    pause = 1.0
    outlook = Outlook(_planned(jobs, named))
    with bar("all runs", len(jobs), eta=False) as progress:
        while len(found) < len(jobs):
            before = len(found)
            for place, job in enumerate(jobs):
                number = f"[{place + 1}/{len(jobs)}]"
                record = None if job in found else _attempt(job, named, out, number, spent, outlook)
                if record is not None:
                    found[job] = record
                    outlook.finished(place, spent.get(job, 0.0))
                    progress.advance(note=str(outlook))
            if len(found) == before:  # other processes are working on everything that is left
                time.sleep(pause)
            pause = min(2 * pause, 30.0) if len(found) == before else 1.0
    return {job: found[job] for job in jobs}


def _planned(jobs: Iterable[Job], named: Mapping[str, Dataset]) -> list[tuple[Recipe, Mapping[str, str]]]:
    return [(job.recipe, planned(job.recipe, named[job.dataset])) for job in jobs]


def _attempt(
    job: Job, named: Mapping[str, Dataset], out: Path, number: str, spent: dict[Job, float], outlook: Outlook
) -> Record | None:
    """The record of a job; None if another process is working on the run or a stage that it needs.

    Args:
        spent: seconds of earlier attempts.
        outlook: the time left, for messages.
    """
    record = _find(job, named, out)
    if record is not None:
        return record
    if job not in spent:
        say(f"{number} {job.title}  {outlook}".rstrip())
    began, complete = time.monotonic(), (job.folder(out) / storage.MANIFEST).exists()
    alone = processes.launched() == 1  # several processes of one run wait together
    try:
        # overwrite: a run without a record does not count
        run(job.recipe, named[job.dataset], job.folder(out), shared=out / "stages", patient=not alone, overwrite=True)
    except BusyError:
        if not alone:
            raise
        return None
    finally:
        spent[job] = spent.get(job, 0.0) + (0.0 if complete else time.monotonic() - began)
    key = key_of(job.recipe, named[job.dataset])
    record = of_run(job.folder(out), key, spent[job], precision_of(job.recipe))
    already = _find(job, named, out)  # another process may have finished it while this one waited for the lock
    if processes.first() and already is None:
        record.write(job.record(out))
    return already or record


def _find(job: Job, named: Mapping[str, Dataset], out: Path) -> Record | None:
    return find(job.record(out), key_of(job.recipe, named[job.dataset]))


def precision_of(recipe: Recipe) -> str:
    """The precision of a ``recipe`` on this machine."""
    fp32 = pick_precision(recipe.precision, pick_device(recipe.device)) is torch.float32
    return "fp32" if fp32 else "bf16"
