"""The log's way into the bucket: what is to be shipped, who does it, and when.

The log is shipped within an interval of the first write that is not, or after enough bytes; sealed
segments with it. A timer is set by a write, never by a timer, so a database that is not written
costs no wake-up and no request. Inline, where nothing happens beside the writer, nothing is timed:
segments are shipped when they are sealed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from seerdb.errors import ClosedError, CorruptionError
from seerdb.ids import MAX_SEQ
from seerdb.storage.local.files import FileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.opening.steps import Opened
from seerdb.storage.shipping.shipper import LocalLog, Shipper
from seerdb.storage.wal.backlog import Backlog, Place
from seerdb.storage.wal.format import HEADER_SIZE, decode_header
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.threads import Workers

DUE = 0.95
"""Part of the interval after which the log is shipped, so that it is there, and seen by those who
follow, when the interval ends."""

SHIP_BYTES = 32 << 20
"""Bytes of the active segment that are shipped without waiting for the interval."""


class Shipping:
    """The shipper of one database, and what wakes it. ``interval`` in seconds; 0: only who waits
    for it has anything shipped. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        files: FileSystem,
        opened: Opened,
        workers: Workers,
        interval: float,
    ) -> None:
        hole_seq = opened.recovery.hole_seq
        log = LocalLog(files, f"{opened.directory}/wal", self._reach, hole_seq)
        self._due = DUE * interval
        self._workers = workers
        self._is_timed = False  # written by the one who writes, and by the timer
        self._wake_at = 0  # for the one who writes
        self.backlog = Backlog(
            opened.shipped_seq, _owed(log, opened), opened.next_segment, keeps_all=interval > 0
        )
        self.shipper = Shipper(store, opened.manifest, log, self.backlog, workers.clock)
        times = [
            memtable.first_us
            for memtable in opened.recovery.memtables
            if memtable.last_seq > opened.shipped_seq
        ]
        if times:
            age = (opened.clock.now_us() - times[0]) / 1e6
            self.backlog.mark(0, workers.clock.monotonic() - age)

    def attach(
        self,
        lane: Lane,
        position: Callable[[float], Place | None],
        telling: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``lane`` does the work of the shipper from now on; it has what earlier lives left.
        ``position``: as in :class:`LocalLog`; ``telling``: as in :class:`Shipper`."""
        self._lane, self._position, self.shipper.telling = lane, position, telling
        lane.wake()

    def _reach(self, wait: float) -> Place | None:
        return self._position(wait)

    def wrote(self, seq: int, appended: int) -> None:
        """``seq`` is about to follow ``appended`` bytes of log. Called by the one who writes, for
        the first write after the log's position was asked at least."""
        self.backlog.mark(seq, self._workers.clock.monotonic())
        if not self._due or self._workers.is_inline:
            return
        if not self._is_timed:
            self._is_timed = True
            self._wake_at = appended + SHIP_BYTES
            self._workers.timer.call_later(self._due, self._tick)
        elif appended >= self._wake_at:
            self._wake_at = appended + SHIP_BYTES
            self._wake()

    def sealed(self, end: Place) -> None:
        """The active segment has ended there, durably."""
        self.shipper.sealed(end)
        if self._workers.is_inline:
            self._lane.wake()

    def _tick(self) -> None:
        lane = self._lane
        if lane.error is not None:  # it tries again by itself, at longer and longer intervals
            if lane.tries_again:
                self._workers.timer.call_later(self._due, self._tick)
            return
        self._is_timed = False
        self._wake()

    def _wake(self) -> None:
        self.shipper.ask()
        with suppress(ClosedError):  # the runtime is closed: the close has shipped what there was
            self._lane.wake()


def _owed(log: LocalLog, opened: Opened) -> list[int]:
    """Sealed segments of earlier lives that may hold more than what was shipped, ascending."""
    recovery, log_start = opened.recovery, opened.manifest.state.log_start
    segments = [segment for segment in recovery.release if segment < log_start]
    segments += [segment for memtable in recovery.memtables for segment in memtable.segments]
    # Each ends before the next one begins.
    ends = [_first_seq(log, segment) - 1 for segment in segments[1:]] + [recovery.last_seq]
    return [
        segment for segment, end in zip(segments, ends, strict=False) if end > opened.shipped_seq
    ]


def _first_seq(log: LocalLog, segment: int) -> int:
    """The seq that a segment begins with; none is higher when its header does not tell, which is
    told when it is to be shipped."""
    path = segment_path(log.directory, segment)
    file = log.files.open_read(path)
    try:
        return decode_header(file.read_at(0, HEADER_SIZE), path).first_seq
    except CorruptionError:
        return MAX_SEQ
    finally:
        file.close()
