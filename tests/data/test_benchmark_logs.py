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
