"""The tutorial goes the whole way on a real log: every command of it runs, in its order."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.harness import Server
from sprec.data import Dataset
from sprec.runs.lineage import lineage
from test_docs import TOY
from toy_server import serving

PAGE = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text("utf-8")
SERVE = "sprec serve films-run --port 8000\n"
QUICK = [part for change in TOY for part in ("--set", change)]


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stderr}"
    return done.stdout


def call(server: Server, line: str) -> str:
    """A line of a block; sprec in a process that has imported everything, and quick where it trains."""
    if not line.startswith("sprec "):
        return shell("bash", "-ec", line)
    words = shlex.split(line)[1:]
    known = [str(found) for word in words for found in (sorted(Path().glob(word)) if "*" in word else [word])]
    done = server.run(Path("call"), *known, *(QUICK if words[0] == "run" else ()))
    assert done.code == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_every_command_of_the_tutorial_runs(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ratings.csv", "movies.csv"):
        Path(name).symlink_to(shared_data.resolve() / "raw" / "ml-latest-small" / name)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
    server, printed = Server(), ""
    for number, (kind, text) in enumerate(blocks):
        if text == SERVE:
            with serving("films-run", "--protocol", "paper") as service:
                found = json.loads(shell("bash", "-ec", blocks[number + 1][1].replace("8000", str(service.port))))
            assert len(found["lists"][0]["items"]) == 5
        elif kind == "python":
            assert shell(sys.executable, "-c", text).count("\n") == 2
        elif "localhost:8000" not in text:
            printed += "".join(call(server, line) for line in re.sub(r"\\\n\s*", " ", text).splitlines())
    server.close()
    assert len(blocks) == 14
    before, after = (Dataset.load(name).catalog for name in ("films", "films-2"))
    assert before.lookup("Logan (2017)") is None
    assert after.lookup("Logan (2017)") is not None
    assert Dataset.load("films-run-2/dataset").catalog.titles[-1] == "Logan (2017)"
    assert "of the interactions are with items that the model does not know" in printed
    assert "made of    films-run: 2 items added" in printed
    assert len(Path("lists.csv").read_text().splitlines()) > 1000
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert [step["change"] for step in lineage(Path("films-run-3"))] == ["train"]
