"""Show the progress of long work on standard error: a rich bar on a terminal, plain lines elsewhere.

Both show the count, tokens per second where tokens are counted, the newest loss, and the time left. Text passed in is
escaped, so a file name cannot style or break the terminal.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, cast

from hypergen.runtime.console import STANDARD_ERROR, StandardError, is_quiet, sanitize

SECONDS_BETWEEN_LINES = 10.0
DECIMALS = 6  # of a count that is shown: parts of one add up to it in spite of rounding


class Advance(Protocol):
    """Adds to the count, also by a part of one, and shows the newest numbers."""

    def __call__(self, count: float = 1, *, tokens: int = 0, **numbers: float) -> None: ...


def no_progress(count: float = 1, *, tokens: int = 0, **numbers: float) -> None:
    """Show nothing: the `Advance` of work that nobody watches."""


@contextmanager
def track(label: str, total: float, done: int = 0, *, transient: bool = False) -> Iterator[Advance]:
    """Show the progress of the work inside, which calls `advance(tokens=2048, loss=1.2)` after each step.

    Args:
        label: stands in front; nothing is shown where it is empty, or where all is quiet (`console.quiet`).
        total: the count at the end.
        done: what an earlier process did of the total; it takes no part in the time left.
        transient: a passing phase: its bar vanishes at its end, and plain lines appear only where it takes as long as
            there is between two of them.
    """
    if not label or is_quiet():
        yield no_progress
        return
    show = _bar if sys.stderr.isatty() else _lines
    with show(sanitize(label), total, done, transient) as advance:
        yield advance


def _describe(started: float, tokens: int, numbers: dict[str, float]) -> str:
    words = [f"{name} {value:.3f}" for name, value in numbers.items()]
    if tokens:
        words.append(f"{tokens / max(time.perf_counter() - started, 1e-9):,.0f} tokens/s")
    return "  ".join(words)


@contextmanager
def _bar(label: str, total: float, before: int, transient: bool) -> Iterator[Advance]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    started, done, seen = time.perf_counter(), float(before), 0
    console = Console(file=cast(IO[str], StandardError(sys.stderr)))  # which rich replaces while the bar lives
    with Progress(*columns, console=console, transient=transient) as progress:
        task = progress.add_task(escape(label), total=total, completed=before, words="")

        def advance(count: float = 1, *, tokens: int = 0, **numbers: float) -> None:
            nonlocal done, seen
            done, seen = done + count, seen + tokens
            progress.update(task, completed=round(done, DECIMALS), words=_describe(started, seen, numbers))

        yield advance


@contextmanager
def _lines(label: str, total: float, before: int, transient: bool) -> Iterator[Advance]:
    started = printed = time.perf_counter()
    done, seen = float(before), 0

    def advance(count: float = 1, *, tokens: int = 0, **numbers: float) -> None:
        nonlocal done, seen, printed
        done, seen = done + count, seen + tokens
        now, count_done = time.perf_counter(), round(done, DECIMALS)
        is_over = count_done >= total and not (transient and now - started < SECONDS_BETWEEN_LINES)
        if now - printed >= SECONDS_BETWEEN_LINES or is_over:
            printed = now
            left = (now - started) * (total - count_done) / (done - before) if done > before else math.inf
            words = _describe(started, seen, numbers)
            print(
                f"{label}: {int(count_done)}/{int(total)}  {words}  {left:.0f} s left", file=STANDARD_ERROR, flush=True
            )

    yield advance
