"""How a process of ours ends: in one line and a code, whatever happened."""

import sys
from collections.abc import Callable

from sprec.system import interrupts
from sprec.system.errors import UserError


def program(name: str, work: Callable[[], None]) -> None:
    """Do the work of a process: user mistakes end in one line and exit code 2, signals in 128 + their number.

    Raises:
        SystemExit: with that code.
    """
    interrupts.install()
    try:
        work()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except interrupts.Interrupted as signal:
        print(f"{name}: stopped by {signal}; the same command resumes", file=sys.stderr)
        raise SystemExit(signal.code) from None
    finally:
        interrupts.end()
