"""Compare a new benchmark with the committed ones, by ratio to the peers: ``python benchmarks/check.py NEW.json...``.

Absolute times differ between machines and days; ratios measured in one run much less. A ratio that fell by more than a
quarter is a regression. Exit code 1 then.
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SLACK = 0.75
ALIKE = 4
"""Runs whose numbers of samples differ by more than this factor are not compared: fixed costs count less in longer."""


Key = tuple[str, str, str, str]


def ratios(file: Path) -> dict[Key, tuple[int, float]]:
    """(size, precision, part, peer) to samples and ratio; the JSON is the last line of the file, or all of it."""
    text = file.read_text("utf-8").strip()
    record = json.loads(text if text.startswith("{") else text.splitlines()[-1])
    if "batch" not in record:  # made before there was more than one setting of TRL: another peer under its name
        return {}
    return {
        (record["size"], record["precision"], part["part"], peer): (part["samples"], values["ratio"])
        for part in record["parts"]
        for peer, values in part["peers"].items()
    }


def main(files: list[str], results: Path = RESULTS) -> int:
    """Print the comparison, with the committed run of about as many samples; 1 when something regressed."""
    committed: dict[Key, list[tuple[int, float]]] = {}
    for file in sorted(results.glob("*-*.json")):
        for key, measured in ratios(file).items():
            committed.setdefault(key, []).append(measured)
    fallen = False
    for file in map(Path, files):
        for key, (samples, ratio) in ratios(file).items():
            alike = [one for one in committed.get(key, []) if samples / ALIKE <= one[0] <= ALIKE * samples]
            before = min(alike, key=lambda one: abs(one[0] - samples), default=None)
            bad = before is not None and ratio < SLACK * before[1]
            fallen |= bad
            was = "new" if before is None else f"was {before[1]:.2f}x with {before[0]:,} samples"
            print(f"{'✗' if bad else '✓'} {' '.join(key):<28} {ratio:8.2f}x  {was}")
    return int(fallen)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
