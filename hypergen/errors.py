"""Define the errors that a user can cause, each with the exit code of the command line.

Every message is one line: what, where, the value, what is allowed. `cli` prints it after `hypergen: ` and leaves
with `exit_code`; from Python they are ordinary exceptions. A message is written with the flags of the command line;
where Python called, they become keywords on the way out. Imports only the standard library.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FLAG = re.compile(r"(?<![\w-])(?<!pip install )--(no-)?([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
_flags_are_used: ContextVar[bool] = ContextVar("flags_are_used", default=False)


class HypergenError(Exception):
    """Any failure that hypergen explains in one line."""

    exit_code = 1


class InputError(HypergenError, ValueError):
    """Bad input or configuration; nothing was written."""

    exit_code = 2


class CheckpointError(HypergenError):
    """A run folder without one valid checkpoint to continue from."""

    exit_code = 3


class LockedError(HypergenError):
    """The run folder belongs to another running process."""

    exit_code = 4


class NonFiniteError(HypergenError):
    """Loss or gradient is NaN or infinite; the step was not taken."""

    exit_code = 5


class DiskError(HypergenError):
    """The disk refused a write; what was there before is untouched."""

    exit_code = 6


class Interrupted(KeyboardInterrupt):
    """A signal arrived (SIGINT: 130, SIGTERM: 143, others likewise); the state was saved first.

    No `Exception`, as Python has it: a sweep that goes on after failures must not take it for one.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def in_flags() -> Iterator[None]:
    """Keep the flags in messages inside: the command line was used."""
    token = _flags_are_used.set(True)
    try:
        yield
    finally:
        _flags_are_used.reset(token)


@contextmanager
def in_keywords() -> Iterator[None]:
    """Name options as Python's keywords in the messages of errors that leave the block, unless flags were used."""
    try:
        yield
    except (HypergenError, Interrupted) as error:
        if not _flags_are_used.get():
            error.args = tuple(as_keywords(part) if isinstance(part, str) else part for part in error.args)
        raise


def as_keywords(message: str) -> str:
    """Turn flags into keywords: `--max-new-tokens` -> `max_new_tokens`, `--no-native` -> `native=False`."""
    message = message.replace("--resume continues", "resume=True continues")  # a switch that is to be given
    return FLAG.sub(lambda found: found[2].replace("-", "_") + ("=False" if found[1] else ""), message)


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Suggest, as the end of a message, the allowed word that somebody meant; empty where none is near.

    Initials count, too (`lr` for `learning-rate`), and beginnings.
    """
    bare = {one.lstrip("-"): one for one in allowed}
    typed = word.lstrip("-").lower().replace("_", "-")
    initials = [one for one in bare if "-" in one and "".join(part[:1] for part in one.split("-")) == typed]
    longer = [one for one in bare if typed and one.startswith(typed)]
    near = initials or longer or difflib.get_close_matches(typed, bare, 1)
    return f"; did you mean {bare[near[0]]}?" if near else ""
