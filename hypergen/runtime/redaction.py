"""Redact hub tokens and URL credentials from everything that is recorded or printed.

Users type both into options, and records are published. Imports only the standard library.
"""

from __future__ import annotations

import re
from typing import Any

HUB_TOKEN = re.compile(r"hf_(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{10,}|[A-Za-z]{30,})")  # not a folder named hf_checkpoints
USERINFO = re.compile(r"(?<=:/)(/*)[^\s/@]+@")  # a Path makes one slash of two
HIDDEN = "***"


def redact(value: Any) -> Any:
    """Copy texts, lists and dictionaries without hub tokens and without names and passwords of URLs."""
    if isinstance(value, str):
        return USERINFO.sub(rf"\1{HIDDEN}@", HUB_TOKEN.sub(f"hf_{HIDDEN}", value))
    if isinstance(value, dict):
        return {redact(key): redact(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    return value
