"""What becomes of flushed WAL segments: kept as the setting says, then reused or removed (I4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from seerdb.clock import Clock
from seerdb.storage.wal.segments import SegmentPool


class SegmentRetention:
    """Keeps flushed segments and lets go of them. One thread at a time.

    ``setting`` is ``flushed`` (keep none), ``count:N`` or ``duration:SECONDS``. A failure of
    the disk is raised, and what was not let go of stays in line for the next time.
    """

    def __init__(self, pool: SegmentPool, setting: str, clock: Clock) -> None:
        kind, _, number = setting.partition(":")
        self._count = int(number) if kind == "count" else 0
        self._seconds = float(number) if kind == "duration" else 0.0
        self._pool = pool
        self._clock = clock
        self._kept: deque[tuple[int, float]] = deque()

    @property
    def kept(self) -> int:
        """Flushed segments still on the disk."""
        return len(self._kept)

    def flushed(self, segments: Iterable[int]) -> None:
        """Take segments whose contents are in tables that the manifest names."""
        now = self._clock.monotonic()
        self._kept.extend((segment, now) for segment in segments)
        while len(self._kept) > self._count and now - self._kept[0][1] >= self._seconds:
            self._pool.recycle(self._kept[0][0])
            self._kept.popleft()
