"""Map the name of a modality to its package: the only core file that names one.

A package has the modules `config` and `adapter`; `modality.Adapter` says what is in them. One line in MODALITIES
registers it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hypergen.data.hub import snapshot
from hypergen.errors import InputError, did_you_mean
from hypergen.storage.atomic import disk_errors
from hypergen.storage.file_names import RECORD
from hypergen.storage.strict_json import read_optional

if TYPE_CHECKING:
    from hypergen.modality import Adapter, ExportFormat

MODALITIES = {"text": "hypergen.text", "image": "hypergen.image"}  # the first takes what no other one recognizes


def adapter(name: str) -> Adapter:
    """Import the adapter of a modality, and torch and its libraries with it.

    Raises:
        InputError: no modality has this name.
    """
    return cast("Adapter", importlib.import_module(f"{_package(name)}.adapter"))


def settings_class(name: str) -> type:
    """Import the adapter's dataclass of options; needs only the standard library."""
    return cast(type, _config(name).Settings)


def paper_recipe(name: str) -> dict[str, Any]:
    """Return the values of the modality's own options that hold for a model without a card."""
    return dict(_config(name).PAPER_RECIPE)


def sources(name: str) -> str:
    """Say in words what `--data` may name."""
    return str(_config(name).SOURCES)


def built_in_sources(name: str) -> tuple[str, ...]:
    """List the sources of items that come with the modality and are no file."""
    return tuple(_config(name).BUILT_IN_SOURCES)


def export_formats(name: str) -> Mapping[str, ExportFormat]:
    """Return the file formats of other programs, by name, that the modality's models are exported to."""
    return cast("Mapping[str, ExportFormat]", _config(name).EXPORT_FORMATS)


def export_endings(name: str) -> tuple[str, ...]:
    """List how the names of exported files end, by default."""
    formats = export_formats(name).values()
    return tuple(f"-{kind}{one.suffix}" for one in formats for kind in one.types)


def named_bases(name: str) -> tuple[str, ...]:
    """List the bases of the modality that have a name of their own; `--model` takes it, whatever lies in the folder."""
    return tuple(_config(name).NAMED_BASES)


def is_named(source: str | Path) -> bool:
    """Tell a named base from a folder, a file or a hub id."""
    return str(source) in all_named_bases()


def all_named_bases() -> tuple[str, ...]:
    """List the named bases of all modalities."""
    return tuple(base for name in MODALITIES for base in named_bases(name))


def model_suffixes() -> tuple[str, ...]:
    """List how files that are a model end, over all modalities."""
    return tuple(suffix for name in MODALITIES for suffix in _config(name).MODEL_SUFFIXES)


class Identified(NamedTuple):
    """Name a model as adapters load it, and its modality."""

    source: str
    """What was given; of a folder of the hub's cache the snapshot in it."""
    modality: str | None
    """None where nothing tells."""


def identify(source: str | Path) -> Identified:
    """Find a model and its modality, before anything of it is read; every source that a user names passes here.

    Raises:
        InputError: a folder of the hub's cache has no snapshot, or a file that tells the modality cannot be read.
    """
    found = snapshot(str(source))
    with disk_errors(Path(found)):
        return Identified(found, _modality_of(found))


def _modality_of(source: str) -> str | None:
    """Tell the modality by a name, a file's suffix, else the folder, where anything tells.

    A folder tells by `hypergen.json`, else by its architecture, else by a file that only one modality has.
    """
    path = Path(source)
    for name in MODALITIES:
        is_its_file = path.suffix.lower() in _config(name).MODEL_SUFFIXES and path.is_file()
        if source in named_bases(name) or is_its_file:
            return name
    record = read_optional(path / RECORD)
    if record is not None and (named := record.get("modality")) is not None:
        return str(named)
    config = read_optional(path / "config.json")
    if config is None:
        own = (name for name in MODALITIES if any((path / file).is_file() for file in _config(name).MODEL_FILES))
        return next(own, None)
    return next((name for name in reversed(MODALITIES) if _config(name).recognizes(config)), None)


def _config(name: str) -> ModuleType:
    return importlib.import_module(f"{_package(name)}.config")


def _package(name: str) -> str:
    if name not in list(MODALITIES):  # a record may hold anything
        near = did_you_mean(str(name), MODALITIES)
        raise InputError(f"modality '{name}': allowed are {', '.join(MODALITIES)}{near}")
    return MODALITIES[name]
