"""The service under load: what the record says adds up."""

import json
from pathlib import Path

import pytest

from sprec.serve.load import Load, Way, latencies, measure
from sprec.system.errors import UserError
from toy_runs import Cli


def test_percentiles_are_in_milliseconds() -> None:
    found = latencies([number / 1000 for number in range(101)])
    assert found == pytest.approx({"p50": 50, "p95": 95, "p99": 99})


def test_a_record_of_two_ways(cli: Cli, shop: Path, tmp_path: Path) -> None:
    done = cli("bench", "serve", shop / "run", "--protocol", "knn", "--protocol", "popularity", "--clients", "1,3",
               "--seconds", 0.5, "--repeats", 1, "--histories", 40, "--soak", 0.05, "--rate", 50, "-o",
               tmp_path / "load.json")  # fmt: skip
    found = json.loads((tmp_path / "load.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == found
    assert [(row["run"], row["protocol"], row["tilted"]) for row in found["protocols"]][:1] == [("run", "knn", False)]
    for row in found["protocols"]:
        assert row["batch_per_second"] > 0
        assert [one["clients"] for one in row["service"]] == [1, 3]
        for one in row["service"]:
            assert 0 < one["p50"] <= one["p95"] <= one["p99"]
            assert one["of_batch"] == pytest.approx(one["per_second"] / row["batch_per_second"])
            assert one["per_second"] * one["p50"] / 1000 < 2 * one["clients"]  # no client asks twice at a time
    soak = found["soak"]
    assert soak["requests"] > 10
    assert all(100 < size < 5000 for _, size in soak["memory"])
    assert soak["growth_after_first_minute"] == 0  # it took seconds


def test_a_request_names_the_way() -> None:
    assert Way("run", "knn", True).body(["a"], 3) == {
        "histories": [["a"]], "k": 3, "run": "run", "protocol": "knn", "tilt": True,
    }  # fmt: skip


def test_protocols_that_no_run_offers(shop: Path) -> None:
    with pytest.raises(UserError, match="none of the runs offers paper"):
        measure([shop / "run"], ["paper"], Load())
