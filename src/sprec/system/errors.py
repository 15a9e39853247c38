"""The one exception that a user is meant to see."""

import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: title of the window, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]?"  # other strings and commands
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]+")


def printable(text: str) -> str:
    """A text that is safe to print: terminal sequences are removed, control characters become spaces.

    Directional marks (left-to-right, right-to-left) and joiners stay: scripts need them, and they only affect their
    neighbours. Overrides of the direction do not.
    """
    return _CONTROL.sub(" ", _SEQUENCE.sub("", text))


class UserError(Exception):
    """A mistake of the user (missing file, bad row, wrong key): one line that says what, where and what to do.

    The command line prints the ``message`` without a traceback and exits with code 2. Any other exception is a bug and
    keeps its traceback. Line breaks and control characters, as in file names and quoted rows, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
