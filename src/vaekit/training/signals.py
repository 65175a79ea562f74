"""Ctrl-C and SIGTERM, of which a run is told in place of being ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interruptible:
    """While it is open, the first Ctrl-C or SIGTERM asks the run to stop; the second one has its usual effect.

    Args:
        interrupt: called at the first one.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in self.signals}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.interrupt()
        self.__exit__()
