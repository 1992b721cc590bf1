"""Read what the model card of a base says of its license and its place on the hub, for the card of a run.

A card is anybody's text: only the few fields of its head that are single, plain words are taken, and no YAML parser
ever sees it.
"""

from __future__ import annotations

import re
from pathlib import Path

from hypergen.data.folders import expanded
from hypergen.data.hub import HUB_ID, is_offline
from hypergen.runtime.redaction import redact
from hypergen.storage.file_names import CARD

LONGEST_HEAD = 65536  # bytes
HEAD = re.compile(r"\A\s*---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
ALLOWED = {
    "base_model": HUB_ID,
    "license": re.compile(r"[a-z0-9][a-z0-9.-]{0,63}"),
    "license_name": re.compile(r"[\w][\w.-]{0,63}", re.ASCII),
    "license_link": re.compile(r"[\w][\w.:/-]{0,199}", re.ASCII),
}


def base_card(base: str) -> dict[str, str]:
    """Find license and nearest model on the hub of a base, a folder or a hub id; what is not known is left out.

    Returns:
        Some of `license`, `license_name`, `license_link` (the base's) and `base_model`: the base where that is a hub
        id, else the model that the card in its folder names.
    """
    folder, known = expanded(base), {}
    if folder.is_dir():
        path: Path | None = folder / CARD
    elif HUB_ID.fullmatch(base):
        path, known = _hub_card(base), {"base_model": base}
    else:
        path = None
    found: dict[str, str] = redact(_head(_text(path) if path is not None else "") | known)
    return found


def _text(path: Path) -> str:
    """Read the beginning of a card; empty where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_HEAD).decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""


def _head(card: str) -> dict[str, str]:
    """Read the fields of `ALLOWED` from the head of a card, where they stand as one plain or quoted word."""
    head = HEAD.match(card)
    lines = re.findall(r"^(\w+):[ \t]*(['\"]?)(\S*)\2[ \t]*$", head[1] if head else "", re.MULTILINE)
    return {name: value for name, _, value in lines if name in ALLOWED and ALLOWED[name].fullmatch(value)}


def _hub_card(name: str) -> Path | None:
    """Fetch the card of a model on the hub, from the local cache where the hub cannot be reached."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, CARD, local_files_only=is_offline()))
    except Exception:  # whatever network and hub raise: a card is not worth a failed run
        return None
