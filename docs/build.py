"""Fill the generated blocks of the documentation from the files under ``results/``: ``make docs``.

A block stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``. ``python docs/build.py --check`` fails when one is
stale; a test runs it.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md")
_METRICS = ("DivRatio@1", "DivRatio@5", "ORRatio@1", "ORRatio@5", "MGU@1", "MGU@5", "HR@5", "NDCG@5")
_BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def before_and_after(folder: Path) -> str:
    """The model before self-play and after it: means over seeds, paired difference with its 95% interval."""
    compared = json.loads((folder / "compare.json").read_text("utf-8"))
    values = {row["method"]: row["metrics"] for row in compared["metrics"]["rows"]}
    found: dict[str, Mapping[str, Any]] = {}
    for row in compared["differences"]["rows"]:
        if row["method"] == "sprec":
            found[row["metric"].split()[0]] = row["metrics"]
    lines = ["| metric | BIGRec | SPRec | change | difference, 95% interval |", "|---|---:|---:|---:|---:|"]
    for metric in _METRICS:
        change = found[metric]
        difference = change["difference"]
        real = "**" if difference["mark"] else ""
        lines.append(
            f"| {metric} | {values['bigrec'][metric]['value']:.4f} | {values['sprec'][metric]['value']:.4f} "
            f"| {change['relative']['value']:+.1%} "
            f"| {real}{difference['value']:+.4f}{real} [{difference['low']:+.4f}, {difference['high']:+.4f}] |"
        )
    return "\n".join([*lines, "", "Bold: the interval excludes zero.", ""])


def markdown_file(file: Path) -> Callable[[], str]:
    """A table that a command wrote as Markdown."""
    return lambda: file.read_text("utf-8")


def blocks() -> dict[str, Callable[[], str]]:
    """Name of each block to what fills it."""
    results = ROOT / "results"
    found: dict[str, Callable[[], str]] = {"goodreads-scratch": lambda: before_and_after(results / "goodreads-scratch")}
    for file in sorted(results.glob("*/*.md")):
        found[f"{file.parent.name}-{file.stem}"] = markdown_file(file)
    return found


def filled(page: Path) -> str:
    """The text of a page with its blocks up to date."""
    known = blocks()
    return _BLOCK.sub(lambda match: match[1] + known[match[2]]() + match[3], page.read_text("utf-8"))


def main() -> None:
    """Write the pages, or with ``--check`` exit 1 when one is stale."""
    stale = [
        name for name in PAGES if (ROOT / name).is_file() and filled(ROOT / name) != (ROOT / name).read_text("utf-8")
    ]
    if "--check" in sys.argv[1:]:
        raise SystemExit(f"stale, run make docs: {', '.join(stale)}" if stale else 0)
    for name in stale:
        (ROOT / name).write_text(filled(ROOT / name), "utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
