"""Time as a port: the only module that may read the clock or sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine takes time from. Thread-safe."""

    def now(self) -> float:
        """Wall-clock seconds since 1970; may step backwards."""

    def now_ns(self) -> int:
        """As :meth:`now`, in whole nanoseconds."""

    def monotonic(self) -> float:
        """Seconds since some start; never steps backwards."""

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of monotonic time."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    now_ns = staticmethod(time.time_ns)

    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
