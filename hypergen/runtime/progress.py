"""Show the progress of long work: a rich bar on a terminal, a bar of its own in a notebook, plain lines elsewhere.

All show the count, tokens per second where tokens are counted, the newest loss, and the time left. Text passed in is
escaped, so a file name cannot style or break the terminal or the page.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import IO, Any, Protocol, cast

from hypergen.runtime.console import STANDARD_ERROR, StandardError, sanitize, warn

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_DRAWINGS = 0.2  # of a notebook's bar, each of which is a message to the browser
DECIMALS = 6  # of a count that is shown: parts of one add up to it in spite of rounding


_is_hidden: ContextVar[bool] = ContextVar("is_hidden", default=False)


class Advance(Protocol):
    """Adds to the count, also by a part of one, and shows the newest numbers."""

    def __call__(self, count: float = 1, *, tokens: int = 0, **numbers: float) -> None: ...


def no_progress(count: float = 1, *, tokens: int = 0, **numbers: float) -> None:
    """Show nothing: the `Advance` of work that nobody watches."""


@contextmanager
def hidden(is_hidden: bool = True) -> Iterator[None]:
    """Show neither progress nor notes inside, for callers that asked for silence; warnings and errors are shown."""
    token = _is_hidden.set(is_hidden or _is_hidden.get())
    try:
        yield
    finally:
        _is_hidden.reset(token)


def note(text: str) -> None:
    """Print what is good to know to standard error, unless progress is hidden."""
    if not _is_hidden.get():
        warn(text)


@contextmanager
def track(label: str, total: float, done: int = 0, *, transient: bool = False) -> Iterator[Advance]:
    """Show the progress of the work inside, which calls `advance(tokens=2048, loss=1.2)` after each step.

    Args:
        label: stands in front; nothing is shown where it is empty, or where progress is `hidden`.
        total: the count at the end.
        done: what an earlier process did of the total; it takes no part in the time left.
        transient: a passing phase: its bar vanishes at its end, and plain lines appear only where it takes as long as
            there is between two of them.
    """
    if not label or _is_hidden.get():
        yield no_progress
        return
    show = _notebook_bar if _notebook_display() else _bar if sys.stderr.isatty() else _lines
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


def _notebook_display() -> Any:
    """Find what shows objects in the notebook that runs this process; None outside one."""
    ipython = sys.modules.get("IPython")  # which the kernel of a notebook has imported
    shell = None if ipython is None else ipython.get_ipython()
    return None if getattr(shell, "kernel", None) is None else importlib.import_module("IPython.display").display


class _Bar:
    """Draw itself where a notebook asks, until it is taken away."""

    def __init__(self, label: str, total: float, done: int):
        self.label, self.total, self.done, self.words, self.is_gone = label, int(total), done, "", False

    def __repr__(self) -> str:
        return "" if self.is_gone else f"{self.label}: {self.done}/{self.total}  {self.words}"

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done}" max="{self.total}"></progress>'
        return "" if self.is_gone else f"{escape(self.label)} {bar} {self.done}/{self.total} {escape(self.words)}"


@contextmanager
def _notebook_bar(label: str, total: float, before: int, transient: bool) -> Iterator[Advance]:
    started = drawn = time.perf_counter()
    done, seen, bar = float(before), 0, _Bar(label, total, before)
    handle = _notebook_display()(bar, display_id=True)

    def advance(count: float = 1, *, tokens: int = 0, **numbers: float) -> None:
        nonlocal done, seen, drawn
        done, seen = done + count, seen + tokens
        now = time.perf_counter()
        bar.done, bar.words = int(round(done, DECIMALS)), _describe(started, seen, numbers)
        if now - drawn >= SECONDS_BETWEEN_DRAWINGS or bar.done >= total:
            drawn = now
            left = (now - started) * (total - done) / (done - before) if done > before else math.inf
            bar.words += f"  {left:.0f} s left"
            handle.update(bar)

    try:
        yield advance
    finally:
        if transient:
            bar.is_gone = True
            handle.update(bar)


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
