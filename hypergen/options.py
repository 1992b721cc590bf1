"""Resolve the options that a user typed: the modality, the base, every value, the items.

Everything here is checked before a model is loaded, most of it before torch is imported, which takes longer than all
the rest of a wrong call. An option that the modality does not have is refused by name.
After this no option is open because nobody filled it: a None that is left means "off" or "automatic".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hypergen import registry
from hypergen.config import HELD_OUT_SAMPLES, OWN, PAPER_RECIPE, ExportConfig, FitConfig, PretrainConfig, fill, flag
from hypergen.data.hub import is_cached
from hypergen.errors import InputError, did_you_mean
from hypergen.modality import Adapter, Item
from hypergen.storage.atomic import disk_errors
from hypergen.storage.file_names import RECORD
from hypergen.storage.run_folder import check_finished
from hypergen.storage.strict_json import read_optional

if TYPE_CHECKING:
    from hypergen.objects import Objects
    from hypergen.training.plan import Plan

CHECKPOINT_SECONDS = 600.0  # between checkpoints of a fit that does not say how many epochs

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class ResolvedFit(FitConfig):
    """Hold the options of a fit once the recipe has filled them: the same fields, none of these open."""

    modality: str
    num_samples: int
    epochs: int
    learning_rate: float
    batch_size: int
    last_layers: int

    @classmethod
    def of(cls, config: FitConfig, modality: str, recipe: dict[str, Any]) -> ResolvedFit:
        """Fill the fields that the user left open from the recipe.

        Raises:
            InputError: the recipe leaves an option open, or holds a value that is not allowed.
        """
        filled = fill(config, recipe | {"modality": modality})
        values = {field.name: getattr(filled, field.name) for field in fields(FitConfig)}
        still_open = [name for name in PAPER_RECIPE if values[name] is None]
        if still_open:
            raise InputError(f"{', '.join(map(flag, still_open))}: neither given nor in the base's recipe")
        return cls(**values)


def split_options(
    config_class: type[Config], config: Config | None, options: dict[str, Any]
) -> tuple[Config, dict[str, Any]]:
    """Split keywords into the verb's own options and those left over, which are the modality's settings.

    Raises:
        InputError: a config and keywords of it are both given, a required one is missing, or a text is empty.
    """
    names = {field.name for field in fields(config_class)}  # type: ignore[arg-type]
    own = {name: value for name, value in options.items() if name in names}
    settings = {name: value for name, value in options.items() if name not in names}
    if config is not None and own:
        raise InputError(f"{', '.join(own)}: give a {config_class.__name__} or keywords, not both")
    try:
        config = config_class(**own) if config is None else config
    except TypeError as error:
        raise InputError(f"{config_class.__name__}: {str(error).split(') ')[-1]}") from error
    refuse_empty(config)
    return config, settings


def only_options(config_class: type[Config], config: Config | None, options: dict[str, Any], verb: str) -> Config:
    """Make the config of a verb that has no settings of a modality.

    Raises:
        InputError: as `split_options`, or the verb has no such option.
    """
    resolved, others = split_options(config_class, config, options)
    if others:
        name, known = min(others), [field.name for field in fields(config_class)]  # type: ignore[arg-type]
        raise InputError(f"{flag(name)}: not an option of {verb}{did_you_mean(name, known)}")
    return resolved


def refuse_empty(config: Any) -> None:
    """Refuse an empty text: it is a shell variable that was never set, not a wish for the default."""
    for field in fields(config):
        if getattr(config, field.name) == "":
            raise InputError(f"{flag(field.name)}: is empty; leave it out for its default")


def require_read(verb: str, modality: str, given: Mapping[str, Any]) -> None:
    """Refuse options of a modality that the verb does not read, and name the verbs that do."""
    for field in fields(registry.settings_class(modality)):
        verbs = field.metadata.get("verbs", (verb,))
        if field.name in given and verb not in verbs:
            raise InputError(f"{flag(field.name)}: only {' and '.join(verbs)} read{'s' * (len(verbs) == 1)} it")


def make_settings(
    modality: str, given: dict[str, Any], recipe: dict[str, Any], config_class: type | None = None
) -> Any:
    """Make the modality's `Settings` from what the user gave, the rest from a recipe.

    Args:
        modality: its name.
        given: the user's values.
        recipe: values of fields that are open.
        config_class: the verb's own options, one of which may have been meant.

    Raises:
        InputError: the modality has no such option.
    """
    settings_class = registry.settings_class(modality)
    known = {field.name for field in fields(settings_class)}
    for name in given.keys() - known:
        listed = f"not an option of modality '{modality}', which has {', '.join(sorted(known))}"
        verb = () if config_class is None else [field.name for field in fields(config_class)]
        raise InputError(f"{flag(name)}: {listed}{did_you_mean(name, [*known, *verb])}")
    return fill(settings_class(**given), recipe)


def embedded_base(modality: str) -> str:
    """Find the folder of the base that comes with hypergen.

    Raises:
        InputError: there is no such modality, or it has no base.
    """
    registry.settings_class(modality)
    folder = Path(str(resources.files("hypergen") / "assets" / f"{modality}-base"))
    if not folder.is_dir():
        raise InputError(f"--modality {modality}: has no embedded base; give --model")
    return str(folder)


def base_of(folder: Path, base: object, name: str, hint: str = "", *, is_typed: bool = False) -> str:
    """Find the base of a run.

    Args:
        folder: of the run.
        base: what its record or the user says.
        name: modality of the run.
        hint: what the user can do where nobody says it.
        is_typed: the user says it. What a record says may be a stranger's: the hub is not asked for that.

    Raises:
        InputError: nobody says it, it is not there any more, unfinished, or of another modality; or only the hub has
            it, and the user did not name it.

    Returns:
        What the adapter loads.
    """
    if not isinstance(base, str):
        raise InputError(f"{folder}: does not say which base it started from{hint}")
    if base == name:
        return embedded_base(name)
    path = Path(base)
    if not registry.is_named(base):
        is_there = os.path.exists(path)  # also where the name is too long for a file
        if path.is_absolute() and not is_there:
            raise InputError(f"{folder}: its base {base} is not there{hint}")
        if not (is_typed or is_there or is_cached(base)):
            where = f"which is not on this machine{hint or '; fetch it first'}"
            raise InputError(f"{folder}: its record names {base} as its base, {where}")
        check_finished(path)
    source, found = registry.identify(base)
    if found not in (None, name):
        raise InputError(f"base {base}: is of modality '{found}', {folder} of '{name}'")
    return source


def modality_of(asked: str | None, model: str | None) -> tuple[str, str | None]:
    """Determine the modality: the one that the user names or that the model tells.

    Returns:
        It, and the model as the adapter loads it (`registry.identify`), where there is one.

    Raises:
        InputError: neither tells, or the two differ.
    """
    source, found = registry.identify(model) if model else (None, None)
    if source is not None and not registry.is_named(source):
        check_finished(Path(source))
    if asked in registry.modalities().keys() - registry.OWN and source and registry.told(source) is None:
        found = asked  # a guess yields to the user; our own modalities recognize their models
    if asked is not None and found is not None and asked != found:
        raise InputError(f"--modality {asked}: {model} is of modality '{found}'")
    name = asked or found
    if name is None:
        where = f"{model}: {_why_unknown(Path(model))}; " if model else ""
        hint = "" if model else " (no other option is)"
        raise InputError(f"{where}--modality is needed: {', '.join(registry.modalities())}{hint}")
    return name, source


def _why_unknown(model: Path) -> str:
    """Say why a model does not tell its modality."""
    if model.is_dir():
        return f"does not tell its modality{_what_is_inside(model)}"
    if model.is_file():
        return f"is a file, and none that is a model ({', '.join(registry.model_suffixes())})"
    missing = "no such file" if model.suffix.lower() in registry.model_suffixes() else "no such folder"
    return missing + did_you_mean(str(model), registry.all_named_bases())


def _what_is_inside(folder: Path) -> str:
    """Say which part of a folder is a model that could be named instead; nothing where none is."""
    suffixes, found = registry.model_suffixes(), []
    with suppress(OSError):
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes or _is_model(path))
    return f" (no config.json), but {found[0]} may be what you mean" if found else " (no config.json)"


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECORD, "config.json"))


def stored_settings(model: str, asked: str | None, given: dict[str, Any]) -> tuple[str, str, Any]:
    """Read modality and settings of a run, base or hub model from its record, with what the user gave on top.

    A setting that neither has stays open, so that the adapter can take what suits the model.

    Returns:
        The model as the adapter loads it (`registry.identify`), its modality, and the settings.
    """
    name, found = modality_of(asked, model)
    source = found or model
    stored = read_record(source).get("settings", {})
    if not isinstance(stored, dict):
        raise InputError(f"{Path(source) / RECORD}: 'settings' must hold an object")
    return source, name, make_settings(name, stored | given, {})


def read_record(source: str) -> dict[str, Any]:
    """Read `hypergen.json` of a run or base; empty for any other model."""
    return {} if registry.is_named(source) else read_optional(Path(source) / RECORD) or {}


def read_card(adapter: Adapter, modality: str, model: str | None) -> Mapping[str, Any]:
    """Read the card of a base that hypergen knows: the embedded one (no model) or a named one; empty for any other."""
    return read_record(embedded_base(modality)) if model is None else adapter.card(source=model)


def fit_recipe(card: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Choose the recipe for a base: its card's values for this kind of data, else the paper's.

    A modality's own options that the card leaves open stay so: the adapter takes what suits the model.
    """
    recipes = card.get("fit", {})
    of_card: dict[str, Any] = recipes.get(data, recipes.get("data", {}) if data != OWN else {})
    return PAPER_RECIPE | of_card


def read_items(
    adapter: Adapter, settings: Any, config: FitConfig, objects: Objects
) -> tuple[Sequence[Item] | None, Sequence[Item] | None]:
    """Read training and held-out items; None where they are sampled from the base."""

    def read(option: str, source: str) -> Sequence[Item]:
        return objects.read(adapter, option, source, settings, config.skip_bad)

    from hypergen.data.splits import split_items
    from hypergen.objects import are_ids

    items = None if config.data == OWN else read("data", config.data)
    prompts = config.prompts or (adapter.DEFAULT_PROMPTS if config.data == OWN else None)
    if prompts == OWN or (prompts is None and items is None):
        _check_drawn(config)
    if prompts is not None:
        return items, None if prompts == OWN else read("prompts", prompts)
    if items is None:
        return None, None
    count = num_held_out(config)

    def cut(item: Item) -> tuple[Item, Item] | None:
        return None if are_ids([item]) else adapter.cut(item=item, count=count, settings=settings)

    return split_items(items, count, config.seed, config.data, "--prompts", cut=cut)


def _check_drawn(config: FitConfig) -> None:
    """Refuse to draw more held-out sequences from the base than training ones: each takes a decoding of its own."""
    most = max(config.num_samples or 0, HELD_OUT_SAMPLES)
    if num_held_out(config) > most:
        allowed = f"at most {most} are drawn from the base, as many as --num-samples; name a file with --prompts"
        raise InputError(f"--held-out-samples {config.held_out_samples}: {allowed}")


def num_held_out(config: FitConfig) -> int:
    """Count the prompts of the comparison, at most."""
    return HELD_OUT_SAMPLES if config.held_out_samples is None else config.held_out_samples


def fit_plan(config: ResolvedFit, count: int) -> Plan:
    """Plan the hyperfitting of `count` sequences."""
    from hypergen.training.batch_order import steps_per_epoch
    from hypergen.training.plan import Plan

    per_epoch = steps_per_epoch(count, config.batch_size)
    every = config.checkpoint_every
    return Plan(
        steps=config.epochs * per_epoch,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        target_loss=config.target_loss,
        target_accuracy=config.target_accuracy,
        last_layers=config.last_layers,
        precision=config.precision,
        pretraining=False,
        micro_batch_size=config.micro_batch_size,
        recompute=config.recompute,
        checkpoint_every=0 if every is None else every * per_epoch,
        checkpoint_seconds=CHECKPOINT_SECONDS if every is None else math.inf,
    )


def pretrain_plan(config: PretrainConfig) -> Plan:
    """Plan the training of a new base: all layers, no stop but the steps."""
    from hypergen.training.plan import Plan

    return Plan(
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        target_loss=0.0,
        target_accuracy=None,
        last_layers=0,
        precision=config.precision,
        pretraining=True,
        micro_batch_size=None,
        recompute=False,
        checkpoint_every=config.checkpoint_every,
        checkpoint_seconds=math.inf,
    )


@dataclass(frozen=True)
class ResolvedExport:
    """Hold the options of an export, none of them open."""

    format: str
    type: str
    file: Path

    @classmethod
    def of(cls, config: ExportConfig, modality: str, source: Path) -> ResolvedExport:
        """Choose what the user left open, and check that the file can be made.

        Args:
            config: what the user gave.
            modality: of the model.
            source: the run or base.

        Raises:
            InputError: the modality has no such format, the format no such type, or the file is there already.
        """
        formats = registry.export_formats(modality)
        name = config.format or next(iter(formats), None)
        if name is None or name not in formats:
            where = "export" if name is None else f"--format {name}"
            raise InputError(f"{where}: modality '{modality}' is exported to {', '.join(formats) or 'no format'}")
        types = formats[name].types
        kind = config.type or types[0]
        if kind not in types:
            raise InputError(f"--type {kind}: must be {' or '.join(types)}")
        file = _export_file(source, kind, formats[name].suffix) if config.output is None else Path(config.output)
        _check_export_file(file, formats[name].suffix)
        return cls(name, kind, file)


def _export_file(source: Path, kind: str, suffix: str) -> Path:
    """Name a file in the run's folder, or in the working folder where the model has none of its own."""
    if source.is_dir() and not registry.is_named(source):
        return source / f"{source.resolve().name}-{kind}{suffix}"
    return Path(f"{source.stem if source.is_file() else source.name}-{kind}{suffix}")


def _check_export_file(file: Path, suffix: str) -> None:
    """Refuse a file that could not be written, before there is anything to write."""
    with disk_errors(file):
        if file.suffix.lower() != suffix:
            raise InputError(f"--output {file}: must end in {suffix}")
        if not file.parent.is_dir():
            raise InputError(f"--output {file}: folder {file.parent} does not exist")
        if file.exists():
            raise InputError(f"--output {file}: exists already")
