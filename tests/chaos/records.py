"""How many faults of a kind were tried and survived, for the table of ``docs/reliability.md``."""

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """The tries of one test.

    Attributes:
        counts: per fault [tried, survived].
    """

    counts: dict[str, list[int]] = field(default_factory=dict)

    @contextmanager
    def trying(self, fault: str, times: int = 1) -> Iterator[None]:
        """Tries that are survived if the block ends well, and that count however it ends."""
        count = self.counts.setdefault(fault, [0, 0])
        count[0] += times
        yield
        count[1] += times


@contextmanager
def recording(test: str) -> Iterator[Record]:
    """A record that is written down when the test is over, failed or not, if ``SPREC_CHAOS_RESULTS`` says where."""
    record = Record()
    try:
        yield record
    finally:
        target = os.environ.get("SPREC_CHAOS_RESULTS")
        if target and record.counts:
            _write(Path(target), test, record)


def _write(file: Path, test: str, record: Record) -> None:
    found = json.loads(file.read_text()) if file.exists() else {"faults": {}}
    found["machine"] = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "system": platform.system(),
        "date": datetime.date.today().isoformat(),
    }
    for fault, count in record.counts.items():
        found["faults"].setdefault(fault, {})[test] = count
        found.setdefault("dates", {})[fault] = found["machine"]["date"]
    file.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
