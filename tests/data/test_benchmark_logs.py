import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "logs.py"


@pytest.mark.parametrize(("log", "rows"), [("ml-10m", 300_000), ("amazon", 6_000), ("parquet-100m", 30_000)])
def test_generated_logs_have_the_size_asked_for_and_are_imported(tmp_path: Path, log: str, rows: int) -> None:
    command = [sys.executable, str(SCRIPT), log, "--rows", str(rows), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == result["interactions"] == rows
    shortest = 1 if log == "amazon" else 10  # the history that a window needs
    assert result["sequences"] == rows - shortest * result["users"]
    assert 0 < result["peak_gib"] < 1


def test_logs_take_turns_and_medians_are_told(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "amazon", "parquet-100m", "--rows", "3000", "--rounds", "3"]
    done = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line.startswith(("amazon: ", "parquet-100m: "))]
    assert [line.partition(":")[0] for line in told] == ["amazon", "parquet-100m"] * 3
    for result in map(json.loads, done.stdout.splitlines()):
        taken = sorted(
            ast.literal_eval(line.partition(": ")[2])["seconds"] for line in told if line.startswith(result["log"])
        )
        assert (result["seconds"], result["rounds"]) == (taken[1], 3)
        assert result["cpu_seconds"] > 0
