"""The one exception that a user is meant to see."""

import re


class UserError(Exception):
    """A mistake of the user (missing file, bad row, wrong key): one line that says what, where and what to do.

    The command line prints the message without a traceback and exits with code 2. Everything else that is
    raised is a bug and keeps its traceback. Line breaks and control characters (of file names, of rows that are quoted)
    become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", message))
