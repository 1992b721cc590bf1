"""List the files of a folder with their SHA-256, and compare a folder with its list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypergen.errors import CheckpointError
from hypergen.runtime.progress import Advance, track
from hypergen.storage.file_names import MANIFEST

FORMAT = 1
MEGABYTE = 10**6
DIFFERS = "missing, or its content is not what the manifest says"
BLOCK = 16 * MEGABYTE  # bytes hashed between two looks at the progress


def build_manifest(folder: Path, *, label: str = "") -> dict[str, Any]:
    """List every file below the folder, by its relative path, with size and digest.

    Args:
        folder: to be listed.
        label: of the progress, in megabytes; empty: none is shown.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {"format": FORMAT, "files": list_files(folder, paths, label=label)}


def list_files(folder: Path, paths: Iterable[Path], *, label: str = "") -> dict[str, dict[str, Any]]:
    """List these files of the folder, by their relative paths, with size and digest.

    Args:
        folder: holds them.
        paths: theirs.
        label: of the progress, in megabytes; empty: none is shown.
    """
    sizes = {path: path.stat().st_size for path in paths}
    with track(label, sum(sizes.values()) / MEGABYTE, transient=True) as advance:
        return {
            str(path.relative_to(folder)): {"bytes": size, "sha256": _digest(path, advance)}
            for path, size in sizes.items()
        }


def check_manifest(folder: Path, *, label: str = "") -> set[str]:
    """Compare every file that the manifest lists, and return their names.

    Args:
        folder: has the manifest.
        label: of the progress, in megabytes; empty: none is shown.

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
    # The sizes come first: those that hold are true, so what an edited manifest says reaches no sum.
    for name, (size, _) in listed.items():
        if not _has_size(folder / name, size):
            raise CheckpointError(f"{folder / name}: {DIFFERS}")
    with track(label, sum(size for size, _ in listed.values()) / MEGABYTE, transient=True) as advance:
        for name, (_, digest) in listed.items():
            if not _has_digest(folder / name, digest, advance):
                raise CheckpointError(f"{folder / name}: {DIFFERS}")
    return set(listed)


def _has_size(path: Path, size: object) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:  # the disk does not give it
        return False


def _has_digest(path: Path, digest: object, advance: Advance) -> bool:
    try:
        return _digest(path, advance) == digest
    except OSError:
        return False


def _digest(path: Path, advance: Advance) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block) / MEGABYTE)
    return digest.hexdigest()
