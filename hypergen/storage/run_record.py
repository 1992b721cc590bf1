"""Describe a run for `hypergen.json`, and collect what a resumed training must share with the one it continues.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen.config import FitConfig, PretrainConfig, flag
from hypergen.runtime.devices import device_name
from hypergen.runtime.redaction import redact
from hypergen.version import __version__

CORE_LIBRARIES = ("torch", "safetensors")
HELD_OUT = "held-out sequences of SHA-256"
FREE_ON_RESUME = {"output", "resume", "device", "checkpoint_every", "skip_bad", "allow_pickle_weights"}


def run_facts(
    config: FitConfig | PretrainConfig,
    settings: Any,
    tokens: Tensor,
    device: torch.device,
    *,
    libraries: Sequence[str],
    loss_mask: Tensor | None = None,
) -> dict[str, Any]:
    """Collect the facts that `hypergen.json` records of the start of a run, without secrets.

    Args:
        config: the resolved options; its modality is the run's.
        settings: the modality's own options.
        tokens: the training sequences (N, T).
        device: where the model is trained.
        libraries: the distributions that the adapter builds on.
        loss_mask: which of the tokens the loss counts (N, T); None: all.
    """
    facts: dict[str, Any] = {
        "modality": config.modality,
        "settings": asdict(settings),
        "config": asdict(config),
        "data_sha256": tensor_sha256(tokens),
        "sequences": list(tokens.shape),
        "versions": {
            "hypergen": __version__,  # not of a distribution, which has another name
            **{library: metadata.version(library) for library in (*CORE_LIBRARIES, *libraries)},
            "python": platform.python_version(),
        },
        "machine": {
            "device": device_name(device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    if loss_mask is not None:
        facts |= {"loss_mask_sha256": tensor_sha256(loss_mask), "counted_tokens": int(loss_mask[:, 1:].sum())}
    found: dict[str, Any] = redact(facts)
    return found


def fixed_options(config: FitConfig | PretrainConfig, settings: Any) -> dict[str, Any]:
    """Collect, by flag, the options that a resumed training must share with the one that it continues."""
    options = asdict(config) | asdict(settings)
    return redact({flag(name): value for name, value in options.items() if name not in FREE_ON_RESUME})


def data_fingerprint(tokens: Tensor, loss_mask: Tensor | None = None) -> dict[str, str | None]:
    """Fingerprint the training sequences (N, T) and their loss mask, which a resumed one must share as well."""
    of_mask = None if loss_mask is None else tensor_sha256(loss_mask)
    return {"training data of SHA-256": tensor_sha256(tokens), "a loss mask of SHA-256": of_mask}


def held_out_fingerprint(tokens: Tensor, loss_mask: Tensor | None = None) -> dict[str, str]:
    """Fingerprint the held-out sequences (N, T), with which a resumed training must be compared as well."""
    parts = [tensor_sha256(one) for one in (tokens, loss_mask) if one is not None]
    return {HELD_OUT: hashlib.sha256("".join(parts).encode()).hexdigest()}


def differing_option(record: dict[str, Any], fixed: dict[str, Any]) -> str | None:
    """Say in which option a finished run differs from what is asked for now; None where it does in none.

    Args:
        record: of the run.
        fixed: `fixed_options` of now; one that the version which wrote the record did not know counts as equal.
    """
    parts = [record.get(part) for part in ("config", "settings")]
    if not all(isinstance(part, dict) for part in parts):
        return "options that its record does not tell"
    stored = {flag(name): value for part in parts for name, value in (part or {}).items()}
    for name, value in json.loads(json.dumps(fixed)).items():
        if name in stored and stored[name] != value:
            return f"{name} {stored[name]}, not {value}"
    return None


def tensor_sha256(values: Tensor) -> str:
    """Hash the bytes of a tensor on the CPU."""
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def lasting_name(base: str) -> str:
    """Resolve a local base to its absolute path, so that it is found from elsewhere; keep a hub id."""
    return redact(str(Path(base).resolve()) if Path(base).exists() else base)
