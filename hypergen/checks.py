"""Refuse a wrong call within a second: all that is known before torch is imported, before files are read and loaded.

The command line checks each call here first; `api.fit` and `api.pretrain` do the same, so that Python gets the same
answer. What is left for later needs an adapter, a model or the items. Imports neither torch nor an adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypergen import registry
from hypergen.config import (
    OWN,
    DecodingConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    GenerateConfig,
    PretrainConfig,
)
from hypergen.data.folders import expanded
from hypergen.data.hub import HUB
from hypergen.errors import InputError, did_you_mean
from hypergen.options import (
    ResolvedExport,
    base_of,
    embedded_base,
    make_settings,
    modality_of,
    read_record,
    require_read,
    stored_settings,
)
from hypergen.runtime.launcher import is_distributed, is_first_rank
from hypergen.storage.atomic import disk_errors
from hypergen.storage.file_names import HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.storage.run_folder import check_output, is_finished, num_stored, stored_file

GIVE_PROMPTS = "; give --prompt or --prompts"


def check_fit(config: FitConfig, given: Mapping[str, Any], in_memory: Collection[str] = ()) -> tuple[FitConfig, str]:
    """Check a fit.

    Args:
        config: what the user gave.
        given: the modality's options among it.
        in_memory: options that describe an object of Python, and name no source.

    Returns:
        The config, with the snapshot in place of a folder of the hub's cache, and the modality.

    Raises:
        InputError: no modality, base, place or source like that, or an option that nobody reads.
    """
    name, model = modality_of(config.modality, config.model)
    if model is None:
        embedded_base(name)
    make_settings(name, dict(given), {}, FitConfig)
    require_read("fit", name, given)
    if config.output is None or not is_finished(Path(config.output), config.resume):
        if config.output is not None and is_first_rank():
            check_output(Path(config.output), config.resume)
        for option in ("data", "prompts"):
            require_source(name, None if option in in_memory else getattr(config, option))
    return replace(config, model=model), name


def check_pretrain(config: PretrainConfig, given: Mapping[str, Any], in_memory: Collection[str] = ()) -> None:
    """Check a pretraining.

    Args:
        config: what the user gave.
        given: the modality's options among it.
        in_memory: options that describe an object of Python, and name no source.

    Raises:
        InputError: no modality, place or source like that, an option that nobody reads, or one of several processes.
    """
    if is_distributed():
        raise InputError("pretrain: runs in one process; fit takes several")
    make_settings(config.modality, dict(given), {}, PretrainConfig)
    require_read("pretrain", config.modality, given)
    if is_finished(Path(config.output), config.resume):
        return
    check_output(Path(config.output), config.resume)
    for option in ("data", "held_out"):
        require_source(config.modality, None if option in in_memory else getattr(config, option))


def check_generate(
    run: str | None, config: GenerateConfig, decoding: DecodingConfig, given: Mapping[str, Any]
) -> tuple[str, str]:
    """Check which model continues what.

    Args:
        run: folder, name, file or hub id; None is the embedded base of `config.modality`.
        config: prompts and output.
        decoding: the strategy.
        given: the modality's options that were typed.

    Returns:
        The folder, name, file or id, and the modality.

    Raises:
        InputError: no model, place or source like that, fewer prompts than --count, or an option that nobody reads.
    """
    if run is None and config.modality is None:
        raise InputError(f"generate: needs RUN, or --modality ({', '.join(registry.MODALITIES)}) for its embedded base")
    model = embedded_base(str(config.modality)) if run is None else run
    run, name, _ = stored_settings(model, config.modality, dict(given))
    require_read("generate", name, given)
    _check_target(config.output)
    require_source(name, config.prompts)
    if not config.prompts:
        stored = 0 if config.prompt else num_stored(Path(run), HELD_OUT_TOKENS, GIVE_PROMPTS)
        require_prompts(config.count, len(config.prompt) or stored)
    if decoding.block_citations:
        stored_file(Path(run), TRAINING_TOKENS)
    if config.interpolate is not None:
        base_of(Path(run), read_record(run).get("base"), name)
    return run, name


def check_evaluate(run: str, config: EvaluateConfig, output: str | None) -> str:
    """Check a comparison.

    Args:
        run: folder of a hyperfitted run.
        config: what it is compared with.
        output: folder for the records.

    Returns:
        The folder; the snapshot in place of a folder of the hub's cache.

    Raises:
        InputError: no run, base, place or source like that, or fewer held-out sequences than --count.
    """
    if output is not None:
        check_output(Path(output), resume=False)
    run = registry.identify(run).source
    folder = Path(run)
    stored_file(folder, TRAINING_TOKENS)
    stored = num_stored(folder, HELD_OUT_TOKENS)
    _, name, _ = stored_settings(run, None, {})
    recorded, is_typed = read_record(run).get("base"), config.baseline is not None
    base_of(folder, config.baseline or recorded, name, "; give --baseline", is_typed=is_typed)
    require_source(name, config.data)
    if config.completions is not None and not Path(config.completions).exists():
        raise InputError(f"--completions {config.completions}: no such file")
    if config.data is None and config.count is not None and stored < config.count:
        raise InputError(f"--count {config.count}: there are {stored} prompts that were not trained on")
    return run


def check_export(run: str, config: ExportConfig, modality: str | None) -> tuple[str, str]:
    """Check which model is exported to what.

    Args:
        run: folder, name, file or hub id.
        config: what the user gave.
        modality: for a hub id.

    Returns:
        The folder, name, file or id, and the modality.

    Raises:
        InputError: nothing like that is there, nothing tells the modality, or it has no such format or type.
    """
    run, name, _ = stored_settings(run, modality, {})
    ResolvedExport.of(config, name, Path(run))
    return run, name


def require_prompts(count: int | None, available: int) -> None:
    """Refuse a --count that exceeds the prompts, with the number that there are."""
    if count is not None and available < count:
        raise InputError(f"--count {count}: there are {available} prompts")


def require_source(modality: str, source: str | None) -> None:
    """Refuse a source of items that is not there; what a file holds, its reader checks.

    Raises:
        InputError: it is neither built in, nor of the hub, nor a file or folder.
    """
    built_in = registry.built_in_sources(modality)
    if source is None or source == OWN or source.startswith(HUB) or source.partition(":")[0] in built_in:
        return
    is_there = True
    with suppress(OSError, ValueError):  # no name for a file, as the reader will say
        is_there = expanded(source).exists()
    if not is_there:
        near = did_you_mean(source, (*built_in, OWN))
        raise InputError(f"{source}: no such file or folder; allowed are {registry.sources(modality)}{near}")


def _check_target(output: str | None) -> None:
    """Refuse an output that could not be written, before there is anything to write."""
    if output is None:
        return
    target = Path(output)
    with disk_errors(target):
        if target.suffix and not target.parent.is_dir():
            raise InputError(f"--output {target}: folder {target.parent} does not exist")
        if target.suffix and target.exists():
            raise InputError(f"--output {target}: exists already")
    if not target.suffix:
        check_output(target, resume=False)
