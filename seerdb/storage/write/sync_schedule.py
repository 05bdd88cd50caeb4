"""When the log is synced: at once, within an interval of the write, or ahead of a writer."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from seerdb.clock import ForwardClock
from seerdb.errors import BusyError, SeerDBError
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.write.poison import Poison

SYNC_AHEAD_BYTES = 8 << 20
"""What may be left to sync where a segment ends, for which the writer waits."""

SHORT_WAIT_SECONDS = 0.01
"""How long the timer waits for the mutex."""


class SyncSchedule:
    """Thread-safe, but for :meth:`within_interval` and :meth:`if_due`, which require the mutex.

    ``failed`` is told of a sync that failed, and returns what to raise.
    """

    def __init__(
        self,
        log: LogWriter,
        *,
        clock: ForwardClock,
        poison: Poison,
        interval: float,
        mutex: Lock,
        call_later: Callable[[float, Callable[[], None]], None],
        failed: Callable[[BaseException], SeerDBError],
    ) -> None:
        self._log = log
        self._clock = clock
        self._poison = poison
        self._interval = interval
        self._mutex = mutex
        self._call_later = call_later
        self._failed = failed
        self._is_due = False  # guarded by the mutex: the timer is set

    def sync_or_fail(self) -> None:
        """Sync now; if that fails, so has the database. Raises what poisoned it."""
        self._poison.check()
        try:
            self._log.sync()
        except SeerDBError as error:
            raise self._failed(error) from error

    def within_interval(self) -> None:
        """Sync once the interval since the last time is over, now or by the timer; now, too, where
        the timer gets no thread."""
        if self._clock.monotonic() - self._log.synced_at >= self._interval:
            self._log.sync()
        elif not self._is_due:
            try:
                self._call_later(self._interval, self._late)
            except BusyError:
                self._log.sync()
            else:
                self._is_due = True

    def _late(self) -> None:
        # The timer's thread serves others too. Who leads for long has synced before it waited.
        if not self._mutex.acquire(timeout=SHORT_WAIT_SECONDS):
            self._call_later(SHORT_WAIT_SECONDS, self._late)
            return
        try:
            if self._poison.cause is None:
                self.if_due()
        except SeerDBError as error:
            self._failed(error)
        finally:
            self._mutex.release()

    def if_due(self) -> None:
        """What a writer does before it waits while it leads: nobody else can sync then."""
        if self._is_due:
            self._is_due = False
            self.sync_or_fail()

    def ahead(self) -> None:
        """Sync if much is not, beside the writers, before one of them has to wait for it."""
        if self._log.unsynced >= SYNC_AHEAD_BYTES and self._poison.cause is None:
            self.sync_or_fail()
