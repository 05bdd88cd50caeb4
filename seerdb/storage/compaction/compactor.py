"""Doing what the policy plans, one plan at a time.

As a flush does, it remembers what was uploaded until the manifest edit is in effect; and when
one part of a plan fails, the parts that are done.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from seerdb.clock import ForwardClock
from seerdb.events import CompactionCompleted, Listener
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.planner import Planner
from seerdb.storage.compaction.run import CompactionJob, run_compaction
from seerdb.storage.flush import TableFormat
from seerdb.storage.jobs import JobRunner
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.outputs import TableOutputs
from seerdb.storage.publish import Publisher
from seerdb.storage.table_store import TableStore
from seerdb.storage.value import SECOND_US


class CompactionStatistics(msgspec.Struct, frozen=True):
    """Since the database was opened; ``seconds`` are those of the jobs."""

    compactions: int = 0
    """Merges."""
    moves: int = 0
    """Plans done without reading or writing a table."""
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0


@dataclass
class _Work:
    """A plan under way."""

    plan: Plan
    asked: int
    """Up to which number the full merges that were asked for are done with it."""
    tables: list[TableMeta] = field(default_factory=list)
    """Outputs of the parts that are done."""
    parts_done: int = 0
    seconds: float = 0.0


class Compactor:
    """The work of the compaction lane."""

    def __init__(
        self,
        publisher: Publisher,
        tables: TableStore,
        outputs: TableOutputs,
        runner: JobRunner,
        *,
        planner: Planner,
        table_format: TableFormat,
        clock: ForwardClock,
        listener: Listener,
    ) -> None:
        self._publisher = publisher
        self._tables = tables
        self._outputs = outputs
        self._runner = runner
        self._planner = planner
        self._format = table_format
        self._clock = clock
        self._listener = listener
        self._work: _Work | None = None
        self.statistics = CompactionStatistics()
        self._lock = threading.Lock()
        self._full_asked = 0
        self.full_done = 0
        """Up to which number the full merges that were asked for are done."""

    def compact_one(self) -> bool:
        """Do what is due; returns whether there was something."""
        if self._work is None:
            self._work = self._next()
        work = self._work
        if work is None:
            return False
        if work.plan.move:
            self._move(work.plan)
        else:
            self._merge(work)
        self._work = None
        self.full_done = work.asked
        return True

    def ask_for_full(self) -> int:
        """Have the next merge take everything; see ``full_done`` for the number returned.
        Thread-safe."""
        with self._lock:
            self._full_asked += 1
            return self._full_asked

    def _next(self) -> _Work | None:
        asked, version = self._full_asked, self._publisher.settled_version()
        if asked > self.full_done:
            plan = self._planner.everything(version)
            if plan is not None:
                return _Work(plan, asked)
            self.full_done = asked
        plan = self._planner.next(version)
        return _Work(plan, self.full_done) if plan is not None else None

    def _move(self, plan: Plan) -> None:
        tables = [replace(table, level=plan.level, run=plan.run) for table in plan.tables]
        self._publisher.compacted([table.id for table in tables], tables)
        self.statistics = replace(self.statistics, moves=self.statistics.moves + 1)

    def _merge(self, work: _Work) -> None:
        for start, end in work.plan.parts[work.parts_done :]:
            work.tables += self._merge_part(work, start, end)
            work.parts_done += 1
        inputs = [table.id for table in work.plan.tables]
        # Before the edit, or the collector could come between the two.
        self._outputs.removed(inputs)
        self._publisher.compacted(inputs, work.tables)
        self._account(work)

    def _merge_part(
        self, work: _Work, start: bytes | None, end: bytes | None
    ) -> tuple[TableMeta, ...]:
        started = self._clock.monotonic()
        outputs = self._outputs.begin(CompactionJob.outputs_needed(work.plan, start, end))
        settled = self._clock.settled_us() // SECOND_US  # before looking where operands are
        job = CompactionJob(
            work.plan,
            start,
            end,
            outputs,
            self._format,
            now_us=self._clock.now_us(),
            forgotten=min(settled, self._publisher.merged_elsewhere(work.plan.tables)),
            expiring_below=self._publisher.expires,
        )
        made: tuple[TableMeta, ...] = ()
        try:
            made = self._runner.run(run_compaction, job, Purpose.COMPACTION).tables
        finally:
            self._outputs.finish(set(outputs) - {table.id for table in made})
        work.seconds += self._clock.monotonic() - started
        return made

    def _account(self, work: _Work) -> None:
        inputs, outputs = work.plan.tables, work.tables
        self._outputs.finish(table.id for table in outputs)
        self._tables.drop_cached(table.id for table in inputs)
        bytes_read = sum(table.size for table in inputs)
        bytes_written = sum(table.size for table in outputs)
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
