"""Locate the folder of everything that can be made or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $HYPERGEN_CACHE, else $XDG_CACHE_HOME/hypergen, else ~/.cache/hypergen; nothing is created.

    Raises:
        RuntimeError: neither variable is set and there is no home folder.
    """
    if named := os.environ.get("HYPERGEN_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypergen"
