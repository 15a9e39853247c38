"""What is kept of a run: enough for its metrics, found again only for the same recipe and data."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sprec.data import Dataset
from sprec.evaluation import accumulate, bootstrap
from sprec.runs import Result, load_results
from sprec.runs.recipes import resolve
from sprec.study.rates import Try, chosen
from sprec.study.records import Record, at, find, key_of, of_run, pack, stored
from sprec.system.errors import UserError
from sprec.system.storage import digest, hash_of


def test_a_record_has_the_metrics_of_its_run(toy_run: Path, toy_dataset: Dataset, tmp_path: Path) -> None:
    of_run(toy_run, "k", 1.5, "fp32").write(tmp_path / "one.json")
    kept = find(tmp_path / "one.json", "k")
    assert kept is not None
    assert kept.lists.shape == (20, 5)
    assert list(kept.results) == load_results(toy_run)
    assert (kept.seconds, kept.precision) == (1.5, "fp32")
    made = toy_run / "stages/00-backbone"
    weights = {f"model/{file.name}": hash_of(file) for file in (made / "model").iterdir()}
    assert "model/model.safetensors" in weights
    assert kept.backbone == digest(weights)[:16]
    measured = bootstrap([kept.cases(toy_dataset)], resamples=10).per_seed
    last = load_results(toy_run)[-1].metrics
    for name in ("HR@5", "NDCG@5", "DivRatio@1", "ORRatio@5", "MGU@1"):
        assert measured[name][0] == pytest.approx(last[name]), name


def test_a_record_counts_for_the_same_recipe_and_data_only(toy_dataset: Dataset, tmp_path: Path) -> None:
    recipe = resolve("demo", ["seed=1"])
    key = key_of(recipe, toy_dataset)
    alike = ["seed=1", "track=[tensorboard]", "checkpoint_steps=3", "tokens_per_batch=512"]
    assert key == key_of(resolve("demo", alike), toy_dataset)
    assert key != key_of(resolve("demo", ["seed=2"]), toy_dataset)
    assert key != key_of(resolve("demo", ["seed=1", "prefer.lr=1e-5", "prefer.beta=0.2"]), toy_dataset)
    Record(key, np.array([[3, 1]]), [], 0.0, "fp32").write(tmp_path / "r.json")
    assert find(tmp_path / "r.json", key) is not None
    assert find(tmp_path / "r.json", "other") is None
    assert find(tmp_path / "none.json", key) is None
    (tmp_path / "r.json").write_text("{")
    assert find(tmp_path / "r.json", key) is None
    with pytest.raises(UserError, match=r"r\.json is not the record of a run; remove it to run this one again"):
        Record.read(tmp_path / "r.json")


def test_a_record_says_how_many_lists_are_proven(toy_run: Path, tmp_path: Path) -> None:
    """As a file and packed; records of earlier versions, packed too, do not say, and keep their digests."""
    folder = tmp_path / "records"
    silent = Record("k", np.array([[3, 1], [2, 0]]), [], 0.0, "fp32")
    assert of_run(toy_run, "k", 1.0, "fp32").proven is None  # the paper's protocol searches nothing
    assert silent.digest == digest(["k", "", "fp32", 0.0, [], [[3, 1], [2, 0]]])
    halved = replace(silent, proven=0.5)
    assert halved.digest != silent.digest
    halved.write(folder / "A/b/exact/seed0.json")
    silent.write(folder / "A/b/exact/seed1.json")
    assert [record.proven for record in stored(folder).values()] == [0.5, None]
    pack(folder)
    assert [record.proven for record in stored(folder).values()] == [0.5, None]
    old = pl.read_parquet(folder / "A.parquet").filter(pl.col("place") == "b/exact/seed1").drop("proven")
    old.write_parquet(folder / "A.parquet")
    assert [(record.key, record.proven) for record in stored(folder).values()] == [("k", None)]


def test_packed_records_are_found_like_files(tmp_path: Path) -> None:
    """One Parquet file for each dataset; a file of JSON goes before it, and both are packed together again."""
    folder = tmp_path / "records"
    results = [Result("sft", 0, "bigrec", {"HR@5": 0.25, "NDCG@5": 1 / 3})]
    first = Record("k0", np.array([[3, 1], [2, -1]]), results, 12.34, "bf16", "b" * 16)
    places = ["A.b/bigrec-sft.lr=0.1/paper/seed0", "A.b/bigrec-sft.lr=0.1/paper/seed1", "C/sprec/exact/seed0"]
    for number, place in enumerate(places):
        replace(first, key=f"k{number}").write(folder / f"{place}.json")
    assert [file.name for file in pack(folder)] == ["A.b.parquet", "C.parquet"]
    assert sorted(folder.rglob("*")) == [folder / "A.b.parquet", folder / "C.parquet"]
    kept = find(folder / f"{places[1]}.json", "k1")
    assert kept is not None
    assert kept.lists.tolist() == first.lists.tolist()
    assert list(kept.results) == results
    assert (kept.seconds, kept.precision, kept.backbone) == (12.3, "bf16", "b" * 16)
    assert find(folder / f"{places[1]}.json", "k0") is None
    assert [at(folder / f"{place}.json") is not None for place in (*places, "C/sprec/exact/seed1", "D/x/y/seed0")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    replace(first, key="new").write(folder / f"{places[2]}.json")
    assert {place: record.key for place, record in stored(folder).items()} == dict(
        zip(places, ["k0", "k1", "new"], strict=True)
    )
    pack(folder)
    assert find(folder / f"{places[2]}.json", "new") is not None
    (folder / "C.parquet").write_bytes(b"PAR1")
    assert find(folder / f"{places[2]}.json", "new") is None
    with pytest.raises(UserError, match=r"C\.parquet does not hold records of runs"):
        stored(folder)


def test_a_packed_record_that_was_edited_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    Record("k", np.array([[3, 1], [2, -1]]), [Result("sft", 0, "bigrec", {"HR@5": 0.25})], 1.0, "bf16").write(
        folder / "A/x/paper/seed0.json"
    )
    (file,) = pack(folder)
    whole = pl.read_parquet(file)
    edits = [
        pl.Series("lists", [[[3, 1], [2, 3]]], dtype=pl.List(pl.List(pl.Int32))),
        pl.Series("results", [whole["results"][0].replace("0.25", "0.75")]),
    ]
    for edit in edits:
        whole.with_columns(edit).write_parquet(file)
        with pytest.raises(UserError, match=r"A\.parquet: the record of x/paper/seed0 is damaged or was edited"):
            stored(folder)
    whole.drop("digest").write_parquet(file)
    with pytest.raises(UserError, match="does not hold records of runs"):
        stored(folder)
    assert stored(folder, unsigned=True)["A/x/paper/seed0"].lists.tolist() == [[3, 1], [2, -1]]


def test_packing_leaves_what_is_no_record(tmp_path: Path) -> None:
    Record("k", np.array([[1]]), [], 0.0, "fp32").write(tmp_path / "records" / "A/x/paper/seed0.json")
    (tmp_path / "records" / "A/notes.txt").write_text("mine")
    pack(tmp_path / "records")
    assert (tmp_path / "records" / "A/notes.txt").read_text() == "mine"
    (tmp_path / "records" / "A/other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json is not the record of a run"):
        pack(tmp_path / "records")


def _tried(hits: int, exact: float, first: int = 0) -> Try:
    """A rate with ``hits`` of 100 cases in first place, from the case ``first`` on."""
    hit = (np.arange(100) >= first) & (np.arange(100) < first + hits)
    lists = np.stack([np.where(hit, 0, 1), *(np.full(100, item) for item in range(2, 6))], axis=1)
    cases = accumulate(lists, np.zeros(100), [6] * 100, range(101), np.ones((7, 1)))
    return Try(bootstrap([cases], resamples=200), exact)


def test_the_best_rate_keeps_the_titles() -> None:
    tried = {1e-6: _tried(2, 0.99), 2e-6: _tried(3, 0.95), 4e-6: _tried(3, 0.95), 1e-5: _tried(9, 0.5)}
    assert chosen(tried) == 2e-6, "the best of those that write titles, the lower one of two"
    assert chosen({1e-5: tried[1e-5], 1e-4: _tried(0, 0.1)}) == 1e-5
    assert chosen({1.0: _tried(1, math.nan)}) == 1.0, "SASRec writes no titles"


def test_the_recipe_s_rate_stays_unless_another_is_really_better() -> None:
    tried = {1.0: _tried(10, 1.0), 2.0: _tried(12, 1.0, first=6), 4.0: _tried(30, 1.0)}
    assert chosen(tried) == 4.0
    assert chosen(tried, 1.0) == 4.0, "20 hits more on the same cases"
    del tried[4.0]
    assert chosen(tried, 1.0) == 1.0, "6 hits lost and 8 found may be luck"
    assert chosen(tried, 8.0) == 2.0, "a rate that was not tried has no claim"
    assert chosen({**tried, 1.0: _tried(40, 0.5)}, 1.0) == 2.0, "nor has one that destroys the model"
