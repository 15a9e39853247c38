"""The one exception that a user is meant to see."""

import re

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: title of the window, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]?"  # other strings and commands
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]+")


def printable(text: str) -> str:
    """A text without what moves the cursor, colours, links or turns the direction of a terminal: spaces in its place.

    Sequences of terminals vanish whole. Marks of direction (left-to-right, right-to-left) and joiners stay: scripts
    need them, and they reach no further than their neighbours.
    """
    return _CONTROL.sub(" ", _SEQUENCE.sub("", text))


class UserError(Exception):
    """A mistake of the user (missing file, bad row, wrong key): one line that says what, where and what to do.

    The command line prints the message without a traceback and exits with code 2. Everything else that is
    raised is a bug and keeps its traceback. Line breaks and control characters (of file names, of rows that are quoted)
    become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
