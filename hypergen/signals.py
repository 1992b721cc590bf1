"""SIGINT and SIGTERM as a number to poll: the loop finishes its step and saves. A second signal leaves at once.

Does not know what is being done. Outside the main thread it watches nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class SignalWatch:
    """`with SignalWatch() as signals: ... signals.number()`; the former handlers come back at the end."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[int, Any] = {}

    def number(self) -> int | None:
        """The signal that arrived, or None."""
        return self._received

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._receive) for number in WATCHED}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
