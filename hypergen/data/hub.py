"""Load data sets of the Hugging Face hub, find models in its cache, and report an offline machine at once.

The library `datasets` is optional and slow to import, so it is imported where a data set is loaded.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from hypergen.data.folders import expanded
from hypergen.errors import InputError
from hypergen.runtime.console import first_line, warn

HUB = "hub:"  # how a source on the hub begins
CACHED = re.compile(r"models--(.+)")  # how a folder of the hub's cache is called
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SECONDS_TO_WAIT = 5.0
TRUE_WORDS = {"1", "on", "yes", "true"}


def is_told_offline() -> bool:
    """Tell whether the user forbids the hub (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE_WORDS


def is_offline() -> bool:
    """Tell whether the hub is forbidden or its host does not answer; a proxy is taken to work."""
    if is_told_offline():
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=SECONDS_TO_WAIT).close()
    except OSError:
        return True
    return False


def is_cached(name: str) -> bool:
    """Tell whether the configuration of a model on the hub was fetched before, and no hub need be asked for it."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no hub id
        return False


def snapshot(source: str) -> str:
    """Find the snapshot inside a folder of the hub's cache, `models--ORG--NAME`; any other source stays.

    Raises:
        InputError: the folder has none, because its download was never finished.
    """
    folder = expanded(source)
    name = CACHED.fullmatch(folder.name)
    try:
        if name is None or not folder.is_dir() or (folder / "config.json").exists():
            return source
        found = sorted((folder / "snapshots").glob("*/"), key=lambda path: path.stat().st_mtime)
    except OSError:  # whoever reads it will say why
        return source
    with suppress(OSError):
        current = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        found.sort(key=lambda path: path.name == current)
    if not found:
        raise InputError(f"{source}: is a folder of the hub's cache without a snapshot of {name[1].replace('--', '/')}")
    warn(f"{source}: is a folder of the hub's cache; its snapshot {found[-1].name[:12]} is used")
    return str(found[-1])


def load_hub_rows(source: str, *, limit: int | None = None) -> Any:
    """Load the rows of `hub:ID[:SPLIT]`, by default of the split `train`.

    Args:
        source: the whole source, for messages as well.
        limit: stream this many rows at most, so that no more than those is downloaded; None downloads all.

    Returns:
        A list of rows where there is a limit, else a `datasets.Dataset`.

    Raises:
        InputError: `datasets` is not installed, there is no such data set, or it cannot be reached or read.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source}: needs the package datasets (pip install 'datasets>=4')") from error
    name, _, split = source.removeprefix(HUB).partition(":")
    if not HUB_ID.fullmatch(name):  # a path would be read from this machine
        raise InputError(f"{source}: has no data set id; it is written hub:ID or hub:ID:SPLIT")
    if is_offline():
        raise InputError(f"{source}: the hub cannot be reached from here")
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=limit is not None)
        return rows if limit is None else list(islice(rows, limit))
    except Exception as error:  # whatever network, hub and parsers raise; the user can only read it
        raise InputError(f"{source}: cannot be loaded ({first_line(error)})") from error
