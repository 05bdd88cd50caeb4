"""The write path: queue, group, log, sync, apply, publish, acknowledge. In that order (I1).

Writers put a request in the queue and take the mutex; whoever holds it leads: one group of the
queue becomes one frame of the WAL and at most one sync, however many writers wait. A lone
writer leads at once and waits for nobody. Requests with a sink, which nobody waits for, come
through an inbox that one committer thread serves; it is just another leader. A put that no sync
follows does without: the state lock is enough for it, as long as nobody leads and there is room.

A group:  room (rotate when the memtable or its segment is full)
       →  check the expectation, give each request the next seq, encode
       →  append one frame → sync if any request asks for it
       →  apply to the memtable and publish the seq, under the state lock
       →  mark done, tell the sinks

A failed append or sync fails every request of its group and poisons the database: what reached
the disk is unknown, so no later write may be built on it. So does an interrupt (Ctrl-C) between
the append and the end, where the log is ahead of the memtable, and a lease that ran out there.
``shipper.py`` goes on from here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from seerdb.clock import ForwardClock
from seerdb.errors import BusyError, ConflictError, SeerDBError
from seerdb.options import Durability
from seerdb.storage.backlog import Place
from seerdb.storage.batch import Batch
from seerdb.storage.inbox import Inbox
from seerdb.storage.lease.keeper import LeaseKeeper
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable
from seerdb.storage.outward import check_may_wait
from seerdb.storage.poison import Poison
from seerdb.storage.request import CommitStatistics, Request, Sink, Ticket, ready, settle, tell
from seerdb.storage.state import LiveState
from seerdb.storage.wal.format import encode_record
from seerdb.storage.wal.writer import LogWriter

MAX_GROUP_BYTES = 4 << 20
MAX_GROUP_REQUESTS = 1024

RECORD_OVERHEAD = 64
"""At least what the log adds to the payload of a record."""

SYNC_AHEAD_BYTES = 8 << 20
"""What may be left to sync where a segment ends, for which the writer waits."""

SHORT_WAIT_SECONDS = 0.01
"""How long the timer waits for the mutex."""

LEVELS = {level.value: rank for rank, level in enumerate(Durability)}
MEMORY, INTERVAL, LOCAL, OBJECT = range(4)


class CommitEnv(Protocol):
    """What the write path needs of its surroundings."""

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        """Slow the writer down as the pressure demands, when ``appended`` bytes of log have been
        written in all; returns at how many to ask again."""

    def admit(self) -> None:
        """Wait until one more memtable may be sealed. Raises ``BusyError``, ``DiskFullError``."""

    def sealed(self, memtable: Memtable) -> None:
        """A memtable was sealed; have it flushed."""

    def poisoned(self, cause: BaseException) -> None:
        """The write path failed for good."""

    def current_seq(self, key: bytes) -> int:
        """The seq of the newest version of ``key``; 0 when it is absent or deleted.

        All writers wait for the answer: who expects something has the key loaded before.
        """

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call later on another thread."""

    def ship(self, seq: int, tickets: list[Ticket]) -> None:
        """Tell each ticket its seq once everything up to ``seq`` is in the bucket."""


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
        self._capacity = memtable_capacity
        self._sync_interval = sync_interval
        self._lease = lease
        self._alone_at = MEMORY if lease is None else None  # the level at which puts need no leader
        self._mutex = threading.Lock()
        self._first_seq = self._segment_seq = live.visible_seq + 1  # of this committer's life
        # Self-synchronised: appended to by any thread, taken from by the leader.
        self._queue: deque[Request] = deque()
        self._inbox: Inbox[Request] = Inbox()
        # Guarded by the mutex.
        self._synced_at = clock.monotonic()
        self._sync_due, self._unstarted = False, True
        self._room = 0  # bytes that lone puts may take; 0 while somebody leads
        self._hold_back_at = 0  # bytes of log in all
        self._commits = self._operations = self._groups = self._largest_group = 0  # no lone puts
        self._sealed_bytes = 0  # of memtables

    def put(self, key: bytes, value: bytes, level: int) -> int:
        """Commit one put."""
        live, lock = self._live, self._live.lock
        if level == self._alone_at and not self._queue and lock.acquire(False):  # noqa: FBT003 - by name costs more
            error: BaseException | None = None
            try:
                room = self._room - len(key) - len(value) - ENTRY_OVERHEAD
                if room >= 0 and self._poison.cause is None:
                    clock = self._clock
                    wall_ns = clock.wall_ns  # called by attribute, it would be searched for
                    now = wall_ns() // 1000
                    if now < clock.told_us:  # what was seen to expire must not outlive a crash
                        now = clock.told_us
                    if now > clock.committed_us:
                        clock.committed_us = now
                    seq = live.visible_seq + 1
                    try:
                        self._log.append_put(seq, clock.committed_us, key, value)
                        live.current.active.put(seq, key, value, self._room - room)
                        self._room, live.visible_seq = room, seq
                    except BaseException as failure:  # noqa: BLE001 - raised below
                        error, is_news = failure, self._poison.set(failure)
                    else:
                        return seq
            finally:
                lock.release()
            if error is not None:
                if is_news:
                    self._env.poisoned(error)
                raise self._poison.error() if isinstance(error, Exception) else error
        batch = Batch()
        batch.put(key, value)
        return self.commit(batch, level, None)

    def commit(self, batch: Batch, level: int, expect: tuple[bytes, int] | None) -> int:
        """Commit a batch and return its seq; waits until it is durable as ``level`` asks,
        short of ``object``: the caller then waits for the shipper.

        Requires: the batch is not empty; nobody adds to it, not even after an interrupt
        (Ctrl-C), for it may yet be committed.
        """
        check_may_wait("a write")
        request = Request(self._ready(batch), level, expect)
        self._queue.append(request)
        with self._leading():
            while not request.done:
                self._commit_group()
        if request.error is not None:
            raise request.error
        return request.seq

    def _ready(self, batch: Batch) -> Batch:
        return ready(batch, self._live.current.active.operator, self._clock.now_us)

    def submit(
        self,
        batch: Batch,
        level: int,
        expect: tuple[bytes, int] | None,
        ticket: object,
        sink: Sink,
    ) -> None:
        """Queue a batch and return at once; ``sink`` hears of it, once per group.

        Takes the operations out of the batch, which is empty then. Requires:
        :meth:`serve_inbox` runs on a thread; the batch is not empty. Raises, and leaves the
        batch as it is: ``BusyError`` when too much waits already, or what poisoned the database.
        """
        self._poison.check()
        request = Request(self._ready(batch), level, expect, ticket, sink)
        self._inbox.reserve(len(request.payload))
        batch.clear()
        self._inbox.put(request)

    def serve_inbox(self) -> None:
        """Commit what :meth:`submit` queues, until :meth:`stop_inbox`. Raises what a sink raises;
        called again it goes on with what is left."""
        queue, ended = self._queue, False
        while not ended:
            with self._leading():
                while queue:
                    self._commit_group()
            queue.extend(requests := self._inbox.take(MAX_GROUP_REQUESTS))
            ended = not requests

    def stop_inbox(self) -> None:
        """Let :meth:`serve_inbox` return once it has served what is queued."""
        self._inbox.stop()

    @contextmanager
    def _leading(self) -> Iterator[None]:
        """Meanwhile nobody else writes; after it lone puts may, as far as there is room."""
        with self._mutex:
            with self._live.lock:
                self._room = 0
            try:
                yield
            finally:
                if not self._unstarted:
                    left = self._capacity - self._live.current.active.size
                    unhindered = self._hold_back_at - self._log.appended
                    self._room = min(left, self._log.room, unhindered)

    def _commit_group(self) -> None:
        group = self._take_group()
        if not group:
            return
        try:
            self._poison.check()
            if self._lease is not None:
                self._lease.require()
            self._make_room(sum(len(request.payload) + RECORD_OVERHEAD for request in group))
            self._check_expectation(group)
        except SeerDBError as error:
            self._finish(group, error)
            return
        except BaseException:
            interrupted = "the thread that led this group of writes was interrupted; try again"
            self._finish(group, BusyError(interrupted, retry_after_seconds=0.0))
            raise
        self._clock.committing = True
        try:
            self._publish(group, self._write(group))
        except BaseException as error:
            self._finish(group, self._fail(error))
            if isinstance(error, Exception):
                return  # every waiter gets it
            raise
        finally:
            self._clock.committing = False
        self._count(group)
        self._finish(group, None)

    def _publish(self, group: list[Request], last: int) -> None:
        live, time_us = self._live, self._clock.committed_us
        with live.lock:
            active = live.current.active
            for request in group:
                active.apply(request.seq, request.kinds, request.keys, request.values, time_us)
            live.visible_seq = last

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

    def _check_expectation(self, group: list[Request]) -> None:
        expect = group[0].expect
        if expect is None:
            return
        key, wanted = expect
        try:
            current = self._env.current_seq(key)
        except SeerDBError as failure:
            self._finish([group.pop(0)], failure)
            return
        if current == wanted:
            return
        found = f"its seq is {current}" if current else "it is absent"
        words = f"expected {f'seq {wanted}' if wanted else 'it to be absent'}, but {found}"
        self._finish([group.pop(0)], ConflictError(f"the write to {key!r} {words}"))

    def _write(self, group: list[Request]) -> int:
        log, seq = self._log, self._live.visible_seq
        timestamp = self._timestamp()
        records, level = [], MEMORY
        for request in group:
            seq += 1
            request.seq = seq
            records.append(encode_record(seq, timestamp, request.payload, log.salt))
            level = max(level, request.level)
        if records:
            log.append(b"".join(records))
        if level >= LOCAL:
            self._sync()
        elif level == INTERVAL:
            self._sync_within_interval()
        if self._lease is not None:
            self._lease.confirm()
        return seq

    def _timestamp(self) -> int:
        """Microseconds since 1970, never going back whatever the wall clock does."""
        self._clock.committed_us = now = self._clock.now_us()
        return now

    def _sync(self) -> None:
        self._log.sync()
        self._synced_at = self._clock.monotonic()

    def _sync_within_interval(self) -> None:
        if self._clock.monotonic() - self._synced_at >= self._sync_interval:
            self._sync()
        elif not self._sync_due:
            self._sync_due = True
            self._env.call_later(self._sync_interval, self._sync_late)

    def _sync_late(self) -> None:
        # The timer's thread serves others too. Who leads for long has synced before it waited.
        if not self._mutex.acquire(timeout=SHORT_WAIT_SECONDS):
            self._env.call_later(SHORT_WAIT_SECONDS, self._sync_late)
            return
        try:
            if self._poison.cause is None:
                self._sync_if_due()
        except SeerDBError as error:
            self._fail(error)
        finally:
            self._mutex.release()

    def _sync_if_due(self) -> None:
        """What a writer does before it waits while it leads: nobody else can sync then."""
        if self._sync_due:
            self._sync_due = False
            self._sync_or_fail()

    def _fail(self, error: BaseException) -> SeerDBError:
        if self._poison.set(error):
            self._env.poisoned(error)
        return self._poison.error()

    def _finish(self, group: list[Request], error: SeerDBError | None) -> None:
        sinks, shipped = settle(group, error, OBJECT)
        if sinks or shipped:
            sizes = [len(request.payload) for request in group if request.sink is not None]
            self._inbox.finish(len(sizes), sum(sizes))
        for sink, outcomes in sinks.items():
            tell(sink, outcomes)
        if shipped:
            self._env.ship(shipped[-1][2], shipped)

    def _count(self, group: list[Request]) -> None:
        self._commits += len(group)
        self._operations += sum(len(request.kinds) for request in group)
        self._groups += 1
        self._largest_group = max(self._largest_group, len(group))

    def _make_room(self, size: int) -> None:
        """Freeze before write: a full memtable is sealed before the group that overflows it."""
        if self._unstarted:
            self._start_segment()
        log = self._log
        if log.appended >= self._hold_back_at:
            self._hold_back_at = self._env.hold_back(log.appended, self._sync_if_due)
        active = self._live.current.active
        if active and (active.size >= self._capacity or not log.fits(size)):
            self._sync_if_due()
            self._env.admit()
            self._rotate()
            self._start_segment()

    def _rotate(self) -> None:
        """Seal the active memtable together with its segment; the next write starts another."""
        log, live = self._log, self._live
        try:
            # Each record has a seq of its own, and none is left out.
            log.seal(live.visible_seq, live.visible_seq - self._segment_seq + 1)
        except SeerDBError as error:
            raise self._fail(error) from error
        self._unstarted = True
        operator = live.current.active.operator
        live.current.active.last_us = self._clock.committed_us
        sealed = live.rotate(Memtable([log.segment + 1], operator))
        self._sealed_bytes += sealed.size
        self._env.sealed(sealed)

    def _start_segment(self) -> None:
        """Give the active memtable its segment; tried again by the next writer if it fails."""
        self._segment_seq = self._live.visible_seq + 1
        self._log.start(self._live.current.active.segments[0], self._segment_seq)
        self._live.current.active.first_us = self._timestamp()
        self._unstarted = False

    def rotate(self) -> int:
        """Seal the active memtable if it holds anything; returns the seq it reaches."""
        with self._leading():
            if self._live.current.active:
                self._poison.check()
                self._rotate()
            return self._live.visible_seq

    def insert(self, flush: Callable[[int], None], publish: Callable[[int], None]) -> int:
        """Seal and ``flush`` all there is, up to the seq it is given, then have ``publish`` show
        what takes the next one, which is returned. All writers wait. If ``publish`` fails, the
        bucket may know that seq by then: an empty commit takes it, no other write gets it (I3)."""
        with self._leading():
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
            self._segment_seq = seq + 1  # no record has it
            self._commits += 1
            return seq

    def _skip_seq(self) -> None:
        """Commit nothing, before anything else. If that fails, nothing may be committed at all."""
        request = Request(Batch(), MEMORY, None)
        self._queue.appendleft(request)
        self._commit_group()
        if request.error is not None:
            self._fail(request.error)

    def sync_ahead(self) -> None:
        """Sync if much is not, beside the writers, before one of them has to wait for it."""
        if self._log.unsynced >= SYNC_AHEAD_BYTES and self._poison.cause is None:
            self._sync_or_fail()

    def _sync_or_fail(self) -> None:
        self._poison.check()
        try:
            self._sync()
        except SeerDBError as error:
            raise self._fail(error) from error

    def position(self, wait: float = -1) -> Place | None:
        """Up to where the log goes, synced; ``None`` if a writer leads for longer than ``wait``."""
        if not self._mutex.acquire(timeout=wait):
            return None
        try:
            with self._live.lock:
                self._room = self._hold_back_at = 0  # so that the next write asks ``hold_back``
                place, synced = self.place(), self._log.synced
        finally:
            self._mutex.release()
        if synced < place.offset:
            self._sync_or_fail()
        return place

    def place(self) -> Place:
        """Up to where the log goes. Requires: the mutex, as calls of ``CommitEnv`` have it."""
        return Place(self._log.segment, self._log.position, self._live.visible_seq)

    def statistics(self) -> CommitStatistics:
        """A copy of the counters."""
        commits = self._live.visible_seq - self._first_seq + 1
        lone_puts = commits - self._commits
        operations = self._operations + lone_puts
        # What lone puts add is counted by the memtables alone.
        size = self._sealed_bytes + self._live.current.active.size
        return CommitStatistics(
            commits=commits,
            operations=operations,
            user_bytes=max(0, size - ENTRY_OVERHEAD * operations),
            groups=self._groups + lone_puts,
            largest_group=self._largest_group,
            queued=len(self._inbox) + len(self._queue),
        )
