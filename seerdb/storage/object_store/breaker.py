"""Stop asking a store that does not answer, and find out by itself when it is back.

::

    closed ──threshold failures in a row──► open ──cooldown over──► half-open ──success──► closed
                                             ▲                            │
                                             └─failure, cooldown doubled──┘

Only ``UnavailableError`` is a failure: a missing object is an answer like any other. A deletion
that is denied says nothing of other requests, neither that they would fail nor that they would not;
nor does one that was interrupted.

A store that refuses may yet take deletions, which make room and let go of locks: they are asked for
though the breaker is open, unless the store is silent, so that nobody waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from seerdb.clock import Clock
from seerdb.errors import UnavailableError
from seerdb.storage.object_store.base import (
    Checksum,
    DeletionDeniedError,
    ObjectInfo,
    ObjectStore,
)
from seerdb.storage.pieces import Body

T = TypeVar("T")

SILENT_SECONDS = 5.0
"""A store that fails a request after as long as that has not refused it, but kept silent."""


class CircuitBreaker:
    """What is known about the health of one store; shared by all who use it. Thread-safe.

    Opens after ``threshold`` failures in a row. After ``cooldown_seconds`` one request is let
    through as a trial; each failed trial doubles the cooldown up to
    ``max_cooldown_seconds``, and any success closes the breaker.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        threshold: int = 5,
        cooldown_seconds: float = 1.0,
        max_cooldown_seconds: float = 30.0,
    ) -> None:
        self._clock = clock
        self._threshold = threshold
        self._first_cooldown = cooldown_seconds
        self._max_cooldown = max_cooldown_seconds
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._failures = 0
        self._failing_since: float | None = None
        self._last_error = ""
        self._last_seconds = 0.0  # how long the latest failure took
        self._cooldown = cooldown_seconds
        self._retry_at: float | None = None  # None: closed
        self._trial_running = False

    @property
    def is_open(self) -> bool:
        """Whether requests are refused, but for a trial now and then."""
        with self._lock:
            return self._retry_at is not None

    @property
    def last_error(self) -> str:
        """The latest failure since the last success; empty when healthy."""
        with self._lock:
            return self._last_error

    def run(self, request: Callable[[], T]) -> T:
        """The result of ``request``, or ``UnavailableError`` at once while open."""
        trial = self._enter()
        began = self._clock.monotonic()
        try:
            result = request()
        except BaseException as error:
            is_interrupt = not isinstance(error, Exception)
            if is_interrupt or isinstance(error, DeletionDeniedError):
                self._told_nothing(trial=trial)
            elif isinstance(error, UnavailableError):
                self._failed(error, began, trial=trial)
            else:
                self._succeeded()
            raise
        self._succeeded()
        return result

    def run_past_refusals(self, request: Callable[[], T]) -> T:
        """As :meth:`run`, but made also while the store refuses others; then what comes of it does
        not tell whether it goes on to."""
        with self._lock:
            refuses = self._retry_at is not None and self._last_seconds < SILENT_SECONDS
        return request() if refuses else self.run(request)

    def _enter(self) -> bool:
        """Whether the request is a trial; raises if it must not be made."""
        with self._lock:
            if self._retry_at is None:
                return False
            now = self._clock.monotonic()
            if now >= self._retry_at and not self._trial_running:
                self._trial_running = True
                return True
            since = now - (self._failing_since or now)
            raise UnavailableError(
                f"not tried: the store has failed for {since:.1f} s "
                f"(next trial in {max(0.0, self._retry_at - now):.1f} s); "
                f"last error: {self._last_error}"
            )

    def _succeeded(self) -> None:
        with self._lock:
            self._failures = 0
            self._failing_since = None
            self._last_error = ""
            self._cooldown = self._first_cooldown
            self._retry_at = None
            self._trial_running = False

    def _told_nothing(self, *, trial: bool) -> None:
        with self._lock:
            if trial:
                self._trial_running = False

    def _failed(self, error: UnavailableError, began: float, *, trial: bool) -> None:
        with self._lock:
            now = self._clock.monotonic()
            self._failures += 1
            self._last_seconds = now - began
            self._last_error = str(error) or type(error).__name__
            if self._failing_since is None:
                self._failing_since = now
            if trial:
                self._trial_running = False
                self._cooldown = min(self._max_cooldown, self._cooldown * 2)
                self._retry_at = now + self._cooldown
            elif self._failures >= self._threshold and self._retry_at is None:
                self._retry_at = now + self._cooldown


class BreakingObjectStore:
    """``inner`` behind ``breaker``. Thread-safe."""

    def __init__(self, inner: ObjectStore, breaker: CircuitBreaker) -> None:
        self._inner = inner
        self._breaker = breaker

    def get(self, name: str) -> bytes:
        return self._breaker.run(lambda: self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._breaker.run(lambda: self._inner.get_range(name, offset, length))

    def checksum(self, name: str) -> Checksum:
        return self._breaker.run(lambda: self._inner.checksum(name))

    def put(self, name: str, data: Body) -> None:
        self._breaker.run(lambda: self._inner.put(name, data))

    def put_if_absent(self, name: str, data: Body) -> None:
        self._breaker.run(lambda: self._inner.put_if_absent(name, data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._breaker.run(lambda: self._inner.list(prefix))

    def delete(self, names: Iterable[str]) -> None:
        self._breaker.run_past_refusals(lambda: self._inner.delete(names))

    def close(self) -> None:
        self._inner.close()
