"""Draw the README's picture from the committed Table 2: accuracy against exposure, before and after self-play."""

import json
import sys
from pathlib import Path
from typing import Any

from sprec.evaluation.plots import Point, trade_offs

ROOT = Path(__file__).parents[1]
METHODS = ("SASRec", "D3", "BIGRec", "SPRec")
METRICS = ("ORRatio@5", "NDCG@5")


def panels(table: dict[str, Any]) -> dict[str, dict[tuple[str, ...], Point]]:
    """Dataset to (method, way to recommend) to where it stands: exposure of the three top items, NDCG@5."""
    found: dict[str, dict[tuple[str, ...], Point]] = {}
    for row in table["rows"]:
        whose, _, rest = row["source"].partition(", ")
        if whose == "ours" and row["method"] in METHODS:
            x, y = (row["metrics"][name] for name in METRICS)
            point = Point(x["value"], y["value"], (x["low"], x["high"]), (y["low"], y["high"]))
            found.setdefault(row["dataset"].replace("_", " "), {})[row["method"], rest.rpartition(", ")[0]] = point
    return found


def main() -> None:
    """Write the picture into a folder, by default ``results/``."""
    table = json.loads((ROOT / "results" / "scratch" / "table2.json").read_text("utf-8"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results"
    for file in trade_offs(panels(table), METRICS, folder / "exposure", columns=2):
        if file.suffix == ".png":
            file.unlink()


main()
