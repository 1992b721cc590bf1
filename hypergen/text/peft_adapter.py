"""Recognize the folder of a PEFT adapter (LoRA and its kin), and merge it into the model that it was trained on.

Such a folder has no `config.json` and only the few weights that differ; `peft` knows how each kind is added up.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from hypergen.data.folders import expanded
from hypergen.errors import InputError
from hypergen.runtime.console import first_line
from hypergen.runtime.dependencies import load_optional
from hypergen.storage.strict_json import read_object
from hypergen.text.checkpoint import quiet
from hypergen.text.config import MODEL_FILES

PEFT = "peft>=0.18"  # the first for transformers 5
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class PeftAdapter:
    """Describe an adapter on disk."""

    folder: Path
    base: str
    """The model that it was trained on: a folder or a hub id."""


def find_adapter(source: str) -> PeftAdapter | None:
    """Find the adapter in a folder that is none of a whole model; None where there is none.

    Raises:
        InputError: it does not name its base, or its weights are not safetensors.
    """
    folder = expanded(source)
    path = folder / MODEL_FILES[0]
    if not path.is_file() or (folder / "config.json").exists():
        return None
    base = read_object(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{path}: base_model_name_or_path must name the model that the adapter is of")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: is a PEFT adapter of {base}, and has no {WEIGHTS}")
    for local in (Path(base), folder / base):  # the second one: where it was saved with its base
        if local.is_dir():
            return PeftAdapter(folder, str(local.absolute()))  # which no named base can be taken for
    return PeftAdapter(folder, base)


def load_peft(adapter: PeftAdapter) -> Any:
    """Import `peft`, before anything else is loaded for this adapter.

    Raises:
        InputError: it is not installed.
    """
    return load_optional("peft", PEFT, f"{adapter.folder}: is a PEFT adapter of {adapter.base}; merging the two")


def merge(causal: PreTrainedModel, adapter: PeftAdapter) -> PreTrainedModel:
    """Add an adapter to the weights of its base, for good.

    Raises:
        InputError: `peft` is missing, the adapter does not fit its base, or it is of a kind that adds nothing to
            weights.
    """
    peft = load_peft(adapter)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft and transformers say to each other
            warnings.filterwarnings("error", "Found missing adapter keys")
            wrapped = peft.PeftModel.from_pretrained(causal, str(adapter.folder), local_files_only=True)
            return cast(PreTrainedModel, wrapped.merge_and_unload(safe_merge=True))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever peft, safetensors and torch raise
        raise InputError(
            f"{adapter.folder}: cannot be merged into its base {adapter.base} ({first_line(error)})"
        ) from error
