"""Compare a new benchmark with the committed ones, by ratio to the peers: ``python benchmarks/check.py NEW.json...``.

Absolute times differ between machines and days; ratios measured in one run much less. A ratio that fell by more than a
quarter is a regression. Exit code 1 then.
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SLACK = 0.75


def ratios(file: Path) -> dict[tuple[str, str, str, str], float]:
    """(size, precision, part, peer) to ratio; the JSON stands in the last line of the file, or is all of it."""
    text = file.read_text("utf-8").strip()
    record = json.loads(text if text.startswith("{") else text.splitlines()[-1])
    return {
        (record["size"], record.get("precision", "bf16"), part["part"], peer): values["ratio"]
        for part in record["parts"]
        for peer, values in part["peers"].items()
    }


def main(files: list[str], results: Path = RESULTS) -> int:
    """Print the comparison; 1 when something regressed."""
    committed: dict[tuple[str, str, str, str], float] = {}
    for file in sorted(results.glob("*-*.json")):
        committed |= ratios(file)
    fallen = False
    for file in map(Path, files):
        for key, ratio in ratios(file).items():
            before = committed.get(key)
            bad = before is not None and ratio < SLACK * before
            fallen |= bad
            was = "new" if before is None else f"was {before:.2f}x"
            print(f"{'✗' if bad else '✓'} {' '.join(key):<28} {ratio:8.2f}x  {was}")
    return int(fallen)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
