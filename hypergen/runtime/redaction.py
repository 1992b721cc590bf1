"""Redact tokens and URL credentials from everything that is recorded or printed.

Users type both into options, and records are published. Imports only the standard library.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
TOKENS = re.compile(
    # Families by their prefixes: those of the hub, then of code hosts. Not a folder named hf_checkpoints.
    r"(?P<prefix>hf_(?:oauth|jwt|app)_|api_org_|gh[oprsu]_|github_pat_|glpat-)[\w.-]{10,}"
    r"|(?P<plain>hf_)(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{10,}|[A-Za-z]{30,})"
)
# The part of a URL before its host: up to the last @ before a slash; behind a colon it may be a password, which people
# type as it is, with slashes and further @. A Path makes one slash of two.
USERINFO = re.compile(r"(?<=:/)(/*)(?:[^\s/@:]*:\S*|[^\s/]*)@")
PARAMETER = re.compile(r"([?&;][\w.-]*(?:token|secret|password|signature|api_?key|access_?key)[\w.-]*=)[^\s&;#]+", re.I)


def redact(value: Any) -> Any:
    """Copy texts, lists and dictionaries without tokens and without names, passwords and tokens of URLs."""
    if isinstance(value, str):
        text = USERINFO.sub(rf"\1{HIDDEN}@", PARAMETER.sub(rf"\1{HIDDEN}", value))
        return TOKENS.sub(lambda found: f"{found['prefix'] or found['plain']}{HIDDEN}", text)
    if isinstance(value, dict):
        return {redact(key): redact(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact(part) for part in value]
    return value
