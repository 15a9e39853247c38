import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sprec.cli.data import app
from sprec.data import Dataset
from sprec.errors import UserError

run = CliRunner()


def test_import_stats_and_json(layout: Callable[..., Path], tmp_path: Path) -> None:
    rows = [(["Dune"], "Emma"), (["Emma"], "Dune")]
    source = layout({"Dune": ["sci-fi"], "Emma": ["romance"]}, train=rows, test=rows)
    output = tmp_path / "books"
    command = ["import", "sprec", str(source), "-o", str(output), "--genre", "romance", "--genre", "sci-fi"]
    assert run.invoke(app, command, catch_exceptions=False).exit_code == 0
    assert Dataset.load(output).genres == ("romance", "sci-fi")
    printed = run.invoke(app, ["stats", str(output)], catch_exceptions=False)
    assert printed.stdout.startswith("Books\n")
    facts = json.loads(run.invoke(app, ["stats", str(output), "--json"], catch_exceptions=False).stdout)
    assert facts["table1"] == {"items": 2, "interactions": 8, "sequences": 4}


def test_demo_is_written_and_not_overwritten_unasked(tmp_path: Path) -> None:
    output = str(tmp_path / "demo")
    assert run.invoke(app, ["demo", "-o", output, "--seed", "3"], catch_exceptions=False).exit_code == 0
    with pytest.raises(UserError, match="demo already exists"):
        run.invoke(app, ["demo", "-o", output], catch_exceptions=False)
    run.invoke(app, ["demo", "-o", output, "--overwrite"], catch_exceptions=False)
    assert Dataset.load(output).meta["source"] == {"format": "demo", "seed": 0}


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unknown format "csv"; formats: '):
        run.invoke(app, ["import", "csv", str(tmp_path), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_looking_at_data_never_imports_torch(tmp_path: Path) -> None:
    run.invoke(app, ["demo", "-o", str(tmp_path / "demo")], catch_exceptions=False)
    code = (
        "import sys; from sprec.cli.data import app; assert 'polars' not in sys.modules;"
        f"app(['stats', {str(tmp_path / 'demo')!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "365" in done.stdout
