"""Read arguments: options out of dataclasses, `--config FILE`, values that look like options, suggestions for typos.

An option is a field of a dataclass; its type says what it takes. What is wrong is one line that names the option, the
value and what is allowed. Imports only the standard library and hypergen's own light modules: `--help` is quick.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypergen.config import flag
from hypergen.errors import InputError, did_you_mean
from hypergen.storage.strict_json import read_limited, read_object

FLAG = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)  # what may be an option; "--- chapter" is a value
NUMBERS = {int: "a whole number", float: "a number"}
TAKES = {"nothing": "nothing", "one": "one value", "several": "values"}


@dataclass(frozen=True)
class Option:
    """Describe an option: a field of a dataclass, and the type of its value, or of each of its values."""

    field: Field[Any]
    owner: type
    kind: Any
    takes: Literal["nothing", "one", "several"]

    @property
    def flag(self) -> str:
        """How it is typed."""
        return flag(self.field.name)

    @property
    def is_required(self) -> bool:
        """Whether the field has no default."""
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def is_nested(self) -> bool:
        """Whether the field holds a dataclass, whose fields are the options."""
        return is_dataclass(self.kind)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed; none where any is."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def value(self, text: str) -> Any:
        """Convert what was typed.

        Raises:
            InputError: it is empty, no number, or none of the words that are allowed.
        """
        if self.kind in NUMBERS:
            try:
                return self.kind(text)
            except ValueError:
                raise InputError(f"{self.flag} '{text}': must be {NUMBERS[self.kind]}") from None
        if self.choices and text not in self.choices:
            allowed = f"must be {' or '.join(self.choices)}{did_you_mean(text, self.choices)}"
            raise InputError(f"{self.flag} '{text}': {allowed}")
        if not text and self.takes == "one":  # a shell variable that was never set
            raise InputError(f"{self.flag}: is empty; leave it out for its default")
        return text


def options_of(owner: type) -> dict[str, Option]:
    """List the options of a dataclass by flag."""
    types = get_type_hints(owner)
    return {flag(one.name): _option(one, owner, types[one.name]) for one in fields(owner)}


def _option(field: Field[Any], owner: type, annotation: Any) -> Option:
    if annotation is bool:
        return Option(field, owner, bool, "nothing")
    if get_origin(annotation) is tuple:
        return Option(field, owner, get_args(annotation)[0], "several")
    if isinstance(annotation, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return Option(field, owner, annotation, "one")


def with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the flags it holds; typed flags win."""
    places = [place for place, argument in enumerate(arguments) if argument.split("=")[0] == "--config"]
    if not places:
        return arguments
    first, (name, _, value) = places[0], arguments[places[0]].partition("=")
    if len(places) > 1 or not (value or arguments[first + 1 :]):
        raise InputError(f"{name}: needs one .json or .toml file")
    typed = arguments[:first] + arguments[first + (1 if value else 2) :]
    known = {_name(argument) for argument in typed if argument.startswith("--")}
    read = _read_config(Path(value or arguments[first + 1]))
    return typed + [part for key, value in read.items() if flag(key) not in known for part in _as_flag(key, value)]


def _name(argument: str) -> str:
    """Return the flag of an option as it was typed: `--no-x` is `--x`, `--a_b=3` is `--a-b`."""
    return argument.split("=")[0].replace("_", "-").replace("--no-", "--", 1)


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
    return [f"{flag(name)}={one}" for one in (value if isinstance(value, list) else [value])]


def read(verb: str, arguments: Sequence[str], known: Mapping[str, Option]) -> tuple[list[str], dict[str, Any]]:
    """Read what follows a verb: words that belong to no option, and the values of options by flag.

    Values of an option that takes several are joined; any other is given once.

    Args:
        verb: for messages.
        arguments: what follows it.
        known: its options by flag.

    Raises:
        InputError: an option is unknown, given twice, has a value too many or none, or one that is not allowed.
    """
    words: list[str] = []
    found: dict[str, Any] = {}
    for name, spelled, values in list(_split(verb, arguments, known)):  # all names are known before a value is read
        if not name:
            words += values
            continue
        option = known[name]
        if option.takes == "nothing":
            if values:
                raise InputError(f"{name}: takes no value; {flag('no' + name[1:])} switches it off")
            value: Any = spelled.replace("_", "-") == name
        elif not values:
            raise InputError(f"'{name}': needs a value")
        elif option.takes == "several":
            found[name] = (*found.get(name, ()), *map(option.value, values))
            continue
        else:
            value = option.value(values[0])
        if name in found:
            raise InputError(f"{name}: is given twice; it takes {TAKES[option.takes]}")
        found[name] = value
    return words, found


def _split(verb: str, arguments: Sequence[str], known: Mapping[str, Option]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each option's name, how it is spelled, and its values; a word that belongs to none has an empty name."""
    waiting, empty = list(arguments), ""  # the option before, where it still lacks a value
    while waiting:
        argument = waiting.pop(0)
        if not FLAG.fullmatch(argument):
            yield "", "", [argument]
            continue
        spelled, has_value, value = argument.partition("=")
        name = _name(spelled)
        is_negated = name != spelled.replace("_", "-")
        if name not in known or (is_negated and known[name].takes != "nothing"):
            raise InputError(_unknown(verb, spelled, known, empty))
        takes = known[name].takes
        values = [value] if has_value else _taken(waiting, {"nothing": 0, "one": 1, "several": len(waiting)}[takes])
        empty = "" if values or takes == "nothing" else name
        yield name, spelled, values


def _taken(waiting: list[str], most: int) -> list[str]:
    """Take the values of an option off what follows it, up to the next option."""
    values = list(takewhile(lambda one: not FLAG.fullmatch(one), waiting[:most]))
    del waiting[: len(values)]
    return values


def _unknown(verb: str, name: str, known: Mapping[str, Option], empty: str) -> str:
    """Name an unknown option, the nearest known one, and how it is given as the value that the one before lacks."""
    as_value = f"; as a value of {empty} it is written {empty}={name}" if empty else ""
    return f"{name}: unknown option of {verb}{did_you_mean(name, known)}{as_value}"
