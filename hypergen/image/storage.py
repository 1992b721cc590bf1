"""Where image models lie: folders, or snapshots of the hub; and the modes of their files.

Does not know: what is in a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from hypergen.errors import InputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SAFE_FILES = ["*.safetensors", "*.json"]


def locate(name: str) -> Path:
    """A folder as it is, or the local snapshot of a hub id, downloaded where the hub can be reached.

    Raises:
        InputError: neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{name}: is a file; a base is a folder or the id of a model on the hub")
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name}: no such folder")
    try:
        return Path(snapshot_download(name, allow_patterns=SAFE_FILES))
    except Exception as error:  # whatever network and hub raise; the user can only read it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: no such folder, and the hub does not give it ({reason})") from None


def follow_umask(folder: Path) -> None:
    """safetensors creates files that only their owner can read; give them the modes any new file would have."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)
