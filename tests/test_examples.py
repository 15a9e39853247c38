"""The notebooks run from top to bottom, the one with a language model in a small form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = [
    "backbone.hidden=32", "backbone.layers=1", "backbone.epochs=1", "sft.epochs=1", "sft.samples=64",
    "loop.iterations=1", "loop.samples=16", "sasrec.epochs=1", "cases=20",
]  # fmt: skip


def printed(code: str, folder: Path) -> str:
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_data_to_a_frontier(tmp_path: Path) -> None:
    code = (EXAMPLES / "frontier.py").read_text("utf-8")
    assert "quick: list[str] = []" in code
    text = printed(code.replace("quick: list[str] = []", f"quick: list[str] = {SMALL}"), tmp_path)
    points = re.findall(r"^([* ]) (\S+ .*?) +NDCG@5 ([\d.]+)  ORRatio@5 ([\d.]+)$", text, re.MULTILINE)
    assert {name for _, name, _, _ in points} == {
        "self-play sft 0", "self-play sft 1", "self-play prefer 1", "decoding exact", "decoding consensus",
        "baseline popularity", "baseline knn", "baseline sasrec",
    }  # fmt: skip
    best = max(points, key=lambda point: (float(point[2]), -float(point[3])))
    assert best[0] == "*", "nothing is more accurate"
    assert (tmp_path / "frontier" / "frontier.png").is_file()
    assert len(text.splitlines()[-5:]) == 5


def test_why_greedy_decoding_and_random_negatives_make_bias(tmp_path: Path) -> None:
    """Closed forms: uniform negatives at beta = 1 square a Zipf distribution; without taste all get the same item."""
    text = printed((EXAMPLES / "bias.py").read_text("utf-8"), tmp_path)
    squares = sum(1 / rank**2 for rank in range(1, 21))
    assert f"beta = 1   top item {1 / squares:.1%}" in text
    assert "taste 0.0: the top 3 have 51% of what users choose, 100% of what is recommended" in text
    assert re.search(r"uniform +distance to the data 0.7\d\d, as diverse as 1.0 equal items", text)
    drawn = {file.name for file in (tmp_path / "bias").glob("*.svg")}
    assert drawn == {file.name for file in EXAMPLES.glob("bias-*.svg")}
