"""Locate the files of an image model: in a folder, or in a snapshot of a model on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from hypergen.data.hub import HUB_ID, is_offline, snapshot
from hypergen.errors import InputError
from hypergen.runtime.console import first_line

SAFE_FILES = ["*.safetensors", "*.json"]
PICKLED_FILES = ["pytorch_model.bin"]


def locate(name: str, allow_pickle_weights: bool = False) -> Path:
    """Return a folder as it is, or a local snapshot: of a folder of the hub's cache, or of a hub id, then downloaded.

    Args:
        name: a folder or an id.
        allow_pickle_weights: download pickled weights, too.

    Raises:
        InputError: neither.
    """
    folder = Path(snapshot(name)).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{name}: is a file; a base is a folder or the id of a model on the hub")
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such folder")
    try:
        patterns = SAFE_FILES + (PICKLED_FILES if allow_pickle_weights else [])
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=is_offline()))
    except Exception as error:  # any of network and hub; the user can only read it
        raise InputError(f"{name}: no such folder, and the hub does not give it ({first_line(error)})") from None
