"""The documentation is up to date, and the README's commands run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sprec.data import Dataset
from sprec.data.demo import demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_generated_blocks_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("sprec ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("line", commands(README), ids=" ".join)
def test_commands_of_the_readme_parse(line: list[str]) -> None:
    """Every command and option exists; the ones that take long are run at toy size in tests/runs."""
    import typer
    from typer.testing import CliRunner

    from sprec.cli import app

    names = [part for part in line if not part.startswith("-")]
    depth = 2 if names[0] in ("data", "recipes") else 1
    shown = CliRunner().invoke(app, [*names[:depth], "--help"], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert shown.exit_code == 0
    assert isinstance(app, typer.Typer)
    for option in (part for part in line if part.startswith("-")):
        assert option in shown.stdout, f"{option} of {' '.join(line)}"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    demo(0, train=60, valid=10, test=20, extra=0, history=4).save("demo/data")
    toy = (
        'resolve("demo", ["backbone.hidden=32", "backbone.layers=1", "backbone.epochs=1", "loop.iterations=1", '
        '"loop.samples=16", "sft.epochs=1", "cases=20"])'
    )
    assert 'resolve("demo")' in code[1]
    subprocess.run([sys.executable, "-c", code[1].replace('resolve("demo")', toy)], check=True, cwd=tmp_path)
    assert Dataset.load(tmp_path / "demo/run/dataset").name == demo(0, train=60).name


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make ([\w-]+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)
