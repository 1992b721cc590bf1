"""Map the name of a modality to its package: the only core file that names one.

A package has the modules `config` and `adapter`; `modality.Adapter` says what is in them. Beside those of hypergen
stand the ones that other distributions declare as entry points of the group `hypergen.modalities`, and those that
`register_modality` was called with.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hypergen.config import DecodingConfig, FitConfig, GenerateConfig, PretrainConfig
from hypergen.data.hub import snapshot
from hypergen.errors import InputError, did_you_mean, in_keywords
from hypergen.runtime.console import first_line, warn
from hypergen.storage.atomic import disk_errors
from hypergen.storage.file_names import RECORD
from hypergen.storage.strict_json import read_optional

if TYPE_CHECKING:
    from hypergen.modality import Adapter, ExportFormat

OWN = {"text": "hypergen.text", "image": "hypergen.image"}  # the first takes what no other one recognizes
ENTRY_POINTS = "hypergen.modalities"  # group of the entry points: a name, and the package
OF_CONFIG = (
    "Settings",
    "PAPER_RECIPE",
    "SOURCES",
    "BUILT_IN_SOURCES",
    "NAMED_BASES",
    "MODEL_SUFFIXES",
    "MODEL_FILES",
    "EXPORT_FORMATS",
    "recognizes",
)  # what a package's `config` has

if TYPE_CHECKING:
    MODALITIES: dict[str, str]
else:

    def __getattr__(name: str) -> Any:
        if name == "MODALITIES":  # asked for by its readers, so that nothing is looked for before
            return modalities()
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


@cache
def modalities() -> dict[str, str]:
    """Return the package of each modality by name: ours, those of entry points, and those registered since."""
    found = dict(OWN)
    for entry in entry_points(group=ENTRY_POINTS):
        _add_entry(found, entry.name, entry.value)
    return found


def _add_entry(known: dict[str, str], name: str, package: str) -> None:
    """Add the package of an entry point, or warn of one that is none of a modality."""
    try:
        _check_package(known, name, package)
    except InputError as error:
        return warn(f"entry point {name} = {package} of {ENTRY_POINTS} is left out: {error}")
    known[name] = package


@in_keywords()
def register_modality(name: str, package: str) -> None:
    """Make a third modality known under a name, for this process; an entry point does so for all.

    Args:
        name: what `modality` is to say.
        package: dotted name of the package with the modules `config` and `adapter` (see `hypergen.modality.Adapter`).

    Raises:
        InputError: the name is taken, or the package cannot be imported or lacks something of its `config`.
    """
    _check_package(modalities(), name, package)
    modalities()[name] = package


def _check_package(known: dict[str, str], name: str, package: str) -> None:
    """Refuse a package that is none of a modality, or whose name another one has."""
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"modality {name!r}: its name must be letters, digits, '-' and '_'")
    if known.get(name, package) != package:
        raise InputError(f"modality '{name}': {known[name]} has this name")
    _check_config(name, f"{package}.config")


def _check_config(name: str, module: str) -> None:
    """Refuse a module that lacks something, or has a setting that is called as an option of hypergen's."""
    try:
        config = importlib.import_module(module)
    except Exception as error:  # whatever code of others raises
        raise InputError(f"modality '{name}': {module} cannot be imported ({first_line(error)})") from error
    if missing := [one for one in OF_CONFIG if not hasattr(config, one)]:
        raise InputError(f"modality '{name}': {module} lacks {', '.join(missing)}")
    if taken := sorted(_core_options() & set(getattr(config.Settings, "__dataclass_fields__", ()))):
        raise InputError(f"modality '{name}': {module}.Settings has {taken[0]}, which is an option of hypergen's")


def _core_options() -> set[str]:
    configs = (PretrainConfig, FitConfig, DecodingConfig, GenerateConfig)
    return {one.name for config in configs for one in fields(config)}


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
    return tuple(base for name in modalities() for base in named_bases(name))


def model_suffixes() -> tuple[str, ...]:
    """List how files that are a model end, over all modalities."""
    return tuple(suffix for name in modalities() for suffix in _config(name).MODEL_SUFFIXES)


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
        return Identified(found, told(found) or _guessed(found))


def _guessed(source: str) -> str | None:
    """Guess the modality: the first one takes a `config.json` that no other one knows."""
    config = read_optional(Path(source) / "config.json")
    return None if config is None else recognized(config)


def told(source: str | Path) -> str | None:
    """Tell the modality of a model for certain: by a name, a file's suffix, else by the folder.

    A folder tells by `hypergen.json`, else by its architecture, else by a file that only one modality has.
    """
    path = Path(source)
    for name in modalities():
        is_its_file = path.suffix.lower() in _config(name).MODEL_SUFFIXES and path.is_file()
        if str(source) in named_bases(name) or is_its_file:
            return name
    record = read_optional(path / RECORD)
    if record is not None and (named := record.get("modality")) is not None:
        return str(named)
    config = read_optional(path / "config.json")
    if config is None:
        own = (name for name in modalities() if any((path / file).is_file() for file in _config(name).MODEL_FILES))
        return next(own, None)
    found = recognized(config)
    return None if found == next(iter(modalities())) else found


def recognized(config: dict[str, Any]) -> str | None:
    """Tell the modality from the content of a model's `config.json`; the first one is asked last, as it takes any."""
    return next((name for name in reversed(modalities()) if _config(name).recognizes(config)), None)


def _config(name: str) -> ModuleType:
    return importlib.import_module(f"{_package(name)}.config")


def _package(name: str) -> str:
    known = modalities()
    if name not in list(known):  # a record may hold anything
        near = did_you_mean(str(name), known)
        raise InputError(f"modality '{name}': allowed are {', '.join(known)}{near}")
    return known[name]
