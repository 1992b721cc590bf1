"""Skip up to N bad items of a source (`--skip-bad N`), count them, and say so in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypergen.errors import InputError
from hypergen.runtime.console import warn

Skip = Callable[[InputError], None]  # takes the error of a bad item; raises where it may not be skipped


@contextmanager
def skip_bad_rows(source: str, allowed: int) -> Iterator[Skip]:
    """Yield the function that a reader calls with the error of each bad item; warn afterwards how many were skipped.

    Raises:
        InputError: the error itself, once more than `allowed` items are bad.
    """
    skipped: list[str] = []

    def skip(error: InputError) -> None:
        if len(skipped) == allowed:
            others = f" (and {allowed} before it, --skip-bad {allowed})" if allowed else ""
            raise InputError(f"{error}{others}") from None
        skipped.append(str(error))

    yield skip
    if skipped:
        count = f"{len(skipped)} (--skip-bad {allowed})"
        warn(f"{source}: bad items passed over: {count}, the first is {skipped[0]}")
