"""List the files of a folder with their SHA-256, and compare a folder with its list."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hypergen.errors import CheckpointError
from hypergen.storage.file_names import MANIFEST

FORMAT = 1


def build_manifest(folder: Path) -> dict[str, Any]:
    """List every file below the folder, by its relative path, with size and digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files}
    return {"format": FORMAT, "files": names}


def check_manifest(folder: Path) -> set[str]:
    """Compare every file that the manifest lists, and return their names.

    Raises:
        CheckpointError: the manifest is missing or unreadable, or a file differs from it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder / MANIFEST}: format {manifest['format']}, this version reads {FORMAT}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: missing or not readable") from error
    for name, (size, digest) in listed.items():
        if not _is_as_listed(folder / name, size, digest):
            raise CheckpointError(f"{folder / name}: missing, or its content is not what the manifest says")
    return set(listed)


def _is_as_listed(path: Path, size: object, digest: object) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size and _digest(path) == digest
    except OSError:  # the disk does not give it
        return False


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
