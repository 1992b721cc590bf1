"""Run `hypergen export`: write a model into a file of another program's format."""

from __future__ import annotations

from pathlib import Path

from hypergen import api
from hypergen.config import ExportConfig
from hypergen.options import ResolvedExport, refuse_empty, stored_settings
from hypergen.runtime.console import sanitize
from hypergen.storage.manifest import check_manifest


def export(run: str, config: ExportConfig, *, modality: str | None, allow_pickle_weights: bool, verify: bool) -> None:
    """Check the options, then load the model, which need not be trained, and write it."""
    refuse_empty(config)
    run, name, _ = stored_settings(run, modality, {})
    ResolvedExport.of(config, name, Path(run))
    if verify:
        check_manifest(Path(run), label="verify (MB)")
    loaded = api.load(run, modality=name, device="cpu", allow_pickle_weights=allow_pickle_weights)
    print(f"wrote {sanitize(str(loaded.export(config)))}")
