"""What becomes of flushed WAL segments: kept until they are shipped, and as the setting says, then
reused or removed (I4)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from seerdb.clock import Clock
from seerdb.storage.wal.backlog import Backlog
from seerdb.storage.wal.segments import SegmentPool


class SegmentRetention:
    """Keeps flushed segments and lets go of them. Thread-safe.

    ``setting`` is ``flushed`` (keep none), ``count:N`` or ``duration:SECONDS``; ``backlog``
    tells what is still to be shipped. A failure of the disk is raised, and what
    was not let go of stays in line for the next time.
    """

    def __init__(self, pool: SegmentPool, setting: str, clock: Clock, backlog: Backlog) -> None:
        kind, _, number = setting.partition(":")
        self._count = int(number) if kind == "count" else 0
        self._seconds = float(number) if kind == "duration" else 0.0
        self._pool = pool
        self._clock = clock
        self._backlog = backlog
        self._turn = threading.Lock()
        """Held by who lets go of segments, and so takes some away."""
        self._lock = threading.Lock()
        # Changed under the lock, which is never held for long:
        self._kept: deque[tuple[int, float]] = deque()

    @property
    def kept(self) -> int:
        """Flushed segments still on the disk."""
        return len(self._kept)

    def count_unshipped(self) -> int:
        """Those of them that are still to be shipped."""
        needed_from = self._backlog.needed_from
        with self._lock:
            return sum(segment >= needed_from for segment, _ in self._kept)

    def beyond(self, first: int, end: int) -> int:
        """By how many bytes the segments from ``first`` on, and those that are still to be shipped,
        are longer than they were preallocated; but for those from ``end`` on."""
        return self._pool.beyond(min(first, self._backlog.needed_from), end)

    def flushed(self, segments: Iterable[int]) -> None:
        """Take segments whose contents are in tables that the manifest names."""
        now = self._clock.monotonic()
        with self._lock:
            self._kept.extend((segment, now) for segment in segments)
        self.let_go()

    def let_go(self) -> None:
        """Let go of what needs to be kept no longer."""
        with self._turn:
            now, needed_from = self._clock.monotonic(), self._backlog.needed_from
            while len(self._kept) > self._count and now - self._kept[0][1] >= self._seconds:
                segment = self._kept[0][0]
                if segment >= needed_from:
                    return
                self._pool.recycle(segment)
                with self._lock:
                    self._kept.popleft()
