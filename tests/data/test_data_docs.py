"""The pages about data are right: their commands run, their counts are those of the datasets."""

import re
from pathlib import Path
from typing import get_args

import pytest

from sprec.cli.data_options import Formats
from sprec.data import Dataset
from sprec.data.readers.sprec import read
from sprec.data.stats import leakage

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "data.md").read_text("utf-8")


def test_every_format_is_documented() -> None:
    assert [name for name in get_args(Formats) if f"sprec data import {name} " not in REFERENCE] == []


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["MovieLens", "Goodreads", "CDs_and_Vinyl", "Steam"])
def test_the_counts_of_the_papers_datasets_are_current(shared_data: Path, name: str, tmp_path: Path) -> None:
    read(shared_data / "sprec", name).save(tmp_path / "data")
    dataset = Dataset.load(tmp_path / "data")
    splits = [len(dataset.splits[split]) for split in ("train", "valid", "test", "extra")]
    row = " | ".join(f"{count:,}" for count in (len(dataset.catalog), *splits, len(dataset.genres)))
    assert f"| {name} | {row} | `{dataset.hash[:16]}` |" in REFERENCE
    share = leakage(dataset.train, dataset.test)["share"]
    assert re.search(rf"{name}\s+{share:.1%}", REFERENCE)
    for warning in dataset.warnings:
        kind = re.sub(r"^(train|valid|test|extra)_|_(dropped|kept)$|_(unknown|junk).*$", "", warning)
        assert kind in REFERENCE
