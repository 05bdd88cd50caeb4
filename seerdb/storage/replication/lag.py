"""How far a follower is behind: in commits, and in seconds since it last knew that it was not."""

from __future__ import annotations

import threading

import msgspec

from seerdb.clock import Clock


class LagStatistics(msgspec.Struct, frozen=True):
    """``seq``: commits that are known of and not shown yet. ``seconds``: for so long at most, what
    is shown may lack something that the writer had told: the bucket, or the live stream. It grows
    while neither is reached. ``None``: nothing was reached yet."""

    seq: int
    seconds: float | None


class Lag:
    """Measures it. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._newest = 0
        self._current_at: float | None = None
        self._awaited: tuple[int, float] | None = None
        """A seq that is not shown yet, and when it was the newest one."""

    def now(self) -> float:
        """A moment, for :meth:`heard`."""
        return self._clock.monotonic()

    def heard(self, newest: int, at: float, shown: int) -> None:
        """The newest commit was ``newest`` at the moment ``at``, or later."""
        with self._lock:
            self._newest = max(self._newest, newest)
            if self._awaited is None:
                self._awaited = newest, at
        self.reached(shown)

    def reached(self, shown: int) -> None:
        """Everything up to ``shown`` is shown."""
        with self._lock:
            if self._awaited is not None and shown >= self._awaited[0]:
                self._current_at = max(self._current_at or 0.0, self._awaited[1])
                self._awaited = None

    def forget(self) -> None:
        """What was heard may be void: another writer took over."""
        with self._lock:
            self._newest = 0
            self._awaited = None

    def measure(self, shown: int) -> LagStatistics:
        """The lag now, where ``shown`` is the newest commit that is shown."""
        with self._lock:
            newest, since = self._newest, self._current_at
        seconds = None if since is None else max(0.0, self.now() - since)
        return LagStatistics(seq=max(0, newest - shown), seconds=seconds)
