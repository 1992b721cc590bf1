"""Show the progress of long work on standard error: a rich bar on a terminal, plain lines elsewhere.

Both show the count, tokens per second where tokens are counted, the newest loss, and the time left. Text passed in is
escaped, so a file name cannot style or break the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from hypergen.runtime.console import sanitize

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Adds to the count, and shows the newest numbers."""

    def __call__(self, count: int = 1, *, tokens: int = 0, **numbers: float) -> None: ...


@contextmanager
def track(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show the progress of the work inside, which calls `advance(tokens=2048, loss=1.2)` after each step.

    Args:
        label: stands in front; nothing is shown where it is empty.
        total: the count at the end.
        done: what an earlier process did of the total; it takes no part in the time left.
    """
    show = (_bar if sys.stderr.isatty() else _lines) if label else _silent
    with show(sanitize(label), total, done) as advance:
        yield advance


def _describe(started: float, tokens: int, numbers: dict[str, float]) -> str:
    words = [f"{name} {value:.3f}" for name, value in numbers.items()]
    if tokens:
        words.append(f"{tokens / max(time.perf_counter() - started, 1e-9):,.0f} tokens/s")
    return "  ".join(words)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
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
    started, seen = time.perf_counter(), 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(escape(label), total=total, completed=done, words="")

        def advance(count: int = 1, *, tokens: int = 0, **numbers: float) -> None:
            nonlocal seen
            seen += tokens
            progress.update(task, advance=count, words=_describe(started, seen, numbers))

        yield advance


@contextmanager
def _silent(label: str, total: int, done: int) -> Iterator[Advance]:
    yield lambda count=1, *, tokens=0, **numbers: None


@contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Advance]:
    started = printed = time.perf_counter()
    seen, before = 0, done

    def advance(count: int = 1, *, tokens: int = 0, **numbers: float) -> None:
        nonlocal done, seen, printed
        done, seen = done + count, seen + tokens
        now = time.perf_counter()
        if now - printed >= SECONDS_BETWEEN_LINES or done >= total:
            printed = now
            left = (now - started) / max(done - before, 1) * (total - done)
            words = _describe(started, seen, numbers)
            print(f"{label}: {done}/{total}  {words}  {left:.0f} s left", file=sys.stderr, flush=True)

    yield advance
