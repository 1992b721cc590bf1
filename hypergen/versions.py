"""The oldest libraries that hypergen works with, checked from their metadata before one of them is imported.

The floors lie above the known defects in loading untrusted models (torch: weights_only, transformers:
trust_remote_code). Imports only the standard library.
Does not know: how the libraries were installed.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

from hypergen.errors import InputError

FLOORS = {"torch": (2, 11), "transformers": (5, 17)}


@cache
def require_versions() -> None:
    """Raises InputError, in one line, where a library is missing or too old."""
    for name, floor in FLOORS.items():
        least = ".".join(map(str, floor))
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise InputError(f"{name} {least} or newer is needed and is not installed (pip install {name})") from None
        if tuple(map(int, re.findall(r"\d+", installed)[:2])) < floor:
            raise InputError(f"{name} {least} or newer is needed, {installed} is installed (pip install -U {name})")
