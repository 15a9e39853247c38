"""Give the committed records the keys that today's code knows them by: after the schema of recipes got another number.

A key only says which recipe and data a record belongs to. The record has to be that of its place: its lists must have
the metrics that it says, on the data that are given. Usage: python results/rekey.py OUT DATASET [DATASET ...]
"""

import sys
from dataclasses import replace
from pathlib import Path

from sprec.data import Dataset
from sprec.runs.stages import measured
from sprec.study.plan import EXPERIMENTS, Job, plan
from sprec.study.rates import plan_search
from sprec.study.records import Record, key_of


def jobs_of(datasets: list[Dataset]) -> list[Job]:
    """All that can be on record."""
    jobs = [job for experiment in EXPERIMENTS for job in plan(experiment, datasets, [0, 1, 2])]
    return [*jobs, *plan_search(datasets)]


def rekey(file: Path, job: Job, dataset: Dataset) -> None:
    """Write the record of a job with the key of today.

    Raises:
        SystemExit: its lists have other metrics than it says.
    """
    record = Record.read(file)
    cases = dataset.splits[job.recipe.split][: len(record.lists)]
    found, said = measured(record.lists, cases, dataset), record.results[-1].metrics
    wrong = [name for name, value in found.items() if name in said and abs(said[name] - value) > 1e-12]
    if wrong or len(record.lists) != min(job.recipe.cases, len(dataset.splits[job.recipe.split])):
        raise SystemExit(f"{file} does not belong to {dataset.name}: {', '.join(wrong) or 'another number of cases'}")
    replace(record, key=key_of(job.recipe, dataset)).write(file)


def main() -> None:
    """Re-key all records of a folder."""
    out, datasets = Path(sys.argv[1]), [Dataset.load(path) for path in sys.argv[2:]]
    named = {dataset.name: dataset for dataset in datasets}
    places = {job.record(out): job for job in jobs_of(datasets)}
    done = [file for file, job in places.items() if file.is_file()]
    for file in done:
        rekey(file, places[file], named[places[file].dataset])
    missed = {*out.glob("records/**/*.json")} - {*done}
    print(f"{len(done)} records in {out}" + "".join(f"\nnot planned: {file}" for file in sorted(missed)))


main()
