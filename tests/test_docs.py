"""The documentation is up to date, and the README's commands run."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from sprec.cli import app
from sprec.data import Dataset
from sprec.data.demo import demo
from sprec.runs import load_results
from sprec.study.records import Record, stored

ROOT = Path(__file__).parents[1]
BUILD = runpy.run_path(str(ROOT / "docs" / "build.py"))
README = (ROOT / "README.md").read_text("utf-8")


def test_generated_blocks_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_runs_on_record_descend_from_one_backbone_per_dataset() -> None:
    """Else the rows of a table would differ by more than their methods."""
    backbones: dict[str, set[str]] = {}
    for folder in ("scratch", "variants"):
        for place, record in stored(ROOT / "results" / folder / "records").items():
            dataset, method, _, _ = place.split("/")
            if not method.startswith(("sasrec", "knn", "popularity", "random")):
                backbones.setdefault(f"{folder} {dataset}", set()).add(record.backbone)
    assert {place: len(found) for place, found in backbones.items()} == dict.fromkeys(
        [f"scratch {dataset}" for dataset in ("CDs_and_Vinyl", "Goodreads", "MovieLens", "Steam")]
        + [f"variants {dataset}" for dataset in ("CDs_and_Vinyl", "Goodreads")], 1
    )  # fmt: skip


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def help_texts(command: Any, name: str = "sprec") -> Iterator[tuple[str, str]]:
    """Command and text of every help, those of its options and of its commands too."""
    yield name, command.help or ""
    yield from ((name, getattr(parameter, "help", None) or "") for parameter in command.params)
    for word, inner in getattr(command, "commands", {}).items():
        yield from help_texts(inner, f"{name} {word}")


def test_help_texts_are_shown_whole() -> None:
    """What stands in square brackets may be markup to the terminal, and is gone."""
    texts = list(help_texts(get_command(app)))
    assert len(texts) > 100
    assert [(name, text) for name, text in texts if Text.from_markup(text).plain != text] == []


def test_files_that_pages_name_exist() -> None:
    """Those in backticks too, which are no links; a page may name what a command will write under ``results/``."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    named = re.compile(r"`((?:tests|src|docs|benchmarks|examples|research)/[\w./-]+\.\w+)`")
    found = {(page.name, name) for page in pages for name in named.findall(page.read_text("utf-8"))}
    assert len(found) > 10
    assert [(page, name) for page, name in sorted(found) if not (ROOT / name).is_file()] == []


def commands() -> list[list[str]]:
    """Those of the README, in blocks and in the text unless they hold a placeholder, then those of other pages."""
    inline = [line for line in re.findall(r"`(sprec [^`]+)`", README) if not re.search(r"\b[A-Z]{3,}\b", line)]
    pages = [README, *((ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("models", "results", "paper"))]
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("sprec ")]
    return [shlex.split(line)[1:] for line in dict.fromkeys([*lines, *inline])]


PEOPLE = "examples/movielens-small"
TOY = (
    "backbone.hidden=32", "backbone.layers=1", "backbone.heads=2", "backbone.vocabulary=400", "backbone.epochs=1",
    "sft.epochs=1", "sft.samples=64", "loop.iterations=1", "loop.samples=16", "cases=20",
)  # fmt: skip


def shop(folder: Path) -> None:
    """The files that the README's reader brings: clicks of 40 users on 30 items."""
    titles = ["First title", "Second title", *(f"Title {i}" for i in range(28))]
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(titles)))
    clicks = [
        (user, (user * 7 + step * 3) % 30, 1_700_000_000 + user * 50 + step) for user in range(40) for step in range(14)
    ]
    (folder / "clicks.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in clicks))


@pytest.mark.timeout(900)
def test_the_commands_of_the_documents_run(shared_data: Path, tmp_path: Path) -> None:
    """All that need no network, in their order, with settings that make them fast."""
    shop(tmp_path)
    lines = [line for line in commands() if line[:2] != ["data", "fetch"]]
    assert {
        ("data", "demo"),
        ("data", "import"),
        ("run", "demo"),
        ("run", "knn-tilted"),
        ("recommend", "demo/knn"),
        ("reproduce", "table2"),
    } <= {tuple(line[:2]) for line in lines}
    assert len(lines) > 12
    for line in lines:
        places = {"authors": shared_data / "sprec", PEOPLE: ROOT / PEOPLE}
        ready = [str(places.get(part, part)) for part in line]
        if line[0] == "run" and "--dry-run" not in line:
            toy = [change for change in TOY if line[1] != "knn-tilted" or not change.startswith("backbone")]
            ready += [part for change in toy for part in ("--set", change)]
        done = subprocess.run(
            [sys.executable, "-m", "sprec", *ready], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"sprec {shlex.join(line)}\n{done.stderr}"


def test_the_readme_shows_what_its_first_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        shlex.split(line)[1:] for line in re.findall(r"^sprec .*(?:demo/people|demo/knn).*$", README, re.MULTILINE)
    ]
    assert [line[0] for line in lines] == ["data", "run", "recommend"]
    for line in lines:
        done = CliRunner().invoke(app, [str(ROOT / PEOPLE) if part == PEOPLE else part for part in line])
        assert done.exit_code == 0, done.output
    block = re.search(r"```text\nmethod(.*?)\n(.*?)```", README, re.DOTALL)
    assert block
    titles = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    shown = {"popularity": 0, "knn": 1, "knn: knn 0": 2}
    names = re.findall(r"\S+@\d", block[1])
    results = load_results("demo/knn")
    for row in block[2].splitlines()[:3]:
        label, *values = re.split(r"\s{2,}", row.strip())
        found = results[shown[label]].metrics
        assert [float(value) for value in values] == pytest.approx([found[name] for name in names], abs=0.0011)
    assert [row.strip() for row in block[2].splitlines()[4:]] == titles[-5:]


def test_the_people_of_the_demo_are_those_of_the_published_data(shared_data: Path) -> None:
    folder = ROOT / PEOPLE
    reduced = runpy.run_path(str(folder / "reduce.py"))["reduced"]
    whole = [pl.read_csv(shared_data / "raw" / "ml-latest-small" / f"{name}.csv") for name in ("ratings", "movies")]
    for name, made in zip(("ratings", "movies"), reduced(*whole), strict=True):
        assert made.equals(pl.read_csv(folder / f"{name}.csv"))
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 1_000_000


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


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)$", README, re.MULTILINE)) <= targets
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values()
        named = {
            word for job in jobs for step in job["steps"] for word in re.findall(r"make (\w+)", step.get("run", ""))
        }
        assert named, workflow
        assert named <= targets, workflow
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (cited["title"], cited["version"], cited["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_times_add_up_what_the_runs_of_the_tables_took(tmp_path: Path) -> None:
    for place, seconds, precision in [
        ("Steam/bigrec/paper/seed0", 90.0, "bf16"), ("Steam/bigrec/exact/seed0", 30.0, "fp32"),
        ("Steam/bigrec/paper/seed1", 600.0, "bf16"), ("Steam/bigrec-sft.lr=1/paper/seed0", 5000.0, "bf16"),
        ("Steam/sprec-0.5-greedy-stages/paper/seed0", 5000.0, "bf16"),
    ]:  # fmt: skip
        Record("key", np.array([[1]]), [], seconds, precision).write(tmp_path / f"{place}.json")
    rows = BUILD["times"](tmp_path).splitlines()[2:]
    assert rows == ["| Steam | 0 | 2 | 2 | bf16 and fp32 |", "| Steam | 1 | 1 | 10 | bf16 |"]


def test_real_differences_are_counted_once_and_by_benjamini_and_hochberg(tmp_path: Path) -> None:
    """p = .001, .015, .02, .05, .9 against .01, .02, .03, .04, .05: three keep; the first one stands in both files."""

    def row(measure: str, p: float | None) -> dict[str, object]:
        real = p is not None and p <= 0.05
        key = {"dataset": "D", "source": "ours", "method": "A", "reference": "B", "measure": measure}
        return key | {"metrics": {"p": {"value": p}, "difference": {"mark": "better" if real else ""}}}

    first, second = tmp_path / "one.json", tmp_path / "two.json"
    first.write_text(json.dumps({"rows": [row("HR@1", 0.001), row("HR@5", 0.02), row("MGU@1", None)]}))
    second.write_text(json.dumps({"rows": [row("HR@1", 0.001), *(row(f"k{p}", p) for p in (0.015, 0.05, 0.9))]}))
    text = BUILD["real_differences"](first, second)
    assert text.startswith(
        "4 of the 5 differences in Tables 2 and 3 are significant; chance alone would make about 0 so. 3 keep "
    )
    assert "1 have a p between .04 and .06" in text


def test_the_service_is_a_row_per_protocol_and_clients(tmp_path: Path) -> None:
    row = {"clients": 8, "p50": 12.34, "p95": 20.0, "p99": 1234.5, "per_second": 512.3, "of_batch": 0.614}
    record = {
        "machine": {"cpus": 2, "load": 3.25},
        "settings": {"k": 10, "repeats": 3, "seconds": 5.0},
        "data": {"Shop": 1200},
        "date": "2025-01-02",
        "protocols": [{"protocol": "knn", "tilted": True, "service": [row]}],
        "soak": {"minutes": 10, "requests": 5000, "growth_after_first_minute": 1.25},
    }
    (tmp_path / "serve.json").write_text(json.dumps(record))
    lines = BUILD["service"](tmp_path / "serve.json").splitlines()
    assert lines[2] == "| knn, tilted | 8 | 12.3 | 20 | 1,234 | 512 | 61% |"
    assert "Shop, 1,200 items; k = 10" in lines[4]
    assert "(5,000 requests) the memory grew by 1.2 MiB" in lines[4]


def test_a_block_of_one_dataset_has_its_rows_alone(tmp_path: Path) -> None:
    rows = [
        {
            "dataset": name,
            "method": method,
            "metrics": {"HR@5": {"value": value, "low": None, "high": None, "mark": mark}},
        }
        for name, method, value, mark in [
            ("Steam", "RW", 0.5, "best"),
            ("MovieLens", "RW", 1, ""),
            ("Steam", "D3", None, ""),
        ]
    ]
    file = tmp_path / "table2-changes.json"
    file.write_text(json.dumps({"title": "All", "rows": rows}))
    assert BUILD["table"](file, "Steam") == (
        "| dataset | method | HR@5 ↑ |\n| --- | --- | ---: |\n| Steam | RW | **0.500** |\n| Steam | D3 | – |\n"
    )


def test_the_main_results_are_values_and_relative_changes(tmp_path: Path) -> None:
    def row(measure: str, after: float, difference: float, mark: str) -> dict[str, object]:
        change = {"value": difference, "mark": mark}
        relative = {"value": difference / (after - difference)}
        key = {"dataset": "CDs_and_Vinyl", "source": "ours, paper's protocol", "method": "SPRec", "measure": measure}
        return key | {"metrics": {"value": {"value": after}, "difference": change, "relative": relative}}

    rows = [
        row("DivRatio@1 ↑", 0.3, 0.1, "better"), row("ORRatio@1 ↓", 0.1, -0.1, "better"),
        row("MGU@1 ↓", 0.02, 0.0, ""), row("NDCG@5 ↑", 0.03, -0.01, "worse"),
    ]  # fmt: skip
    file = tmp_path / "differences.json"
    file.write_text(json.dumps({"rows": [*rows, rows[0] | {"method": "RW"}]}))
    assert BUILD["main_results"](file).splitlines()[2] == (
        "| CDs and Vinyl | 0.200 → 0.300 (**+50%**) | 0.200 → 0.100 (**-50%**) | 0.0200 → 0.0200 (+0%) "
        "| 0.0400 → 0.0300 (**-25%**) |"
    )


def test_the_picture_of_the_readme_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "picture.py"), str(tmp_path)], check=True, cwd=ROOT)
    assert "(results/exposure.svg)" in README
    assert (tmp_path / "exposure.svg").read_bytes() == (ROOT / "results" / "exposure.svg").read_bytes()


def test_the_readme_is_short_and_the_results_fit_a_page() -> None:
    assert len(README.split()) <= 900
    assert len((ROOT / "docs" / "results.md").read_text("utf-8").splitlines()) <= 150


def test_results_hold_records_and_pictures_only() -> None:
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    kinds = {file.suffix for file in files}
    assert kinds <= {".json", ".svg", ".sh", ".py", ".parquet"}
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 6_000_000


def test_points_of_a_figure_are_rows(tmp_path: Path) -> None:
    points = {"0.0": {"value": 0.3}, "0.25": {"value": 0.2}}
    file = tmp_path / "figure5-Steam.json"
    file.write_text(
        json.dumps(
            {"DivRatio@1": {"SPRec": points}, "MGU@1": {"SPRec": {}}, "HR@5": {"SPRec": {"0.0": {"value": 0.04}}}}
        )
    )
    assert BUILD["curves"](file).splitlines() == [
        "| method | share of random negatives | DivRatio@1 | HR@5 |",
        "| --- | ---: | ---: | ---: |",
        "| SPRec | 0 | 0.3000 | 0.0400 |",
        "| SPRec | 0.25 | 0.2000 | – |",
    ]
