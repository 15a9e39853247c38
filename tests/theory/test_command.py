"""``sprec theory`` end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sprec.cli.theory import theory
from sprec.evaluation import Table
from sprec.system.errors import UserError
from sprec.theory.findings import CHECKS, Finding

app = typer.Typer()
app.command()(theory)


def test_json_and_figure(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--json", "--out", str(tmp_path / "new")], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert len(found) == len(CHECKS) == 7
    assert all(finding["holds"] and finding["deviation"] <= finding["tolerance"] for finding in found)
    few_steps = found[4]
    assert list(few_steps["also"]) == [
        "with uniform negatives it ends on one item",
        "with greedy negatives it spreads over more items than p and stays further from p than it began",
    ]
    assert all(few_steps["also"].values())
    amplification = found[1]["rows"][3]
    assert amplification[""] == "beta 0.5"
    assert round(amplification["metrics"]["effective items"]["value"], 2) == 1.95
    assert json.loads((tmp_path / "new" / "theory.json").read_text()) == found
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["figure2.png", "figure2.svg", "theory.json"]


def test_tables_for_people() -> None:
    result = CliRunner().invoke(app, [], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.count("✓") == 7 + 2
    assert "0.561404" in result.stdout
    assert "largest deviation" in result.stdout


def test_a_finding_holds_only_with_all_its_claims() -> None:
    table = Table("", ("",), (), ())
    assert Finding(table, "", 0.1, 0.2, {"a": True}).holds
    assert not Finding(table, "", 0.1, 0.2, {"a": True, "b": False}).holds
    assert not Finding(table, "", 0.3, 0.2, {"a": True}).holds


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write figures to"):
        CliRunner().invoke(app, ["--out", str(tmp_path / "taken")], catch_exceptions=False)


def test_missing_matplotlib_is_one_line() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport sprec.evaluation.plots"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].endswith("drawing figures needs matplotlib: pip install 'sprec[report]'")
