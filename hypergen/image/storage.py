"""Where image models lie on disk: folders or hub snapshots, JSON and safetensors, with errors of one line.

Nothing is unpickled. Does not know: what a weight is for.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
        raise InputError(f"{name}: no such folder, and the hub does not give it ({one_line(error)})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or InputError."""
    if not path.is_file():
        raise InputError(f"{path.parent}: no {path.name}; weights are read from safetensors only")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path, metadata={"format": "pt"})
    follow_umask(path.parent)


def follow_umask(folder: Path) -> None:
    """safetensors creates files that only their owner can read; give them the modes any new file would have."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)


def one_line(error: BaseException, longest: int = 200) -> str:
    """What a library says, on one line and cut to a length that fits into a message."""
    return " ".join(str(error).split())[:longest] or type(error).__name__
