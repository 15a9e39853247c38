"""How a process ends: with one line and an exit code, whatever happened."""

import errno
import io
import os
import sys
from collections.abc import Callable

from sprec.system import interrupts
from sprec.system.errors import UserError


def program(name: str, work: Callable[[], None]) -> None:
    """Do the ``work`` of a process: user mistakes end in one line and exit code 2, signals in 128 + their number.

    The line begins with ``name``. Errors of the operating system (a full disk behind the output) are one line, too. A
    closed pipe ends the process silently, as SIGPIPE would.

    Raises:
        SystemExit: with that code.
    """
    interrupts.install()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: an arrow of a table must not end the command
    try:
        try:
            work()
        finally:
            sys.stdout.flush()
    except OSError as error:
        _silence()
        if error.errno is None:  # raised by a library, about something else
            raise
        if error.errno != errno.EPIPE:
            print(f"{name}: {UserError(str(error))}", file=sys.stderr)
        raise SystemExit(128 + 13 if error.errno == errno.EPIPE else 2) from None
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except interrupts.Interrupted as signal:
        print(f"{name}: stopped by {signal}; the same command resumes", file=sys.stderr)
        raise SystemExit(signal.code) from None
    finally:
        interrupts.end()


def _silence() -> None:
    """Discard further output: what is left in the buffer would fail again when the interpreter exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
