"""Time as a port: the only module that may read the clock or sleep."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol

SLOW_PACE = 0.5
"""Of a clock that is ahead of the wall clock: it stands still for nobody, and is caught up with."""


def when(time_us: int) -> str:
    """A time for people, microseconds since 1970, in ISO 8601; that number where no calendar has
    it, as what is stored may be anything."""
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%FT%T.%f}Z"
    except (ValueError, OverflowError):
        return f"{time_us:,} µs since 1970"


def when_second(seconds: float) -> str:
    """As :func:`when`, of seconds since 1970, and no finer."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}"
    except (ValueError, OverflowError):
        return f"{seconds:,.0f} s since 1970"


class Clock(Protocol):
    """Where the engine takes time from. Thread-safe."""

    def now(self) -> float:
        """Wall-clock seconds since 1970; may step backwards."""

    def now_ns(self) -> int:
        """As :meth:`now`, in whole nanoseconds."""

    def monotonic(self) -> float:
        """Seconds since some start; never steps backwards."""

    def thread_time(self) -> float:
        """Seconds that a processor has worked for the calling thread."""

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of monotonic time."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    now_ns = staticmethod(time.time_ns)

    monotonic = staticmethod(time.monotonic)

    thread_time = staticmethod(time.thread_time)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ForwardClock:
    """A clock whose wall time never goes back, whatever the wall clock does. Thread-safe.

    What expires goes by it: it has passed every time that it ever told, and every commit. While
    the wall clock is behind that, it goes on at ``SLOW_PACE``, until the wall clock has caught up.
    """

    def __init__(self, clock: Clock, reached_us: int = 0) -> None:
        """``reached_us``: microseconds since 1970 that it has passed already."""
        self.monotonic = clock.monotonic
        self.thread_time = clock.thread_time
        self.sleep = clock.sleep
        self.wall_ns = clock.now_ns
        """The wall clock as it is."""
        self._lock = threading.Lock()
        self.told_us = reached_us  # set under the lock
        """The latest time that was told, to whoever may have gone by it."""
        self.committed_us = reached_us
        """Time of the newest commit. Set by the one who commits, to ever later times."""
        self.unseen_us: int | None = None
        """A time no later than that of any commit on its way, if there is one. Set by the one who
        commits, before the time of a commit is taken until all see it."""
        # Guarded by the lock, by the monotonic clock:
        self._told_at: float | None = None
        self._slow_from: tuple[float, int] | None = None
        """Since when the wall clock is behind, and what was told then."""

    def now_us(self) -> int:
        """Microseconds since 1970, no less than any time told before."""
        now = self.wall_ns() // 1000
        with self._lock:
            monotonic = self.monotonic()
            reached = max(self.told_us, self.committed_us)
            if now >= reached:
                self._slow_from = None
            else:
                now = self._slowly(monotonic, reached)
            self.told_us, self._told_at = now, monotonic
            return now

    def _slowly(self, monotonic: float, reached: int) -> int:
        """The time where the wall clock is behind what was ``reached``. Requires: the lock."""
        if self._slow_from is None and self._told_at is not None:
            self._slow_from = self._told_at, self.told_us
        if self._slow_from is not None:
            since, told = self._slow_from
            now = told + int((monotonic - since) * SLOW_PACE * 1e6)
            if now >= reached:
                return now
        self._slow_from = monotonic, reached
        return reached

    def settled_us(self) -> int:
        """A time before which no commit will yet appear."""
        now, unseen = self.now_us(), self.unseen_us
        return now if unseen is None else unseen

    def now_ns(self) -> int:
        """As :meth:`now_us`, in nanoseconds."""
        return self.now_us() * 1000

    def now(self) -> float:
        """As :meth:`now_us`, in seconds."""
        return self.now_us() / 1e6
