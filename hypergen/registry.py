"""Which module serves which modality: the only core file that names one.

A package listed here has `config.Settings` (its frozen dataclass of options, importable without torch) and, in its
module `modality`, the functions `read(source, settings, skip_bad=0) -> items` (checks a source before any model is
loaded; `hypergen.skipping`), `build(items, settings, pretrain_config)` and
`load(folder or hub id, settings, allow_pickle_weights=False)`, and the constant `DEFAULT_PROMPTS`:
the built-in source of held-out items for a base hyperfitted on its own samples, or None to draw those as well.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from hypergen.errors import InputError
from hypergen.strict_json import read_object

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


def identify(folder: Path) -> str | None:
    """The modality of a model folder: what `hypergen.json` says, else by the architecture; None where neither tells."""
    record = read_json(folder / "hypergen.json")
    if record is not None:
        return record.get("modality")
    config = read_json(folder / "config.json")
    if config is None:
        return None
    return "image" if config.get("model_type") == "imagegpt" else "text"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file. Raises as `strict_json.read_object`."""
    return read_object(path) if path.is_file() else None


def _package(name: str) -> str:
    if name not in list(MODALITIES):  # a record may hold anything
        raise InputError(f"modality '{name}': allowed are {', '.join(MODALITIES)}")
    return MODALITIES[name]
