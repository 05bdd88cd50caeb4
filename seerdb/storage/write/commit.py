"""The write path: queue, group, log, sync, apply, publish, acknowledge. In that order (I1).

Writers put a request in the queue and take the mutex; whoever holds it leads: one group of the
queue becomes one frame of the WAL and at most one sync, however many writers wait. A lone
writer leads at once and waits for nobody. What nobody waits for takes these steps on several
threads, see ``pipeline.py``; a leader finishes first what of that is in flight. A put that no sync
follows does without: the state lock is enough for it, as long as nobody leads, nothing is in
flight and there is room, see ``lone_put.py``.

A group:  room (rotate when the memtable or its segment is full)
       →  check the expectation, give each request the next seq, encode
       →  append one frame: the group is in flight → sync if any request asks for it
       →  apply to the memtable and publish the seq, under the state lock; mark done
       →  tell the sinks

A failed append or sync fails everything in flight and poisons the database: what reached the disk
is unknown, so no later write may be built on it. So does an interrupt (Ctrl-C) between the append
and the end, where the log is ahead of the memtable, and a lease that ran out there.
``shipping/shipper.py`` goes on from here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from seerdb.clock import ForwardClock
from seerdb.errors import BusyError, ConflictError, SeerDBError
from seerdb.storage.batch import Batch
from seerdb.storage.lease.keeper import LeaseKeeper
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable, overhead_of
from seerdb.storage.outward import check_may_wait
from seerdb.storage.read.state import LiveState
from seerdb.storage.wal.backlog import Place
from seerdb.storage.wal.format import encode_record
from seerdb.storage.wal.writer import LogWriter, PutAppender
from seerdb.storage.write.commit_env import CommitEnv
from seerdb.storage.write.flight import Flight
from seerdb.storage.write.head import Head
from seerdb.storage.write.lone_put import LonePut, lone_put_into
from seerdb.storage.write.pipeline import Pipeline
from seerdb.storage.write.poison import FailingAll, Poison
from seerdb.storage.write.request import (
    INTERVAL,
    LOCAL,
    MEMORY,
    OBJECT,
    CommitStatistics,
    Request,
    Ticket,
    ready,
)
from seerdb.storage.write.sync_schedule import SYNC_AHEAD_BYTES, SyncSchedule

MAX_GROUP_BYTES = 4 << 20
MAX_GROUP_REQUESTS = 1024

AT_ONCE_BYTES = 256 << 10
"""What is appended at once: more would keep the thread that submits it, an event loop, for long."""


class _Leading:
    """While a thread leads. Requires: the mutex.

    One generator for both would hold the mutex for as long as an interrupt (Ctrl-C) lives that came
    as it was entered. A lock by itself is let go of, and the room stays closed for the next leader.
    """

    def __init__(self, close_room: Callable[[], None], open_room: Callable[[], None]) -> None:
        self._close_room = close_room
        self._open_room = open_room

    def __enter__(self) -> None:
        """Nobody else writes from here on."""
        self._close_room()

    def __exit__(self, *_: object) -> None:
        self._open_room()


class Committer:
    """The one writer of the WAL and the active memtable. Thread-safe."""

    def __init__(
        self,
        live: LiveState,
        log: LogWriter,
        env: CommitEnv,
        *,
        clock: ForwardClock,
        poison: Poison,
        memtable_capacity: int,
        sync_interval: float,
        lease: LeaseKeeper | None,
    ) -> None:
        self._live = live
        self._log = log
        self._env = env
        self._clock = clock
        self._poison = poison
        self._lease = lease
        self._mutex = threading.Lock()
        self._leading = _Leading(self._close_room, self._open_room)
        self._first_seq = live.visible_seq + 1  # of this committer's life
        # Self-synchronised: appended to by any thread, taken from by the leader.
        self._queue: deque[Request] = deque()
        self.pipeline = Pipeline(self)
        self.head = Head(
            live,
            log,
            clock,
            capacity=memtable_capacity,
            puts_into=self._puts_into if lease is None else None,
        )
        self._flight = Flight(live, clock, lease)
        self._failing = FailingAll(self._fail)
        self.syncs = SyncSchedule(
            log,
            clock=clock,
            poison=poison,
            interval=sync_interval,
            mutex=self._mutex,
            call_later=env.call_later,
            failed=self._fail,
        )
        # Guarded by the mutex.
        self._space = 0  # bytes that may be written before somebody has to make room
        self._hold_back_at = 0  # bytes of memtables in all
        self._inserts = 0

    def commit(self, batch: Batch, level: int, expect: tuple[bytes, int] | None) -> int:
        """Commit a batch and return its seq; waits until it is durable as ``level`` asks,
        short of ``object``: the caller then waits for the shipper.

        Requires: the batch is not empty; nobody adds to it, not even after an interrupt
        (Ctrl-C), for it may yet be committed.
        """
        check_may_wait("a write")
        request = Request(self.ready(batch), level, expect)
        self._queue.append(request)
        try:
            with self._mutex, self._leading:
                while not request.done:
                    self._commit_group()
        finally:
            self.pipeline.hand_over()
        if request.error is not None:
            raise request.error
        return request.seq

    # What the pipeline needs: see pipeline.Leader.

    def check(self) -> None:
        self._poison.check()

    def ready(self, batch: Batch) -> Batch:
        return ready(batch, self._live.current.active.operator, self._clock.now_us)

    def enqueue(self, requests: list[Request]) -> None:
        self._queue.extend(requests)

    def append_at_once(self, requests: list[Request]) -> bool:
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            self._close_room()
            return not self._queue and self._append_quick(requests)
        finally:
            self._mutex.release()

    def append_queued(self) -> bool:
        queue = self._queue
        if queue:
            with self._mutex, self._leading:
                while queue:
                    group = self._take_group()
                    if not self._append_quick(group):
                        queue.extendleft(reversed(group))
                        return True
        return False

    def _append_quick(self, group: list[Request]) -> bool:
        """Append a group if that need not wait, and it asks for a sync and no more."""
        size = 0
        for request in group:
            if request.level != LOCAL or request.expect is not None:
                return False
            size += len(request.payload) + overhead_of(request.kinds)
        if (
            size > AT_ONCE_BYTES
            or size >= self._space
            or not self._log.is_buffered
            or self._poison.cause is not None
            or (self._lease is not None and not self._lease.is_sure)
        ):
            return False
        self._space -= size
        try:
            self._append(group, LOCAL)
        finally:
            self.pipeline.will_tell(group)
        return True

    def lead(self) -> None:
        with self._mutex, self._leading:
            self._commit_group()

    def sync_beside(self) -> int:
        flight = self._flight
        synced = flight.written
        if flight:
            with self._failing:
                self._log.sync()
        return synced

    def _close_room(self) -> None:
        """No lone put from here on."""
        with self._live.lock:
            active = self._live.current.active
            if active.limit:
                self._space, active.limit = active.limit - active.size, 0

    def _open_room(self) -> None:
        """Others may write from here on, as far as there is room."""
        if not self._flight:
            self._space = self._measured_space()
            active = self._live.current.active
            active.limit = active.size + self._space

    def _measured_space(self) -> int:
        head = self.head
        return min(head.room, max(0, self._hold_back_at - head.size))

    def _commit_group(self) -> None:
        """Commit the next requests, and all that is in flight before them."""
        self._land()
        group = self._take_group()
        try:
            if group and (admitted := self._admitted(group)):
                self._append(admitted, max([request.level for request in admitted]))
                self._land()
        finally:
            self._tell(group)

    def _admitted(self, group: list[Request]) -> list[Request]:
        """Those that may be written, for which there is room then; the others are done."""
        try:
            self._require()
            if self._make_room(_size(group)):
                self._require()  # inline, that flushed and merged
            return self._expected(group)
        except SeerDBError as error:
            _refuse(group, error)
        except BaseException:
            interrupted = "the thread that led this group of writes was interrupted; try again"
            _refuse(group, BusyError(interrupted, retry_after_seconds=0.0))
            raise
        return []

    def _append(self, group: list[Request], level: int) -> None:
        """Bring a group into the log, and in flight."""
        log, flight = self._log, self._flight
        seq = self._live.visible_seq if not flight else flight.written
        with self._failing:
            flying = flight.begin(group, level)
            flying.time_us = self._clock.committed_us = timestamp = self._clock.now_us()
            records = []
            for request in group:
                seq += 1
                request.seq = seq
                records.append(encode_record(seq, timestamp, request.payload, log.salt))
            log.append(b"".join(records))
            flying.last = flight.written = seq

    def _land(self) -> None:
        """Have all that is in flight as durable as it asks, and visible."""
        if not self._flight:
            return
        level, last = self._flight.level, self._flight.written
        with self._failing:
            if level >= LOCAL:
                self._log.sync()
            elif level == INTERVAL:
                self.syncs.within_interval()
        self.publish(last)

    def publish(self, upto: int) -> None:
        with self._failing:
            self._flight.publish(upto)

    def _tell(self, group: list[Request]) -> None:
        """Have the sinks told of a group that is done; by the shipper where that is not enough."""
        told: list[Request] = []
        tickets: list[Ticket] = []
        shipped: list[Request] = []
        for request in group:
            if request.sink is None:
                continue
            if request.level < OBJECT or request.error is not None:
                told.append(request)
            else:
                shipped.append(request)
                tickets.append((request.sink, request.ticket, request.seq))
        self.pipeline.will_tell(told)
        if shipped:
            self.pipeline.let_go(shipped)
            self._env.ship(tickets, self.place())

    def _take_group(self) -> list[Request]:
        """The next requests; one with an expectation begins a group, checked after all before."""
        queue = self._queue
        group: list[Request] = []
        size = 0
        while queue and len(group) < MAX_GROUP_REQUESTS:
            request = queue[0]
            size += len(request.payload)
            if group and (request.expect is not None or size > MAX_GROUP_BYTES):
                break
            group.append(queue.popleft())
        return group

    def _expected(self, group: list[Request]) -> list[Request]:
        """The group without the first request if that expects what is not so: it is done."""
        if group[0].expect is None:
            return group
        key, wanted = group[0].expect
        try:
            current = self._env.current_seq(key)
        except SeerDBError as failure:
            _refuse(group[:1], failure)
            return group[1:]
        if current == wanted:
            return group
        found = f"its seq is {current}" if current else "it is absent"
        words = f"expected {f'seq {wanted}' if wanted else 'it to be absent'}, but {found}"
        _refuse(group[:1], ConflictError(f"the write to {key!r} {words}"))
        return group[1:]

    def _fail(self, error: BaseException) -> SeerDBError:
        is_news = self._poison.set(error)
        failure = self._poison.error()
        self._flight.fail(failure)
        if is_news:
            self._env.poisoned(error)
        return failure

    def _require(self) -> None:
        """Raise unless a group of writes may begin."""
        self._poison.check()
        if self._lease is not None:
            self._lease.require()

    def _make_room(self, size: int) -> bool:
        """Freeze before write: a full memtable is sealed before the group that overflows it;
        returns whether one was."""
        head = self.head
        if not head.is_begun:
            self._env.check_disk()
            self._env.begin(head.begin)
        if head.size >= self._hold_back_at:
            self._hold_back_at = head.size + self._unhindered()
        if not head.is_full_for(size):
            return False
        self.syncs.if_due()
        self._env.admit()
        self._rotate()
        self._env.begin(head.begin)
        return True

    def _unhindered(self) -> int:
        """Bytes until the next look at the pressure; slows the writer down as that demands."""
        log = self._log
        if log.appended and (self.head.lacks_next or log.unsynced >= SYNC_AHEAD_BYTES):
            self._env.tend_log()
        return self._env.hold_back(log.appended, self.syncs.if_due)

    def _rotate(self) -> None:
        """Seal the active memtable together with its segment; the next write starts another.
        Requires: nothing is in flight."""
        try:
            sealed = self.head.seal()
        except SeerDBError as error:
            raise self._fail(error) from error
        self._env.sealed(sealed, self.place())

    def _puts_into(self, memtable: Memtable, append: PutAppender) -> LonePut:
        return lone_put_into(
            memtable,
            append,
            live=self._live,
            clock=self._clock,
            queue=self._queue,
            poison=self._poison,
            poisoned=self._env.poisoned,
        )

    def rotate(self) -> int:
        """Seal the active memtable if it holds anything; returns the seq it reaches."""
        with self._mutex, self._leading:
            self._land()
            if self._live.current.active:
                self._poison.check()
                self._rotate()
            return self._live.visible_seq

    def insert(self, flush: Callable[[int], None], publish: Callable[[int], None]) -> int:
        """Seal and ``flush`` all there is, up to the seq it is given, then have ``publish`` show
        what takes the next one, which is returned. All writers wait. If ``publish`` fails, the
        bucket may know that seq by then: an empty commit takes it, no other write gets it (I3)."""
        try:
            with self._mutex, self._leading:
                return self._insert(flush, publish)
        finally:
            self.pipeline.hand_over()

    def _insert(self, flush: Callable[[int], None], publish: Callable[[int], None]) -> int:
        self._land()
        self._poison.check()
        if self._live.current.active:
            self._rotate()
        flush(self._live.visible_seq)
        seq = self._live.visible_seq + 1
        try:
            publish(seq)
        except Exception:
            self._skip_seq()
            raise
        except BaseException as interrupt:
            self._fail(interrupt)
            raise
        self.head.skip_to(seq)
        self._inserts += 1
        return seq

    def _skip_seq(self) -> None:
        """Commit nothing, before anything else. If that fails, nothing may be committed at all."""
        request = Request(Batch(), MEMORY, None)
        self._queue.appendleft(request)
        self._commit_group()
        if request.error is not None:
            self._fail(request.error)

    def position(self, wait: float = -1) -> Place | None:
        """Up to where the log goes, synced; ``None`` if a writer leads for longer than ``wait``."""
        if not self._mutex.acquire(timeout=wait):
            return None
        try:
            self._land()
            with self._live.lock:
                # The next write asks again.
                self._live.current.active.limit = self._space = self._hold_back_at = 0
                place, synced = self.place(), self._log.synced
        finally:
            self._mutex.release()
        if synced < place.offset:
            self.syncs.sync_or_fail()
        return place

    def place(self) -> Place:
        """Up to where the log goes. Requires: the mutex, and that nothing is in flight, as calls
        of ``CommitEnv`` have it."""
        return Place(self._log.segment, self._log.position, self._live.visible_seq)

    def statistics(self) -> CommitStatistics:
        """A copy of the counters."""
        flight = self._flight
        commits = self._live.visible_seq - self._first_seq + 1
        lone_puts = commits - self._inserts - flight.commits
        # What lone puts add is counted by the memtables alone.
        size = self.head.size
        return CommitStatistics(
            commits=commits,
            operations=flight.operations + lone_puts,
            user_bytes=max(0, size - flight.overhead - ENTRY_OVERHEAD * lone_puts),
            groups=flight.groups + lone_puts,
            largest_group=flight.largest_group,
            queued=len(self._queue),
        )


def _size(group: list[Request]) -> int:
    return sum([request.size for request in group])


def _refuse(group: list[Request], error: SeerDBError) -> None:
    for request in group:
        request.fail(error)
