"""A clock that tests move by hand."""

from __future__ import annotations

import threading


class FakeClock:
    """Time that passes only by :meth:`advance` and :meth:`sleep`. Thread-safe.

    ``sleep`` does not wait: it advances the clock at once, so that code with timeouts and
    backoff runs in no time and a test sees how long it would have taken. Several sleeping
    threads therefore add up their sleeps instead of sleeping side by side.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._now = now
        self._monotonic = 0.0
        self._slept = 0.0

    @property
    def slept(self) -> float:
        """Seconds passed by :meth:`sleep` alone."""
        with self._lock:
            return self._slept

    def now(self) -> float:
        with self._lock:
            return self._now

    def now_ns(self) -> int:
        return int(self.now() * 1_000_000) * 1000

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def thread_time(self) -> float:
        """As if every thread worked all the time that it does not sleep."""
        with self._lock:
            return self._monotonic - self._slept

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._slept += seconds
            self._pass(seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._lock:
            self._pass(seconds)

    def set_now(self, now: float) -> None:
        """Set the wall clock, also backwards; monotonic time goes on unmoved."""
        with self._lock:
            self._now = now

    def _pass(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds
