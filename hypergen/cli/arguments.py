"""Prepare arguments for the parser, and put its complaints into one line: `--config FILE`, unknown flags.

Imports only the standard library and hypergen's own light modules, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypergen.config import flag
from hypergen.errors import InputError
from hypergen.storage.strict_json import read_limited, read_object

BOX = "╭╮╰╯─│┃━┌┐└┘+-|"  # drawn in one of several alphabets
NOT_A_NUMBER = re.compile(r"^Error parsing (--\S+): .*?(INT|int\(\)|float\b|FLOAT)[^']*'([^']*)'.*")


def with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the flags it holds; typed flags win."""
    places = [place for place, argument in enumerate(arguments) if argument.split("=")[0] == "--config"]
    if not places:
        return arguments
    first, (name, _, value) = places[0], arguments[places[0]].partition("=")
    if len(places) > 1 or not (value or arguments[first + 1 :]):
        raise InputError(f"{name}: needs one .json or .toml file")
    typed = arguments[:first] + arguments[first + (1 if value else 2) :]
    known = typed_flags(typed)
    read = _read_config(Path(value or arguments[first + 1]))
    return typed + [part for key, value in read.items() if flag(key) not in known for part in _as_flag(key, value)]


def typed_flags(arguments: Sequence[str]) -> set[str]:
    """List the flags among these, `--no-x` as `--x`."""
    names = (argument.split("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--"))
    return {name.replace("--no-", "--", 1) for name in names}


def _read_config(path: Path) -> dict[str, Any]:
    where = f"--config {path}"
    if path.suffix != ".toml":
        return read_object(path, where)
    try:
        return tomllib.loads(read_limited(path, where).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: is not TOML ({error})") from error


def _as_flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no-{name}")]
    if isinstance(value, dict):
        raise InputError(f"--config: {name} must be one value or a list")
    return [flag(name), *map(str, value)] if isinstance(value, list) else [f"{flag(name)}={value}"]


def check_flags(verb: str, arguments: list[str], known: set[str]) -> None:
    """Name an unknown flag and the nearest known one."""
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and not typed_flags([name]) & known:
            near = [f"; did you mean {one}?" for one in difflib.get_close_matches(name, known, 1)]
            raise InputError(f"{name}: unknown option of {verb}{''.join(near)}")


def one_line(box: str) -> str:
    """Extract the sentence inside the box that the parser draws, without its heading and help text."""
    words = [word for word in box.split() if word.strip(BOX)]
    text = " ".join(words).split(" For full helptext")[0].split(" Argument helptext")[0]
    text = re.sub(r"^(Parsing error|Value error|Unrecognized options|Invalid choice|Missing \w+) (?=\w+ )", "", text)
    text = re.sub(r"^Required options Missing from (hypergen \w+):", r"\1 needs", text)
    text = re.sub(r"^Error parsing [A-Z_]\S* ", "", text)  # of a whole dataclass, whose own message follows
    if found := NOT_A_NUMBER.match(text):
        text = f"{found[1]} '{found[3]}': must be a {'whole ' if found[2].lower().startswith('int') else ''}number"
    return text or "wrong arguments; see hypergen --help"
