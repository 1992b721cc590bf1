"""Which module serves which modality: the only core file that names one.

A module listed here has `Settings` (its frozen dataclass of options, importable without torch from `.config`),
`build(items, settings, config)` and `load(folder, settings)`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from hypergen.errors import InputError

MODALITIES = {"text": "hypergen.text", "image": "hypergen.image"}


def adapter(name: str) -> ModuleType:
    """The adapter's module, imported now (torch and its libraries with it).

    Raises:
        InputError: no modality has this name.
    """
    return importlib.import_module(f"{_package(name)}.modality")


def settings_class(name: str) -> type:
    """The adapter's dataclass of options; imports only the standard library."""
    return importlib.import_module(f"{_package(name)}.config").Settings


def _package(name: str) -> str:
    if name not in MODALITIES:
        raise InputError(f"modality '{name}': allowed are {', '.join(MODALITIES)}")
    return MODALITIES[name]
