"""Turn signals that end a process into the end of a block, or note them for a loop that finishes its step and saves.

Those are SIGINT and SIGTERM, of a closed terminal (SIGHUP; ignored, as `nohup` has it, it stays so), SIGQUIT, and of
the end of the allowed time (SIGXCPU). A second signal ends the process where it stands, unless it is one that repeats
by itself; among several processes only after a moment, because a batch system and the launcher may both pass on the
same one. Outside the main thread nothing is watched, as Python has it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypergen.errors import Interrupted
from hypergen.runtime.launcher import is_distributed

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")  # not every system has them all
WATCHED = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
REPEATED = ("SIGHUP", "SIGXCPU")  # sent by shell and kernel, or by the kernel each second
SECONDS_OF_COPIES = 5.0


class _Leave(BaseException):
    """Unwinds a block; no `Exception`, so that no handler on the way takes it for a failure of its own."""


class SignalWatch:
    """Raise Interrupted out of a `with` block on a signal, and restore the former handlers after the block."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._since = 0.0
        self._noting = False
        self._former: dict[int, Any] = {}

    def number(self) -> int | None:
        """Return the signal that arrived, or None."""
        return self._received

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Only note a signal inside, for `number` to tell; end the outer block after it."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
        if self._received is not None:
            raise _Leave

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in WATCHED if not _stays(number)}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if isinstance(error, _Leave) and self._received is not None:
            raise Interrupted(self._received, f"stopped by signal {self._received}") from None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            if signal.Signals(number).name in REPEATED:
                return
            if is_distributed() and time.monotonic() - self._since < SECONDS_OF_COPIES:
                return
            os._exit(128 + number)
        self._received, self._since = number, time.monotonic()
        if not self._noting:
            raise _Leave


def _stays(number: int) -> bool:
    """Tell whether a signal is ignored on purpose."""
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
