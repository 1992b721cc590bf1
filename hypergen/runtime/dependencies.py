"""Require the libraries that everything needs, and import those that only some features need where they are used.

A library that is missing or too old is named in one line, with the command that installs it.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from hypergen.errors import InputError


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def how_to_install(module: str, requirement: str) -> str:
    """Name a missing library and its cure: "needs sacrebleu (pip install 'sacrebleu>=2.5')"."""
    return f"needs {module} (pip install '{requirement}')"


def load_optional(module: str, requirement: str, purpose: str) -> Any:
    """Import a module of an optional library where it is used, because it is slow to import or not installed.

    Args:
        module: its name, or the name of a module inside it.
        requirement: what to give to pip.
        purpose: what needs it, for the message.

    Raises:
        InputError: the library is not installed.
    """
    root = module.split(".")[0]
    if not is_installed(root):
        raise InputError(f"{purpose}: {how_to_install(root, requirement)}")
    return importlib.import_module(module)


# The only table in the core that names a modality's library: both are checked before anything is imported, adapters
# included, because an old transformers fails deep inside an import, where no line of ours can explain it.
FLOORS = {"torch": (2, 11), "transformers": (5, 17)}


@cache
def require_versions() -> None:
    """Check the operating system, and the versions of the libraries that everything needs from their metadata alone.

    Raises:
        InputError: the system has no file locks, or a library is missing or too old.
    """
    if not is_installed("fcntl"):
        raise InputError("this system has no file locks (fcntl); Linux and macOS have them, and Windows inside WSL")
    for name, floor in FLOORS.items():
        least = ".".join(map(str, floor))
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise InputError(f"{name} {least} or newer is needed and is not installed (pip install {name})") from None
        if tuple(map(int, re.findall(r"\d+", installed)[:2])) < floor:
            raise InputError(f"{name} {least} or newer is needed, {installed} is installed (pip install -U {name})")
