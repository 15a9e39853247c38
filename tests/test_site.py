"""The documentation site builds without a warning, but not with a broken link or an undocumented name."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = runpy.run_path(str(ROOT / "docs" / "site.py"))


def built(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    done = built(ROOT / "docs" / "site.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = tmp_path / "site"
    assert "sprec data import" in (pages / "reference" / "cli.html").read_text("utf-8")
    assert "sprec.methods.objectives.dpo" in (pages / "reference" / "methods.html").read_text("utf-8")
    theory = (pages / "docs" / "theory.html").read_text("utf-8")
    assert "<math" in theory
    assert "arithmatex" not in theory
    found = [page for page in pages.rglob("*.html") if "fonts.googleapis.com" in page.read_text("utf-8")]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[here](nowhere.md)", "nowhere.md"),
        ("[here](README.md#nowhere)", "#nowhere"),
        ("![a picture](nowhere.svg)", "nowhere.svg"),
        ("::: sprec.nowhere", "sprec.nowhere"),
    ],
)
def test_a_broken_link_fails(tmp_path: Path, text: str, complaint: str) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "README.md").write_text(f"# Home\n\n{text}\n")
    file = SITE["configuration"](pages)
    settings = yaml.safe_load(file.read_text("utf-8")) | {"nav": [{"Home": "README.md"}]}
    file.write_text(yaml.safe_dump(settings))
    done = built("-m", "mkdocs", "build", "--strict", "-f", file)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_public_names_are_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SITE["undocumented"]() == []
    (tmp_path / "module.py").write_text(
        'class Shown:\n    """Shown."""\n\n    def silent(self) -> None: ...\n    def _own(self) -> None: ...\n'
    )
    monkeypatch.setitem(SITE["undocumented"].__globals__, "SOURCE", tmp_path)
    monkeypatch.setitem(SITE["undocumented"].__globals__, "ROOT", tmp_path)
    assert SITE["undocumented"]() == ["module.py:4 silent"]


def test_every_public_module_is_in_the_reference() -> None:
    names = [name for rooms in SITE["modules"]().values() for name in rooms]
    assert len(names) == len(set(names))
    assert {"sprec", "sprec.config", "sprec.engine.decode.trie", "sprec.evaluation.metrics"} <= set(names)
    assert not [name for name in names if ".cli" in name or "__main__" in name]
