"""Lay the pages of the site out under ``build/pages``, and build it: ``make site``.

The pages keep their places in the repository, so a link works on both. What is generated besides: the reference of the
command line (by typer, from the program), a page of the Python API for each room, and the notebooks as pages.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sprec"
PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "research/*.md", "examples/*/*.md")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_NOTEBOOK = re.compile(r"(\]\([^)]*examples/\w+)\.py\)")
_WITHOUT_ROOM = ("prompts",)
"""Modules of the package that belong to no room."""


def modules() -> dict[str, list[str]]:
    """Room to its public modules, by their dotted names."""
    found: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if names[-1].startswith("_") or names[1:2] == ("cli",) or not _public(file):
            continue
        room = "sprec" if len(names) == 1 or names[1] in _WITHOUT_ROOM else names[1]
        found.setdefault(room, []).append(".".join(names))
    return found


def _public(file: Path) -> bool:
    """Whether a module defines a public name, or says what its package is for."""
    nodes = ast.parse(file.read_text("utf-8")).body
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return file.name == "__init__.py" or any(not name.startswith("_") for name in names)


def undocumented() -> list[str]:
    """Public functions, classes and methods without a docstring."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        for owner in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(owner, ast.Module | ast.ClassDef) or getattr(owner, "name", "").startswith("_"):
                continue
            for node in owner.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inherited = any(getattr(d, "id", "") in ("overload", "override") for d in node.decorator_list)
                    if not (node.name.startswith("_") or inherited or ast.get_docstring(node)):
                        found.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    return found


def lay_out(pages: Path) -> None:
    """Write everything that MkDocs reads into a new folder."""
    shutil.rmtree(pages, ignore_errors=True)
    for page in {path for pattern in PAGES for path in ROOT.glob(pattern)}:
        text = _NOTEBOOK.sub(r"\1.md)", page.read_text("utf-8"))
        _put(pages / page.relative_to(ROOT), text)
        for link in _LINK.findall(text):
            target = (page.parent / link).resolve()
            if "://" not in link and target.suffix != ".md" and target.is_file():
                copy = pages / target.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, copy)
    for notebook in (ROOT / "examples").glob("*.py"):
        _put(pages / "examples" / f"{notebook.stem}.md", _tool("jupytext", "--to", "md", "--output", "-", notebook))
    for picture in (ROOT / "examples").glob("*.svg"):
        shutil.copy(picture, pages / "examples")
    _put(pages / "reference" / "cli.md", _tool("typer", "sprec.cli", "utils", "docs", "--name", "sprec"))
    for room, names in modules().items():
        _put(pages / "reference" / f"{room}.md", f"# {room}\n\n" + "".join(map(_reference, names)))


def _reference(name: str) -> str:
    """What mkdocstrings shows of a module; of a room its purpose alone, its names follow with their modules."""
    room = name != "sprec" and (SOURCE.parent / name.replace(".", "/")).is_dir()
    return f"::: {name}\n" + ("    options: {members: false}\n\n" if room else "\n")


def configuration(pages: Path) -> Path:
    """The configuration of MkDocs with a line of the navigation for each room."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    rooms = "".join(f"\n{' ' * 10}- {room}: reference/{room}.md" for room in modules())
    file = pages.parent / "mkdocs.yml"
    text = text.replace("Python API: reference/", f"Python API:{rooms}")
    text = text.replace("docs_dir: build/pages", f"docs_dir: {pages}").replace("build/site", f"{pages.parent / 'site'}")
    text = text.replace("[docs/", f"[{ROOT}/docs/").replace("[src]", f"[{ROOT}/src]")
    file.write_text(text, "utf-8")
    return file


def main() -> None:
    """Build the site, or exit 1 with what is wrong: undocumented names, broken links, pages in no menu."""
    build = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    if missing := undocumented():
        raise SystemExit("without a docstring: " + ", ".join(missing))
    lay_out(build / "pages")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(configuration(build / "pages"))]
    raise SystemExit(subprocess.run(command, cwd=ROOT, check=False).returncode)


def _tool(name: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return done.stdout


def _put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
