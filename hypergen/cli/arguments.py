"""Prepare arguments for the parser: `--config FILE`, unknown flags, flags given twice, values that look like flags.

The parser's own complaints are put into one line.

Imports only the standard library and hypergen's own light modules, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from hypergen.config import flag
from hypergen.errors import InputError
from hypergen.storage.strict_json import read_limited, read_object

Takes = Literal["nothing", "one value", "values"]

FLAG = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)  # what may be an option; "--- chapter" is a value
STAYS = re.compile(r"-h?|-[\d.]+(e[+-]?\d+)?|-inf", re.IGNORECASE)  # numbers, and what asks for help
VEIL = "\ue000"  # a private character, put before values that the parser would take for options
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
    _check_keys(read)
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


def _check_keys(read: Mapping[str, Any]) -> None:
    """Refuse two spellings of one option, and another file."""
    seen: dict[str, str] = {}
    for key in read:
        name = flag(key).replace("--no-", "--", 1)
        if name == "--config":
            raise InputError(f"--config: {key} in the file itself is not read; put everything into one file")
        if name in seen:
            raise InputError(f"--config: {seen[name]} and {key} are the same option; give one of them")
        seen[name] = key


def _as_flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag(name) if value else flag(f"no-{name}")]
    if isinstance(value, dict):
        raise InputError(f"--config: {name} must be one value or a list")
    return [f"{flag(name)}={one}" for one in (value if isinstance(value, list) else [value])]


def prepare(verb: str, arguments: Sequence[str], known: Mapping[str, Takes]) -> list[str]:
    """Join all values of an option that takes several, and veil values that look like options (`unveil`).

    Args:
        verb: for messages.
        arguments: what follows the verb.
        known: options of the verb, and what each takes.

    Raises:
        InputError: an option is unknown, or given twice where it takes nothing or one value.
    """
    prepared: list[list[str]] = []
    places: dict[str, list[str]] = {}  # of each option so far, among those
    for name, spelled, values in _split(verb, arguments, known):
        if name not in places:
            prepared.append([*spelled, *map(_veil, values)])
            places[name] = prepared[-1]
        elif not name:
            prepared.append([*map(_veil, values)])
        elif known[name] == "values":
            places[name] += map(_veil, values)
        else:
            raise InputError(f"{name}: is given twice; it takes {known[name]}")
    return [part for group in prepared for part in group]


def _split(
    verb: str, arguments: Sequence[str], known: Mapping[str, Takes]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each option's name, how it stands there, and its values; what belongs to none has an empty name."""
    waiting, empty = list(arguments), ""  # the option before, where it still lacks a value
    while waiting:
        argument = waiting.pop(0)
        if not FLAG.fullmatch(argument):
            yield "", [], [argument]
            continue
        spelled, has_value, value = argument.partition("=")
        (name,) = typed_flags([spelled])
        if name not in known:
            raise InputError(_unknown(verb, spelled, known, empty))
        takes = known[name]
        if has_value:
            values = [VEIL + value if value.lower() == "-h" else value] if takes == "values" else []  # no call for help
            yield name, [spelled] if takes == "values" else [argument], values
            empty = ""
            continue
        values = _taken(waiting, {"nothing": 0, "one value": 1, "values": len(waiting)}[takes])
        empty = "" if values or takes == "nothing" else name
        yield name, [argument], values


def _taken(waiting: list[str], most: int) -> list[str]:
    """Take the values of an option off what follows it, up to the next option."""
    values = list(takewhile(lambda one: not FLAG.fullmatch(one), waiting[:most]))
    del waiting[: len(values)]
    return values


def _veil(value: str) -> str:
    """Hide from the parser that a value begins with a dash; a negative number may."""
    return VEIL + value if value.startswith("-") and not STAYS.fullmatch(value) else value


def unveil(command: Any) -> Any:
    """Take the veils off the values of a parsed command, dataclasses inside included."""
    if is_dataclass(command) and not isinstance(command, type):
        values = {one.name: getattr(command, one.name) for one in fields(command)}
        seen = {name: unveil(value) for name, value in values.items()}
        return replace(command, **seen) if any(seen[name] is not values[name] for name in seen) else command
    if isinstance(command, tuple):
        parts = tuple(map(unveil, command))
        return parts if any(one is not other for one, other in zip(parts, command, strict=True)) else command
    return command.removeprefix(VEIL) if isinstance(command, str) and command.startswith(VEIL) else command


def _unknown(verb: str, name: str, known: Mapping[str, Takes], empty: str) -> str:
    """Name an unknown option, the nearest known one, and how it is given as the value that the one before lacks."""
    near = [f"; did you mean {one}?" for one in difflib.get_close_matches(name, known, 1)]
    as_value = f"; as a value of {empty} it is written {empty}={name}" if empty else ""
    return f"{name}: unknown option of {verb}{''.join(near)}{as_value}"


def one_line(box: str) -> str:
    """Extract the sentence inside the box that the parser draws, without its heading and help text."""
    words = [word for word in box.replace(VEIL, "").split() if word.strip(BOX)]
    text = " ".join(words).split(" For full helptext")[0].split(" Argument helptext")[0]
    text = re.sub(r"^(Parsing error|Value error|Unrecognized options|Invalid choice|Missing \w+) (?=\w+ )", "", text)
    text = re.sub(r"^Required options Missing from (hypergen \w+):", r"\1 needs", text)
    text = re.sub(r"^Error parsing [A-Z_]\S* ", "", text)  # of a whole dataclass, whose own message follows
    if found := NOT_A_NUMBER.match(text):
        text = f"{found[1]} '{found[3]}': must be a {'whole ' if found[2].lower().startswith('int') else ''}number"
    return text or "wrong arguments; see hypergen --help"
