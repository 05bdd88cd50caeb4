"""Backpressure: when one more memtable may be sealed, and what writers are told otherwise.

Asked once a memtable, just before it is sealed, so that it costs a write nothing. The order of
defence: wait while the flush catches up; during an outage of the bucket go on within the
budget of the local log; then refuse, saying why and when to come back.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from seerdb.clock import Clock
from seerdb.errors import BusyError, DiskFullError
from seerdb.events import Listener, WriteResumed, WriteStalled
from seerdb.options import Options
from seerdb.storage.files import FileSystem
from seerdb.storage.state import LiveState
from seerdb.storage.workers import Lane

MAX_SEALED = 2
"""Sealed memtables that may wait for a flush that works: bounds memory."""

STALL_SECONDS = 20.0
"""Longest a write waits before it is refused."""


class StallStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened; ``reason`` is empty while nobody waits."""

    stalls: int
    stalled_seconds: float
    refused: int
    reason: str


class Admission:
    """Decides whether writes may go on. Called by one writer at a time."""

    def __init__(
        self,
        live: LiveState,
        flush: Lane,
        files: FileSystem,
        directory: str,
        *,
        options: Options,
        clock: Clock,
        listener: Listener,
    ) -> None:
        self._live = live
        self._flush = flush
        self._files = files
        self._directory = directory
        self._options = options
        self._clock = clock
        self._listener = listener
        self._stalls = self._refused = 0
        self._stalled_seconds = 0.0
        self._reason = ""

    @property
    def wal_bytes(self) -> int:
        """Local disk that the unflushed log takes, the active segment included."""
        segments = sum(len(memtable.segments) for memtable in self._live.current.memtables)
        return segments * self._options.wal_segment_size

    def admit(self) -> None:
        """Return when a memtable may be sealed and a segment begun.

        Raises: ``DiskFullError`` at once; ``BusyError`` after a wait in vain.
        """
        self.check_disk()
        reason = self._hindrance()
        if not reason:
            return
        self._stalls += 1
        self._reason = reason
        self._listener(WriteStalled(reason))
        started = self._clock.monotonic()
        try:
            self._wait(started + STALL_SECONDS)
        finally:
            waited = self._clock.monotonic() - started
            self._stalled_seconds += waited
            self._reason = ""
            self._listener(WriteResumed(waited))

    def check_disk(self) -> None:
        """Raise ``DiskFullError`` when less than ``min_free_disk`` is free."""
        free = self._files.free_bytes(self._directory)
        if free < self._options.min_free_disk:
            raise DiskFullError(
                f"{free:,} bytes are free where {self._directory} is, less than min_free_disk "
                f"({self._options.min_free_disk:,}); writes go on when there is room"
            )

    def _wait(self, deadline: float) -> None:
        while reason := self._hindrance():
            self._reason = reason
            sealed = len(self._live.current.sealed)
            left = deadline - self._clock.monotonic()
            if left <= 0 or not self._flush.wake_and_wait(self._fewer_than(sealed), left):
                if not self._hindrance():
                    return
                if self._flush.error is None and left > 0:
                    continue
                self._refused += 1
                cause = f"; the last flush failed: {self._flush.error}" if self._flush.error else ""
                raise BusyError(f"{reason}{cause}", retry_after_seconds=1.0)

    def _fewer_than(self, sealed: int) -> Callable[[], bool]:
        return lambda: len(self._live.current.sealed) < sealed

    def _hindrance(self) -> str:
        if self.wal_bytes + self._options.wal_segment_size > self._options.wal_budget:
            return f"the unflushed log has reached wal_budget ({self._options.wal_budget:,} bytes)"
        sealed = len(self._live.current.sealed)
        if sealed >= MAX_SEALED and self._flush.error is None:
            return f"{sealed} sealed memtables wait for their flush"
        return ""

    def statistics(self) -> StallStatistics:
        """A copy of the counters."""
        return StallStatistics(
            stalls=self._stalls,
            stalled_seconds=self._stalled_seconds,
            refused=self._refused,
            reason=self._reason,
        )
