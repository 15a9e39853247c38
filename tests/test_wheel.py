"""The wheel holds all that a run needs, and nothing of a checkout."""

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TINY = (
    "backbone.hidden=32", "backbone.epochs=1", "sft.epochs=1", "sft.samples=64", "loop.samples=16", "loop.iterations=1",
    "cases=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what a release builds from: the files of the sdist, without a network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    ran(command, out)
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = (
        path for path in (ROOT / "src" / "sprec").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    assert inside == {path.relative_to(ROOT / "src").as_posix() for path in package}


def ran(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints, in an environment that does not point to a checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def demo_run(python: Path, folder: Path) -> None:
    """From the demo data to recommendations, by the package that this interpreter finds."""

    def call(*arguments: str) -> str:
        return ran([python, *arguments], folder)

    assert Path(call("-c", "import sprec; print(sprec.__file__)").strip()).is_relative_to(python.parents[1])
    call("-m", "sprec", "data", "demo", "-o", "data")
    tiny = [part for setting in TINY for part in ("--set", setting)]
    printed = call("-m", "sprec", "run", "demo", "--data", "data", "-o", "run", *tiny)
    assert "DivRatio@1" in printed
    assert len(call("-m", "sprec", "recommend", "run", "--history", "Alien (1979)", "-k", "3").splitlines()) >= 3


def test_a_demo_run_in_an_environment_that_has_only_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of this environment, shown to an empty one: they are not what is tested."""
    venv.create(tmp_path / "env", with_pip=False)
    target = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(target)
    others = next(path for path in sys.path if path.endswith("site-packages"))
    (target / "dependencies.pth").write_text(others + "\n")  # .pth files in there are not read: no editable install
    demo_run(tmp_path / "env" / "bin" / "python", tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_pip_installs_the_wheel_with_all_that_it_needs(wheel: Path, tmp_path: Path) -> None:
    """From the package index, into an environment that has nothing."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    ran([python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], tmp_path)
    demo_run(python, tmp_path)
