"""``python -m sprec`` is ``sprec``."""

from sprec.cli import main

if __name__ == "__main__":
    main()
