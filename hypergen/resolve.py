"""From what a user typed to what a verb works on: which modality, which base, which options, which items.

Everything here is checked before a model is loaded. An option that the modality does not have is refused by name.
Does not know: training, decoding, what an item is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hypergen import registry
from hypergen.batches import generator
from hypergen.config import HELD_OUT_SAMPLES, PAPER_RECIPE, FitConfig, Precision, fill, flag
from hypergen.errors import InputError
from hypergen.precision import has_bf16_units
from hypergen.run import check_finished

OWN = "self"  # the source that stands for samples of the base
HELD_OUT_SHARE = 4  # at most one item in so many is held out


def split_options(config_class: type, config: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Keywords -> (the verb's options, the keywords left, which are the modality's settings)."""
    names = {field.name for field in fields(config_class)}
    own = {name: value for name, value in options.items() if name in names}
    settings = {name: value for name, value in options.items() if name not in names}
    if config is not None and own:
        raise InputError(f"{', '.join(own)}: give a {config_class.__name__} or keywords, not both")
    try:
        config = config or config_class(**own)
    except TypeError as error:
        raise InputError(f"{config_class.__name__}: {str(error).split(') ')[-1]}") from error
    refuse_empty(config)
    return config, settings


def refuse_empty(config: Any) -> None:
    """An empty text is a shell variable that was never set, not a wish for the default."""
    for field in fields(config):
        if getattr(config, field.name) == "":
            raise InputError(f"{flag(field.name)}: is empty; leave it out for its default")


def make_settings(modality: str, given: dict[str, Any], recipe: dict[str, Any]) -> Any:
    """The modality's `Settings` from what the user gave, the rest from a recipe.

    Raises:
        InputError: the modality has no such option.
    """
    settings_class = registry.settings_class(modality)
    known = {field.name for field in fields(settings_class)}
    for name in given.keys() - known:
        raise InputError(f"{flag(name)}: not an option of modality '{modality}', which has {', '.join(sorted(known))}")
    return fill(settings_class(**given), recipe)


def embedded_base(modality: str) -> str:
    """The folder of the base that comes with hypergen.

    Raises:
        InputError: there is no such modality, or it has no base.
    """
    registry.settings_class(modality)
    folder = Path(str(resources.files("hypergen") / "assets" / f"{modality}-base"))
    if not folder.is_dir():
        raise InputError(f"--modality {modality}: has no embedded base; give --model")
    return str(folder)


def modality_of(asked: str | None, model: str | None) -> str:
    """The modality that the user names or that the model folder tells.

    Raises:
        InputError: neither tells, or the two differ.
    """
    folder = Path(model) if model else None
    if folder is not None:
        check_finished(folder)
    found = registry.identify(folder) if folder and folder.is_dir() else None
    if asked is None and found is None:
        reason = "does not tell its modality" if folder and folder.is_dir() else "no such folder"
        where = f"{model}: {reason}; " if model else ""
        raise InputError(f"{where}--modality is needed: {', '.join(registry.MODALITIES)}")
    if asked is not None and found is not None and asked != found:
        raise InputError(f"--modality {asked}: {model} is of modality '{found}'")
    return asked or found or ""


def stored_settings(source: str, asked: str | None, given: dict[str, Any]) -> tuple[str, Any]:
    """Modality and settings of a run, base or hub model: what its record says, with what the user gave on top.

    What neither says stays open, so that the adapter can take what suits the model.
    """
    name = modality_of(asked, source)
    stored = read_record(source).get("settings", {})
    if not isinstance(stored, dict):
        raise InputError(f"{Path(source) / 'hypergen.json'}: 'settings' must hold an object")
    return name, make_settings(name, stored | given, {})


def read_record(source: str) -> dict[str, Any]:
    """`hypergen.json` of a run or base; empty for any other model."""
    return registry.read_json(Path(source) / "hypergen.json") or {}


def fit_recipe(record: dict[str, Any], data: str) -> dict[str, Any]:
    """What suits the base: its card's values for this kind of data, else the paper's."""
    recipes = record.get("fit", {})
    return PAPER_RECIPE | recipes.get(data, recipes.get("data", {}) if data != OWN else {})


def read_items(adapter: ModuleType, settings: Any, config: FitConfig) -> tuple[Any, Any]:
    """Training and held-out items; None where they are drawn from the base."""
    items = None if config.data == OWN else adapter.read(config.data, settings, config.skip_bad)
    prompts = config.prompts or (adapter.DEFAULT_PROMPTS if config.data == OWN else None)
    if prompts is not None:
        return items, None if prompts == OWN else adapter.read(prompts, settings, config.skip_bad)
    if items is None:
        return None, None
    return split_items(items, config.held_out_samples or HELD_OUT_SAMPLES, config.seed, config.data, "--prompts")


def split_items(
    items: Sequence[Any], held_out: int, seed: int, source: str, instead: str
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Items -> (training, held out), drawn with `seed`; no item is in both.

    Args:
        instead: the option that names held-out items.

    Raises:
        InputError: fewer than two items.
    """
    if len(items) < 2:
        raise InputError(f"--data {source}: has one item, so none can be held out; give {instead}")
    order = torch.randperm(len(items), generator=generator(seed, "split")).tolist()
    held_out = min(held_out, max(1, len(items) // HELD_OUT_SHARE))
    return _Chosen(items, order[held_out:]), _Chosen(items, order[:held_out])


class _Chosen(Sequence):
    """Some items of a lazy sequence, in a given order; nothing is read before it is asked for."""

    def __init__(self, items: Sequence[Any], order: Sequence[int]):
        self.items, self.order = items, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Chosen(self.items, self.order[index])
        return self.items[self.order[index]]


def pick_device(name: str, precision: Precision = "fp32") -> torch.device:
    """`auto` is cuda, mps or cpu, whichever the machine has; one line on stderr where it can only imitate bf16.

    Raises:
        InputError: the machine lacks it.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = accelerator or torch.device("cpu") if name == "auto" else torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: allowed are auto, cpu, cuda, cuda:N, mps") from error
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        raise InputError(f"--device {name}: this machine has {accelerator or 'only a cpu'}")
    if precision == "bf16" and device.type == "cpu" and not has_bf16_units(device):
        told = "--precision bf16: this cpu has no bf16 units and is slower with it than with fp32"
        print(f"hypergen: {told}", file=sys.stderr)
    return device
