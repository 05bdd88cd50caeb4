"""What presses on writes, measured: memtables, log, runs and free disk against their limits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from seerdb.clock import Clock
from seerdb.errors import DiskFullError
from seerdb.ids import TableId
from seerdb.options import Options
from seerdb.storage.local.files import FileSystem
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.read.state import LiveState
from seerdb.storage.retention.segments import SegmentRetention
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.pace import (
    LONG_REST,
    NO_REST,
    REST,
    SHORT_STRETCH_SECONDS,
    STRETCH_SECONDS,
    GivingWay,
    Pace,
)
from seerdb.storage.write.pressure import MAX_RUNS, URGENT_RUNS, Gauge, Reason, worst

MAX_SEALED = 4
"""Sealed memtables that may wait for a flush that works: bounds memory. A burst of so many times
the capacity is taken in at full speed; each costs that much memory while flushes are behind."""

UNHURRIED = 1.25
"""How much may wait beside the memtable that is flushed before its flush hurries: one more, and a
quarter of the next. A burst that ends before that is not slowed down for it."""


class Obstacle(NamedTuple):
    """Why no memtable may be sealed now."""

    reason: Reason
    lane: Lane
    """Whose work takes it away."""
    words: str
    queue: int = 0
    """How many wait for background work. When one of them is done, one more may come: after an
    outage, or where more were found at the open, writes go on before all of them are done."""

    def is_less_than(self, other: Obstacle) -> bool:
        """Whether one of those that waited is done."""
        return self.reason is other.reason and self.queue < other.queue


class Gauges:
    """The measures of one database. Thread-safe; all but :meth:`measure_disk`, :meth:`check_disk`
    and :meth:`lacks_segment` read memory only."""

    def __init__(
        self,
        live: LiveState,
        lanes: tuple[Lane, Lane, Lane],
        retention: SegmentRetention,
        files: FileSystem,
        directory: str,
        options: Options,
        *,
        merging_elsewhere: Callable[[], Collection[TableId]] | None,
    ) -> None:
        """``lanes``: those of flush, compaction and shipping, which take pressure away.
        ``merging_elsewhere``: tells the tables that other processes merge; ``None`` where
        compactions share the interpreter with writers."""
        self._live = live
        self._flush, self._compaction, self._ship = lanes
        self._retention = retention
        self._files = files
        self._directory = directory
        self._options = options
        self._merging_elsewhere = merging_elsewhere
        self._free: int | None = None

    @property
    def wal_bytes(self) -> int:
        """Local disk that the log takes that is not flushed, the active segment included, or not
        shipped."""
        active = self._live.current.active.segments
        return self._log_bytes(active[-1] + 1)

    @property
    def _pressing_bytes(self) -> int:
        """As :attr:`wal_bytes`, but for what the active segment has beyond its length: nothing
        takes that away before it is sealed."""
        return self._log_bytes(self._live.current.active.segments[0])

    def _log_bytes(self, end: int) -> int:
        """What the log takes; of segments from ``end`` on no more than their length."""
        memtables, retention = self._live.current.memtables, self._retention
        segments = sum(len(memtable.segments) for memtable in memtables)
        oldest = memtables[-1].segments[0]
        whole = (segments + retention.count_unshipped()) * self._options.wal_segment_size
        return whole + retention.beyond(oldest, end)

    def worst(self) -> Gauge:
        """The one that slows writes down most now; free disk as of the last measurement."""
        return worst(self._all())

    def obstacle(self) -> Obstacle | None:
        """What must change before a memtable may be sealed. Reads memory only."""
        used = self._pressing_bytes + self._options.wal_segment_size
        budget = self._options.wal_budget
        sealed, runs = len(self._live.current.sealed), self._runs()
        if used > budget:
            unshipped = self._retention.count_unshipped()
            lane = self._ship if unshipped else self._flush
            words = f"{self._log_words(unshipped)} has reached wal_budget ({budget:,} bytes)"
            return Obstacle(Reason.LOG, lane, words)
        if sealed >= MAX_SEALED and not self._is_outage:
            words = f"{sealed} sealed memtables wait for their flush"
            return Obstacle(Reason.MEMTABLES, self._flush, words, sealed)
        if runs >= MAX_RUNS:
            words = f"{runs} runs wait for a compaction; writes go on below {MAX_RUNS}"
            return Obstacle(Reason.RUNS, self._compaction, words, runs)
        return None

    @property
    def _is_outage(self) -> bool:
        """Whether memtables may pile up as far as the budget of the log goes. Of a bucket that
        takes bytes and does not answer the log tells first: a flush fails after minutes only, for
        its table is large."""
        return self._flush.error is not None or self._ship.error is not None

    def flush_is_behind(self) -> bool:
        """Whether more has been written since a memtable was sealed than leaves time for it."""
        return len(self._live.current.sealed) - 1 + self._fill() > UNHURRIED

    @property
    def has_many_runs(self) -> bool:
        """Whether reads look at so many runs that a merge is urgent."""
        return len(self._live.current.layout.runs) > URGENT_RUNS

    def is_urgent(self, purpose: Purpose) -> bool:
        """Whether a job has to be done soon: somebody waits for it, or will if nothing changes."""
        match purpose:
            case Purpose.FLUSH:
                return self.rests_of_flush() == NO_REST
            case Purpose.COMPACTION:
                return self.has_many_runs
        return False

    def rests_of_flush(self) -> int:
        """How much a flush gives way: not at all if somebody waits for it, or will soon."""
        return NO_REST if self.flush_is_behind() or self._flush.is_awaited else REST

    def rests_of_compaction(self) -> int:
        """How much a compaction gives way: to a flush that hurries as well."""
        if self.has_many_runs or self._compaction.is_awaited:
            return NO_REST
        return REST if self.rests_of_flush() else LONG_REST

    def rests_of_warming(self) -> int:
        """How much the bringing of new tables into memory gives way to reads: whoever waits for a
        merge, but not where writers would, and not when the database closes."""
        return NO_REST if self.flush_is_behind() or not self._compaction.tries_again else REST

    def pace_for(self, purpose: Purpose, clock: Clock) -> Pace:
        """Of one job in a thread of this process; for ``READ``, of bringing tables into memory."""
        match purpose:
            case Purpose.READ:
                return GivingWay(clock, self.rests_of_warming, SHORT_STRETCH_SECONDS)
            case Purpose.FLUSH:
                rests = self.rests_of_flush
            case _:
                rests = self.rests_of_compaction
        return GivingWay(clock, rests, STRETCH_SECONDS)

    def _fill(self) -> float:
        return min(self._live.current.active.size / self._options.memtable_capacity, 1.0)

    def check_disk(self) -> None:
        """Raise ``DiskFullError`` when less than ``min_free_disk`` is free."""
        self.measure_disk()
        free = self._free
        if free is not None and free < self._options.min_free_disk:
            raise DiskFullError(
                f"{free:,} bytes are free where {self._directory} is, less than min_free_disk "
                f"({self._options.min_free_disk:,}); writes go on when there is room"
            )

    def lacks_segment(self) -> bool:
        """Whether the disk has no room for one more segment. Raises ``DiskError``."""
        return self._files.free_bytes(self._directory) < self._options.wal_segment_size

    def _runs(self) -> int:
        """Runs while there is something to merge: what a policy leaves as it is waits for
        nothing. What other processes merge does not wait either, and they need no writer to wait:
        the last run may take hours, while all above it is kept in order beside."""
        if not self._compaction.has_work:
            return 0
        runs = self._live.current.layout.version.runs
        if self._merging_elsewhere is None or self._compaction.error is not None:
            return len(runs)
        if len(runs) <= URGENT_RUNS or not (merging := self._merging_elsewhere()):
            return len(runs)
        return sum(any(table.id not in merging for table in run.tables) for run in runs)

    def _log_words(self, unshipped: int) -> str:
        if not unshipped:
            return "the unflushed log"
        oldest = self._live.current.memtables[-1].segments[0]
        size = unshipped * self._options.wal_segment_size + self._retention.beyond(oldest, oldest)
        return f"the log, of which {size:,} bytes are flushed but not shipped to the bucket,"

    def measure_disk(self) -> None:
        """Find out how much of the disk is free. Raises ``DiskError``."""
        if self._options.min_free_disk:
            self._free = self._files.free_bytes(self._directory)

    def _all(self) -> Iterator[Gauge]:
        """All values as they are; free disk as of the last look. Reads memory only."""
        options, state = self._options, self._live.current
        runs, used, budget = self._runs(), self._pressing_bytes, options.wal_budget
        fill = self._fill()
        segment = options.wal_segment_size
        full = budget // segment * segment
        words = f"{runs} runs wait for a compaction; at {MAX_RUNS} writes stop"
        yield Gauge(Reason.RUNS, runs, URGENT_RUNS, MAX_RUNS, words)
        words = self._log_words(self._retention.count_unshipped())
        words = f"{words} takes {used:,} bytes of wal_budget ({budget:,})"
        yield Gauge(Reason.LOG, used - segment + fill * segment, full * 3 / 4, full, words)
        if not self._is_outage:
            sealed = len(state.sealed)
            words = f"{sealed} sealed memtables wait for their flush, the next is {fill:.0%} full"
            yield Gauge(Reason.MEMTABLES, sealed + fill, MAX_SEALED + 0.5, MAX_SEALED + 1.0, words)
        if self._free is not None:
            least = options.min_free_disk
            words = f"{self._free:,} bytes of disk are free, min_free_disk is {least:,}"
            yield Gauge(Reason.DISK, self._free, least * 5 / 4, least, words)
