"""The one exception that a user is meant to see."""


class UserError(Exception):
    """A mistake of the user (missing file, bad row, wrong key): one line that says what, where and what to do.

    The command line prints the message without a traceback and exits with code 2. Everything else that is
    raised is a bug and keeps its traceback.
    """
