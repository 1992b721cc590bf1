"""Secrets that end up in what a user typed, taken out of what is recorded or printed. Only the standard library.

Does not know: which option a text came from.
"""

from __future__ import annotations

import re
from typing import Any

HUB_TOKEN = re.compile(r"hf_(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{10,}|[A-Za-z]{30,})")  # not a folder named hf_checkpoints
USERINFO = re.compile(r"(?<=:/)(/*)[^\s/@]+@")  # a Path makes one slash of two
HIDDEN = "***"


def scrub(value: Any) -> Any:
    """The same texts, lists and dictionaries without hub tokens and without names and passwords of URLs."""
    if isinstance(value, str):
        return USERINFO.sub(rf"\1{HIDDEN}@", HUB_TOKEN.sub(f"hf_{HIDDEN}", value))
    if isinstance(value, dict):
        return {scrub(key): scrub(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(part) for part in value]
    return value
