"""Whether the Hugging Face hub can be asked at all, so that an offline machine is told at once, without retries.

Imports only the standard library. Does not know: models, data sets, what is in the local cache.
"""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import urlsplit

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SECONDS_TO_WAIT = 5.0
TRUE_WORDS = {"1", "on", "yes", "true"}


def is_offline() -> bool:
    """True where the user says so (HF_HUB_OFFLINE) or the hub's host has no address; a proxy is taken to work."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE_WORDS:
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


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of what a library says, cut to a length that fits into a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:longest].rstrip(" .:")
