"""`--skip-bad N`: up to N bad rows or pictures of a source are passed over, counted, and told in one line.

Does not know: what an item is, why it is bad.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypergen.errors import InputError
from hypergen.report_table import printable
from hypergen.scrub import scrub

Skip = Callable[[InputError], None]


@contextmanager
def skipping(source: str, allowed: int) -> Iterator[Skip]:
    """Gives what a reader calls with the error of each bad item; it returns where the item may be passed over.

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
        line = f"{source}: bad items passed over: {len(skipped)} (--skip-bad {allowed}), the first is {skipped[0]}"
        print(f"hypergen: {printable(scrub(line))}", file=sys.stderr)
