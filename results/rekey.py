"""Give the committed records the keys that today's code knows them by, and digests where they have none.

Keys change when the schema of recipes gets another number. A key only says which recipe and data a record belongs to.
The record has to be that of its place: its lists must have the metrics that it says, on the data that are given.
Records are packed: a Parquet file for each dataset.
Usage: python results/rekey.py OUT DATASET [DATASET ...]
"""

import sys
from dataclasses import replace
from pathlib import Path

from sprec.data import Dataset
from sprec.runs.stages import measured
from sprec.study.plan import EXPERIMENTS, Job, plan
from sprec.study.rates import plan_search
from sprec.study.records import Record, key_of, pack, stored


def jobs_of(datasets: list[Dataset]) -> list[Job]:
    """All that can be on record."""
    jobs = [job for experiment in EXPERIMENTS for job in plan(experiment, datasets, [0, 1, 2])]
    return [*jobs, *plan_search(datasets)]


def rekeyed(record: Record, job: Job, dataset: Dataset) -> Record:
    """The record of a job with the key of today.

    Raises:
        SystemExit: its lists have other metrics than it says.
    """
    cases = dataset.splits[job.recipe.split][: len(record.lists)]
    found, said = measured(record.lists, cases, dataset), record.results[-1].metrics
    wrong = [name for name, value in found.items() if name in said and abs(said[name] - value) > 1e-12]
    if wrong or len(record.lists) != min(job.recipe.cases, len(dataset.splits[job.recipe.split])):
        raise SystemExit(f"{job.title}: not of {dataset.name}: {', '.join(wrong) or 'another number of cases'}")
    return replace(record, key=key_of(job.recipe, dataset))


def main() -> None:
    """Re-key all records of a folder, and pack them."""
    out, datasets = Path(sys.argv[1]), [Dataset.load(path) for path in sys.argv[2:]]
    named = {dataset.name: dataset for dataset in datasets}
    places = {job.place.as_posix(): job for job in jobs_of(datasets)}
    records = stored(out / "records", unsigned=True)  # their metrics are checked
    for place, job in places.items():
        if place in records:
            records[place] = rekeyed(records[place], job, named[job.dataset])
    pack(out / "records", records)
    missed = sorted({*records} - {*places})
    print(f"{len(records) - len(missed)} records in {out}" + "".join(f"\nnot planned: {place}" for place in missed))


main()
