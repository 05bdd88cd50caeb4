"""The background work of one database: its lanes, what wakes which, and what a failure means.

::

    opening ────────────────► warm-up
                                ▲
    memtable sealed ──► flush ──┴──► compaction
          │               └───────────────┴──► garbage (after the grace period)
          ├──► log: the next segment, a sync of this one
          └──► ship ◄── interval, bytes, level object; then segments are let go of
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from seerdb.errors import ClosedError, FencedError, UnavailableError
from seerdb.events import (
    Fenced,
    GarbageCollected,
    Listener,
    ShippingStopped,
    WarmedUp,
    WorkFailed,
)
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.flush.flusher import Flusher
from seerdb.storage.lease.keeper import LeaseKeeper, Surroundings
from seerdb.storage.read.state import LiveState
from seerdb.storage.read.warmup import REST_SECONDS, WarmUp
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.storage.retention.outputs import GRACE_SECONDS, TableOutputs
from seerdb.storage.retention.segments import SegmentRetention
from seerdb.storage.shipping.shipper import Shipper
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.threads import Workers
from seerdb.storage.write.poison import Poison


class Background:
    """Owns the lanes. A failure that trying again may cure is told and tried again; being
    fenced is for good."""

    def __init__(self, workers: Workers, poison: Poison, listener: Listener) -> None:
        self._workers = workers
        self._poison = poison
        self._listener = listener
        self.lanes: list[Lane] = []
        self.deleted_objects = 0
        self.is_closing = False
        """Whether what is cancelled is cancelled on purpose."""
        # Guarded by the lock: when the collector is woken last; inline, not before when.
        self._lock = threading.Lock()
        self._collect_at: float | None = None
        self._collects_at_once = False
        self._kept_for = GRACE_SECONDS
        self._keeper: LeaseKeeper | None = None

    def lane(self, name: str, work: Callable[[], bool]) -> Lane:
        """A lane of its own for ``work``."""
        return self._add(Lane(name, work, self._workers, self.failed))

    def _add(self, lane: Lane) -> Lane:
        self.lanes.append(lane)
        return lane

    def add_flush(self, flusher: Flusher, retention: SegmentRetention) -> Lane:
        """Flush what is sealed, then let go of its segments, then look what to merge, and have
        the shipped log collected later."""

        def work() -> bool:
            segments = flusher.flush_one()
            if segments is None:
                return False
            retention.flushed(segments)
            self.begin_warm_up()
            self.compaction.wake()
            self._collect_later()
            return True

        self.flush = self.lane("flush", work)
        return self.flush

    def add_compaction(self, compactor: Compactor, slots: int = 1) -> Lane:
        """Merge what is due, in so many slots at once, and have the inputs collected later."""

        def work(slot: int) -> bool:
            if not compactor.compact_one(slot):
                return False
            self.begin_warm_up()
            self._collect_later()
            return True

        first, *beside = [partial(work, slot) for slot in range(slots)]
        workers = self._workers
        submit = workers.submit_compaction
        lane = Lane("compaction", first, workers, self.failed, beside=beside, submit=submit)
        self.compaction = self._add(lane)
        compactor.attend(lane.wake)
        return lane

    def add_garbage(
        self,
        collector: GarbageCollector,
        outputs: TableOutputs,
        tables: TableStore,
        kept_for: float = GRACE_SECONDS,
        *,
        at_once: bool,
    ) -> Lane:
        """Delete what nobody needs, ``kept_for`` seconds later. ``at_once``: also what an earlier
        life of the database left, at the first flush, and not only what is old enough after that
        time in this one."""
        self._collects_at_once, self._kept_for = at_once, kept_for

        def in_use() -> set[str]:
            return outputs.in_use() | tables.live_objects()

        def work() -> bool:
            report = collector.run(in_use)
            if report.refused:
                raise UnavailableError(f"nothing was deleted: {report.refused}")
            self.deleted_objects += len(report.deleted)
            if report.deleted:
                self._listener(GarbageCollected(list(report.deleted)))
            return False

        self.garbage = self.lane("garbage", work)
        return self.garbage

    def add_warm_up(self, warm_up: WarmUp) -> Lane:
        """Take the steps of ``warm_up``, each in a turn of its own, for the threads are shared by
        all lanes of all databases, and rest in between."""
        clock, timer = self._workers.clock, self._workers.timer

        def work() -> bool:
            started = clock.monotonic()
            if warm_up.step():
                rest = max(REST_SECONDS, clock.monotonic() - started)
                timer.call_later(rest, self.warm_up.wake)
            elif warm_up.steps:
                self._listener(WarmedUp(warm_up.steps))
                warm_up.steps = 0
            return False

        self.warm_up = self.lane("warm-up", work)
        return self.warm_up

    def begin_warm_up(self) -> None:
        """Look what is to be brought in; inline, where nothing happens beside reads, nothing is."""
        if not self._workers.is_inline:
            self.warm_up.wake()

    def add_log(self, prepare: Callable[[], None], sync_ahead: Callable[[], None]) -> Lane:
        """Have the end of a segment and the next one prepared before a writer needs them."""

        def work() -> bool:
            prepare()
            sync_ahead()
            return False

        self.log = self.lane("log", work)
        return self.log

    def prepare_log(self, is_prepared: Callable[[], bool]) -> None:
        """Wait until a segment is ready that is needed soon, or cannot be made now."""
        self.log.wake_and_wait(is_prepared)

    def add_ship(self, shipper: Shipper, retention: SegmentRetention) -> Lane:
        """Ship the log, then let go of its segments; and tell once if that is over for good."""
        is_told = False

        def work() -> bool:
            nonlocal is_told
            try:
                return shipper.serve()
            finally:
                retention.let_go()
                if shipper.conflict is not None and not is_told:
                    is_told = True
                    self._listener(ShippingStopped(str(shipper.conflict)))

        self.ship = self.lane("ship", work)
        return self.ship

    def add_lease(self, keeper: LeaseKeeper | None, live: LiveState, shipper: Shipper) -> None:
        """Tell of renewals that fail, and have them say how far commits and bucket are. No lane:
        a renewal must not wait for a thread that they share."""
        self._keeper = keeper
        if keeper is not None:
            keeper.attend(
                Surroundings(
                    committed=lambda: live.visible_seq,
                    shipped=lambda: shipper.statistics(live.visible_seq).shipped_seq,
                    failed=self.failed,
                )
            )

    def _collect_later(self) -> None:
        """Wake the collector when what has just come up is old enough, yet once in a grace
        period at most; see :meth:`add_garbage` for the first time.

        Inline, where nothing happens later, it is woken now or not at all.
        """
        now, is_inline = self._workers.clock.monotonic(), self._workers.is_inline
        with self._lock:
            is_first = self._collect_at is None
            last = now if self._collect_at is None else self._collect_at
            if not is_first and last > now + (0 if is_inline else self._kept_for):
                return
            at = self._collect_at = max(now + self._kept_for, last + GRACE_SECONDS) + 1
        if self._collects_at_once if is_first else is_inline:
            self.garbage.wake()
        if not is_inline:
            self._workers.timer.call_later(at - now, self.garbage.wake)

    def failed(self, name: str, error: BaseException, attempts: int, retry_seconds: float) -> bool:
        """Tell of a failure; returns whether to try again."""
        if isinstance(error, FencedError):
            if self._poison.set(error):
                self._listener(Fenced(str(error)))
            return False
        if self.is_closing and isinstance(error, ClosedError):
            return False
        self._listener(WorkFailed(name, str(error), attempts, retry_seconds))
        return True

    @contextmanager
    def telling_of_the_fence(self, name: str) -> Iterator[None]:
        """Around what a caller waits for: that it finds this writer fenced is told, too."""
        try:
            yield
        except FencedError as error:
            self.failed(name, error, 1, 0)
            raise

    def begin_closing(self, cancel: Callable[[], None]) -> None:
        """What ``cancel`` ends, and what is cancelled from now on, is cancelled on purpose; writers
        wait for no lane."""
        self.is_closing = True
        cancel()
        for lane in self.lanes:
            lane.nudge()

    def close(self) -> None:
        """Take no more turns; waits for those under way. Requires: nothing is acknowledged any
        more, for the lease is given back."""
        for lane in self.lanes:
            lane.close()
        if self._keeper is not None:
            self._keeper.close()
