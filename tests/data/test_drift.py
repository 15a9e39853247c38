"""What a new log has that the model was not trained on, by hand and by simulation."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sprec.data import Catalog, Dataset, Split
from sprec.data.about import Wording
from sprec.data.drift import drift, popularity_shift, table
from sprec.data.events import Events, collect
from toy_runs import Cli

DAY = 86_400_000
WORDS = Wording("", "", "")


def events(rows: list[tuple[str, str, int]]) -> Events:
    """(user, item, day since 1970)."""
    users, items, days = zip(*rows, strict=True)
    times = pl.Series([day * DAY * 1_000_000 for day in days], dtype=pl.Int64)
    return collect([pl.DataFrame({"user": users, "item": items, "time": times})])[0]


@pytest.fixture
def data() -> Dataset:
    """Trained on items 0, 0, 0, 1 until day 100."""
    catalog = Catalog(("A", "B", "C"), ((), (), ()), ("a", "b", "c"))
    train = Split.of([([1], 0), ([1], 0), ([2], 0), ([2], 1)])
    meta = {"time": {"first": 0, "last": 100 * DAY}, "log": {"interactions": 8}}
    return Dataset("shop", catalog, {"train": train}, (), WORDS, meta=meta)


def test_a_log_that_reaches_back(data: Dataset) -> None:
    """Of u and v, who were there before, and w, who was not; of the four new interactions one is with item x."""
    found = drift(
        data,
        events([("u", "a", 99), ("v", "x", 100), ("u", "a", 101), ("w", "b", 101), ("w", "b", 102), ("v", "x", 103)]),
    )
    assert found["since"] == "1970-04-11"
    assert (found["interactions"], found["users"], found["new_users"]) == (4, 3, 1)
    assert (found["unknown_items"], found["unknown"], found["growth"]) == (1, 0.25, 0.5)
    assert found["shift"] == pytest.approx(0.5 * (abs(3 / 4 - 1 / 3) + abs(1 / 4 - 2 / 3)))
    assert found["top"] == 2
    assert [why.split()[0] for why in found["reasons"]] == ["25%", "the"]
    text = table(found, "run")
    assert "4 since 1970-04-11, 50.0% of those before" in text
    assert "train again (sprec run RECIPE --from run):\n  25% of the interactions are with items" in text


def test_a_log_of_new_days_alone_or_without_times(data: Dataset) -> None:
    later = events([("u", "a", 101), ("w", "b", 102)])
    for own in (data, replace(data, meta={})):
        found = drift(own, later)
        assert (found["since"], found["interactions"], found["users"], found["new_users"]) == (None, 2, 2, None)
    assert "new users       unknown: the log does not reach back" in table(drift(data, later), "run")


def test_two_samples_of_one_popularity_are_no_shift_and_a_moved_one_is() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(50, 0.5))
    before = rng.multinomial(4000, shares)
    beyond = [popularity_shift(before, rng.multinomial(1000, shares)) for _ in range(40)]
    assert sum(shift > chance for shift, chance in beyond) <= 6, "2 of 40 expected"
    shift, chance = popularity_shift(before, rng.multinomial(1000, shares[::-1]))
    assert shift > 3 * chance
    assert popularity_shift(np.array([5, 0]), np.array([0, 3]))[0] == 1.0
    assert popularity_shift(np.array([5, 0]), np.array([0, 0])) == (0.0, 0.0)


def test_the_command_reads_the_log_as_that_of_the_run(cli: Cli, tmp_path: Path) -> None:
    start = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
    lines = [f"C{u},P{(u * 7 + s * 3) % 30},{start + u * 50 + s * 86_400}" for u in range(40) for s in range(14)]
    (tmp_path / "old.csv").write_text("customer,sku,at\n" + "\n".join(lines) + "\n")
    more = [f"D{u},Q{u},{start + 30 * 86_400 + u}" for u in range(10)]
    (tmp_path / "new.csv").write_text("customer,sku,at\n" + "\n".join([*lines, *more]) + "\n")
    columns = ("--columns", "user=customer,item=sku,time=at")
    cli("data", "import", "table", tmp_path / "old.csv", *columns, "-o", tmp_path / "data")
    settings = ("--set", "method=popularity", "--set", "cases=20")
    cli("run", "demo", "--data", tmp_path / "data", "-o", tmp_path / "run", *settings)
    same = cli("data", "stats", tmp_path / "old.csv", "--against", tmp_path / "run").stdout
    assert same.endswith("\n\nno reason to train again\n")
    found = json.loads(cli("data", "stats", tmp_path / "new.csv", "--against", tmp_path / "run", "--json").stdout)
    assert (found["interactions"], found["new_users"], found["unknown_items"]) == (10, 10, 10)
    assert found["unknown"] == 1.0
    assert "is not a run" in cli("data", "stats", tmp_path / "new.csv", "--against", tmp_path, code=2).stderr
