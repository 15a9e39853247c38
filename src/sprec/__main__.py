"""``sprec``, also as ``python -m sprec``."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sprec.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
