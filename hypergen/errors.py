"""Define the errors that a user can cause, each with the exit code of the command line.

Every message is one line: what, where, the value, what is allowed. `cli` prints it after `hypergen: ` and leaves
with `exit_code`; from Python they are ordinary exceptions. Imports only the standard library.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


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


class Interrupted(HypergenError):
    """A signal arrived (SIGINT: 130, SIGTERM: 143, others likewise); the state was saved first."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


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
