"""``sprec backbone`` on the command line, and runs that start from what it brings."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sprec.cli import app
from sprec.runs import load_results
from toy_gguf import write_gguf
from toy_runs import Cli

TINY = ("--set", "method=bigrec", "--set", "sft.samples=8", "--set", "sft.epochs=1", "--set", "sft.valid=4",
        "--set", "recommend.max_new_tokens=4", "--set", "cases=5",
        "--set", "baselines=[]")  # fmt: skip


@pytest.fixture
def gguf(checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPREC_HOME", str(tmp_path / "home"))
    return write_gguf(checkpoint("llama"), tmp_path / "toy.gguf")


def test_an_imported_file_is_a_backbone(cli: Cli, gguf: Path, toy_data: Path, tmp_path: Path) -> None:
    model = tmp_path / "home/backbones/toy"
    assert cli("backbone", "import", gguf, "-o", model).stdout.split() == [str(model)]
    listed = CliRunner().invoke(app, ["backbone", "ls"]).stdout.splitlines()  # here, where SPREC_HOME is set
    assert listed[0].startswith("smollm2-135m")
    assert listed[0].endswith("not here: sprec backbone fetch smollm2-135m")
    assert listed[1].split() == ["toy", "from", "toy.gguf;", str(model)]
    run = ("run", "llama-3.2-1b", "--data", toy_data, "-o", tmp_path / "run", *TINY)
    cli(*run, "--set", f"backbone.path={model}")
    assert [result.stage for result in load_results(tmp_path / "run")] == ["sft"]


def test_a_gguf_file_itself_is_refused_before_anything_is_written(
    cli: Cli, gguf: Path, toy_data: Path, tmp_path: Path
) -> None:
    run = ("run", "llama-3.2-1b", "--data", toy_data, "-o", tmp_path / "run", "--set", f"backbone.path={gguf}")
    told = cli(*run, code=2).stderr.splitlines()
    assert told == [f"sprec: {gguf} is a GGUF file: sprec backbone import {gguf} -o FOLDER, then backbone.path=FOLDER"]
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_line(cli: Cli, gguf: Path, tmp_path: Path) -> None:
    assert 'no backbone "gpt-5" is known' in cli("backbone", "fetch", "gpt-5", code=2).stderr
    missing = cli("backbone", "import", tmp_path / "no.gguf", "-o", tmp_path / "model", code=2)
    assert missing.stderr.splitlines() == [f"sprec: {tmp_path / 'no.gguf'} does not exist or is a folder"]
    (tmp_path / "text.gguf").write_text("no model")
    done = cli("backbone", "import", tmp_path / "text.gguf", "-o", tmp_path / "model", code=2)
    assert done.stderr.splitlines() == [f"sprec: {tmp_path / 'text.gguf'} is not a GGUF file"]
