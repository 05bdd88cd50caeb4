"""Doing what the policy plans and what people ask for, several plans beside each other.

Each slot of the compaction lane has a plan of its own, or helps another with the parts of its plan.
A plan that fails is tried again in its slot. What was uploaded is remembered until the manifest
edit is in effect, and when one part of a plan fails, the parts that are done.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from seerdb.clock import ForwardClock
from seerdb.errors import BusyError, ClosedError, CorruptionError
from seerdb.events import CompactionCompleted, Listener
from seerdb.ids import TableId
from seerdb.storage.compaction.ledger import check_merge
from seerdb.storage.compaction.parts import Part, PartMerger
from seerdb.storage.compaction.plan import Plan, check_plan, collides
from seerdb.storage.compaction.planner import Planner
from seerdb.storage.compaction.requests import Request, Requests
from seerdb.storage.compaction.work import (
    CompactionStatistics,
    JobStatistics,
    Limits,
    Work,
)
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.retention.outputs import TableOutputs


class Compactor:
    """The work of the compaction lane. Thread-safe, but that a slot is one thread's at a time."""

    def __init__(
        self,
        publisher: Publisher,
        outputs: TableOutputs,
        merger: PartMerger,
        *,
        planner: Planner,
        limits: Limits,
        clock: ForwardClock,
        listener: Listener,
    ) -> None:
        self._publisher = publisher
        self._outputs = outputs
        self._merger = merger
        self._planner = planner
        self._limits = limits
        self._clock = clock
        self._listener = listener
        self._ids = itertools.count(1)
        self._requests = Requests()
        # Guarded by the lock, but to look:
        self._lock = threading.Lock()
        self._job_ended = threading.Condition(self._lock)
        self._works: dict[int, Work] = {}
        self._helping = 0
        self._is_cancelled = self._is_paused = False
        self.statistics = CompactionStatistics()
        self._wake: Callable[[], None] = lambda: None

    def attend(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when other slots have something to help with."""
        self._wake = wake

    def compact_one(self, slot: int = 0) -> bool:
        """Do what is due beside what other slots do; returns whether something was done.

        Raises: what made it fail, when it is to be called again, with the same slot;
        ``ClosedError`` after :meth:`cancel`.
        """
        work = None
        try:
            work = self._works.get(slot) or self._begin(slot)
            if work is None:
                return self._help()
            if work.plan.move:
                self._move(work)
            else:
                self._merge(work)
        except BaseException as error:
            if work is not None and self._is_to_be_given_up(work):
                self._give_up(slot, work)
                return not self._is_paused
            self._tell_requests(work, error)
            raise
        self._end(slot, work)
        return True

    def ask(self, start: bytes | None = None, end: bytes | None = None) -> Request:
        """Have all in ``[start, end)`` merged as soon as possible: wake the lane, and wait for what
        is returned to be over. After :meth:`cancel` it is at once."""
        request = self._requests.add(start, end)
        if self._is_cancelled:
            self._refuse_requests()
        return request

    def cancel(self) -> None:
        """End what runs, within about a second, and begin nothing more; nudge the lane, for what
        was asked for is over. What was made and not published is garbage; nothing is lost. Never
        waits."""
        self._is_cancelled = True
        for work in list(self._works.values()):
            work.cancel()
        self._refuse_requests()

    def _refuse_requests(self) -> None:
        self._requests.tell(ClosedError("the database is being closed; it merges no more"))

    def pause(self) -> None:
        """Begin nothing before :meth:`resume`. What runs ends within about a second and is given
        up; what people asked for is done later. Wake the lane, and wait until it ``is_idle``."""
        with self._lock:
            self._is_paused = True
            works = list(self._works.values())
        for work in works:
            work.cancel()

    def resume(self) -> None:
        """Go on. Wake the lane then."""
        self._is_paused = False

    @property
    def is_paused(self) -> bool:
        """Whether nothing begins before :meth:`resume`."""
        return self._is_paused

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing waits to be tried again."""
        return not self._works

    def jobs(self) -> list[JobStatistics]:
        """What is under way, the oldest first. Never waits."""
        now = self._clock.now()
        works = sorted(self._works.values(), key=lambda work: work.id)
        return [work.statistics(now) for work in works]

    def merging(self) -> set[TableId]:
        """The tables of the plans that are under way, or wait to be tried again. Never waits."""
        works = list(self._works.values())
        return {table.id for work in works for table in work.plan.tables}

    @property
    def shape(self) -> str:
        """See :attr:`Planner.shape`."""
        return self._planner.shape

    def _begin(self, slot: int) -> Work | None:
        with self._lock:
            if self._room() <= 0:
                return None
            version = self._publisher.settled_version()
            running = [work.plan for work in self._works.values()]
            work = self._requested(version, running) or self._planned(version, running)
            if work is None:
                return None
            check_plan(version, work.plan, running)
            self._works[slot] = work
        if self._is_cancelled:  # it may have missed the call
            work.cancel()
        return work

    def _room(self) -> int:
        """For how many more jobs there is."""
        if self._is_cancelled or self._is_paused:
            return 0
        return self._limits.at_once() - len(self._works) - self._helping

    def _requested(self, version: Version, running: Sequence[Plan]) -> Work | None:
        """The next step of the first request that can go on now."""
        busy = list(running)
        begun = {work.request for work in self._works.values()}
        for request in self._requests.open():
            if request not in begun:
                step = self._planner.step(version, request)
                whole = self._planner.whole(version, request, self._limits.at_once()) or step
                request.plan = whole
                if whole is None:
                    self._requests.close(request)
                    continue
                plan = step or whole
                if not any(collides(plan, other) for other in busy):
                    return self._work(plan, request, is_last=step is None)
            if request.plan is not None:
                busy.append(request.plan)
        return None

    def _planned(self, version: Version, running: Sequence[Plan]) -> Work | None:
        """What the policy wants, out of the way of what people ask for, which would have to wait
        for it."""
        asked = [request.plan for request in self._requests.open() if request.plan is not None]
        plan = self._planner.next(version, [*running, *asked])
        return self._work(plan) if plan is not None else None

    def _work(self, plan: Plan, request: Request | None = None, *, is_last: bool = True) -> Work:
        return Work(next(self._ids), plan, self._clock.now(), request, is_last)

    def _end(self, slot: int, work: Work) -> None:
        with self._lock:
            del self._works[slot]
            if work.request is not None and work.is_last:
                self._requests.close(work.request)

    def _is_to_be_given_up(self, work: Work) -> bool:
        """Whether a pause has cancelled it, which may be over: nothing of it would ever be done."""
        return self._is_paused or (work.is_cancelled and not self._is_cancelled)

    def _give_up(self, slot: int, work: Work) -> None:
        with self._lock:
            self._job_ended.wait_for(lambda: not work.is_running)
            del self._works[slot]
        # Should its edit be in effect all the same, the manifest names them.
        self._let_go(work)

    def _let_go(self, work: Work) -> None:
        """What it has made is garbage, its copies on the local disk too."""
        made = [table.id for table in work.tables]
        self._outputs.finish(made)
        self._publisher.pins.disown(made)

    def _tell_requests(self, work: Work | None, error: BaseException) -> None:
        """Those that have to wait because ``work`` has failed; ``None``: nothing could begin."""
        self._requests.tell(
            error,
            lambda request: (
                work is None or work.request is request or _keeps_waiting(request, work)
            ),
        )

    def _move(self, work: Work) -> None:
        plan = work.plan
        tables = [replace(table, level=plan.level, run=plan.run) for table in plan.tables]
        self._publish(work, tables)
        with self._lock:
            self.statistics = replace(self.statistics, moves=self.statistics.moves + 1)

    def _merge(self, work: Work) -> None:
        while (part := self._next_part(work)) is not None:
            self._merge_part(work, part)
            self._call_for_help()
        self._check(work)
        # Before the edit, or the collector could come between the two.
        self._outputs.removed(work.plan.tables)
        self._publish(work, work.tables)
        self._account(work)

    def _next_part(self, work: Work) -> Part | None:
        """What is to be merged now, once it is known whether those that help can do theirs;
        ``None``: all is done."""
        with self._lock:
            self._job_ended.wait_for(lambda: work.next_part() or work.is_done)
            part = work.next_part()
            if part is not None:
                self._take(part)
            return part

    def _call_for_help(self) -> None:
        """A cluster tells how many jobs it takes once it has the first, and what ran beside this
        work may be done."""
        with self._lock:
            found = self._part_to_help_with()
        if found is not None:
            with suppress(BusyError, ClosedError):  # then nobody helps
                self._wake()

    def _help(self) -> bool:
        """Merge a part of a plan of another slot; returns whether one was left."""
        with self._lock:
            found = self._part_to_help_with()
            if found is None:
                return False
            work, part = found
            self._take(part)
            self._helping += 1
        try:
            self._merge_part(work, part)
        except BaseException as error:
            if part.control.is_cancelled and not self._is_cancelled:  # by a pause, perhaps over
                return False
            self._tell_requests(work, error)
            raise
        finally:
            with self._lock:
                self._helping -= 1
        return True

    def _part_to_help_with(self) -> tuple[Work, Part] | None:
        """Of the oldest plan that has one. The last free place is for what people asked for only:
        else fresh runs, which come all the time, would have to wait until a part is done."""
        room = self._room()
        for work in self._works.values():
            part = work.next_part(beside=True)
            if part is not None and room > (work.request is None):
                return work, part
        return None

    def _take(self, part: Part) -> None:
        part.is_running = True
        self._share_rate()

    def _share_rate(self) -> None:
        running = [part for work in self._works.values() for part in work.parts if part.is_running]
        for part in running:
            part.control.rate = self._limits.share(len(running))

    def _merge_part(self, work: Work, part: Part) -> None:
        started = self._clock.monotonic()
        result = None
        try:
            result = self._merger.run(work.plan, part)
        finally:
            with self._lock:
                part.finish(result, self._clock.monotonic() - started)
                self._share_rate()
                self._job_ended.notify_all()

    def _check(self, work: Work) -> None:
        """That nothing is lost; else all parts are made again."""
        try:
            check_merge(work.plan.tables, work.tables, work.dropped)
        except CorruptionError:
            self._let_go(work)
            work.start_over()
            raise

    def _publish(self, work: Work, tables: Sequence[TableMeta]) -> None:
        """Once more held against the order, of the version as it is now, with what has come and
        gone since the plan was made; but not when an earlier attempt may be in effect."""
        if not work.is_checked:
            version = self._publisher.settled_version()
            with self._lock:
                others = [each.plan for each in self._works.values() if each is not work]
            check_plan(version, work.plan, others)
            work.is_checked = True
        self._publisher.compacted([table.id for table in work.plan.tables], tables)

    def _account(self, work: Work) -> None:
        inputs, outputs = work.plan.tables, work.tables
        self._outputs.finish(table.id for table in outputs)
        bytes_read = sum(table.size for table in inputs)
        bytes_written = sum(table.bytes_made for table in outputs)
        with self._lock:
            total = self.statistics
            self.statistics = CompactionStatistics(
                total.compactions + 1,
                total.moves,
                total.bytes_read + bytes_read,
                total.bytes_written + bytes_written,
                total.seconds + work.seconds,
            )
        self._listener(
            CompactionCompleted(
                inputs=[table.id for table in inputs],
                outputs=[table.id for table in outputs],
                bytes_read=bytes_read,
                bytes_written=bytes_written,
                entries=sum(table.entries for table in outputs),
                seconds=work.seconds,
            )
        )


def _keeps_waiting(request: Request, work: Work) -> bool:
    """Whether a request cannot go on before ``work``, or nobody could look at it yet."""
    return request.plan is None or collides(request.plan, work.plan)
