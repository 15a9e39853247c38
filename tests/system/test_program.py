"""How the command line ends when its output cannot be written, its reader has gone, or it is stopped at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "sprec", "recipes", "settings"]


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(COMMAND, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "sprec: [Errno 28] No space left on device\n"


def test_a_reader_that_has_gone_ends_it_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(COMMAND, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (1, 141), "typer's own code for it, or that of the signal"


def test_what_a_terminal_has_no_letter_for_is_spelled_out() -> None:
    """Tables have arrows, titles any letters; Windows and old locales write neither."""
    code = "from sprec.system.program import program; program('sprec', lambda: print('HR@5 \u2191 \xe9'))"
    for encoding, expected in (("ascii", b"HR@5 \\u2191 \\xe9\n"), ("cp1252", b"HR@5 \\u2191 \xe9\n")):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, b""), encoding
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == "HR@5 \u2191 \xe9\n"


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "sprec.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from sprec.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
