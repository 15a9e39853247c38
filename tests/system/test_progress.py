"""Where there is no terminal, long work prints a line now and then: what, how far, how long."""

import re
import subprocess
import sys

LONG = """
import time
from sprec.system import progress

progress.EVERY = 0.2
with progress.bar("all users", 50) as outer:
    with progress.bar("encode", None):
        time.sleep(0.5)
    for _ in range(10):
        outer.advance(4, "loss 0.5")
        time.sleep(0.1)
print(progress.Bar("train", 4096, True, None, None, time.monotonic() - 660, 1024, "loss 1.2").line())
print(progress.Bar("all runs", 8, False, None, None, time.monotonic() - 9000, 3).line())
print(progress.Bar("sort", None, True, None, None, time.monotonic() - 6, 0).line())
"""


def test_long_work_prints_lines_of_the_outer_bar() -> None:
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) >= 4
    assert lines[0] == "  all users: 0 of 50, after 0 s"
    assert re.fullmatch(r"  all users: (\d+) of 50, after [1-9] s, about \d s left, loss 0.5", lines[-1])
    assert done.stdout.splitlines() == [
        "  train: 1,024 of 4,096, after 11 min, about 33 min left, loss 1.2",
        "  all runs: 3 of 8, after 2 h 30 min",
        "  sort: 0, after 6 s",
    ]


def test_short_work_is_silent() -> None:
    code = "from sprec.system.progress import bar\nwith bar('short', 2) as one:\n    one.advance(2)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == ""
