"""The cache folder: what is fetched once and used by many runs."""

import os
from pathlib import Path


def home() -> Path:
    """The cache folder: ``SPREC_HOME``, else ``sprec`` in the user's (``XDG_CACHE_HOME`` or ``~/.cache``)."""
    own = os.environ.get("SPREC_HOME")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sprec"
