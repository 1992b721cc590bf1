"""Run `hypergen export`: write a model into a file of another program's format."""

from __future__ import annotations

from pathlib import Path

from hypergen import api
from hypergen.config import ExportConfig
from hypergen.storage.manifest import check_manifest


def export(run: str, config: ExportConfig, *, modality: str, allow_pickle_weights: bool, verify: bool) -> Path:
    """Load the model, which need not be trained, and write it: -> the file."""
    if verify:
        check_manifest(Path(run), label="verify (MB)")
    loaded = api.load(run, modality=modality, device="cpu", allow_pickle_weights=allow_pickle_weights)
    return loaded.export(config)
