"""The Dockerfile without a daemon: it copies what is there, its commands run, its health command tells the truth."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from toy_server import serving

ROOT = Path(__file__).parents[2]
TOKEN = "a-secret-of-some-length"


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument of each line; continued lines are joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def given(name: str) -> list[str]:
    return [argument for instruction, argument in instructions() if instruction == name]


def copied() -> list[Path]:
    return [ROOT / source for argument in given("COPY") for source in argument.split()[:-1]]


def health() -> list[str]:
    """The health command with this Python."""
    command: list[str] = json.loads(given("HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def test_it_copies_what_is_there_and_ends_as_somebody_without_rights() -> None:
    assert all(path.exists() for path in copied())
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {path.name for path in copied()} == set(let_in)
    order = [instruction for instruction, _ in instructions()]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name == "RUN")
    assert given("USER") == ["sprec"]


@pytest.mark.slow
def test_the_entry_point_serves_and_the_health_command_sees_it(shop: Path) -> None:
    """As in the container, but for the port and the place of the run."""
    entry, arguments = (json.loads(given(name)[0]) for name in ("ENTRYPOINT", "CMD"))
    assert [*entry, *arguments] == ["sprec", "serve", "--host", "0.0.0.0", "--port", "8000", "/srv/run"]
    with serving(shop / "run", "--host", "0.0.0.0", SPREC_TOKEN=TOKEN) as server:
        command = [part.replace(":8000/", f":{server.port}/") for part in health()]
        assert command != health()
        assert subprocess.run(command, check=False).returncode == 0
        server.stop()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_its_commands_fill_a_clean_environment(tmp_path: Path) -> None:
    """From the package index; where it has PyTorch without CUDA, the environment has 2.3 GB at most."""
    for path in copied():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    venv.create(tmp_path / "env", with_pip=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= dict(argument.split("=", 1) for argument in given("ARG"))
    clean["PATH"] = f"{tmp_path / 'env' / 'bin'}:{clean['PATH']}"
    commands = [command for command in given("RUN") if shlex.split(command)[0] == "pip"]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=clean, check=True)
    helped = subprocess.run(["sprec", "serve", "--help"], env=clean, capture_output=True, text=True, check=True)
    assert "--port" in helped.stdout
    loaded = [
        str(tmp_path / "env" / "bin" / "python"),
        "-c",
        "import sprec.serve.server, torch; print(torch.version.cuda)",
    ]
    cuda = subprocess.run(loaded, env=clean, capture_output=True, text=True, check=True).stdout.strip()
    size = sum(file.lstat().st_size for file in (tmp_path / "env").rglob("*") if file.is_file())
    assert cuda != "None" or size <= 2.3e9
