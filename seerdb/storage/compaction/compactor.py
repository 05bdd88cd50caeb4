"""Doing the merges that the plan asks for, one at a time.

As a flush does, it remembers what was uploaded until the manifest edit is in effect.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import msgspec

from seerdb.clock import Clock
from seerdb.events import CompactionCompleted, Listener
from seerdb.storage.compaction.plan import Plan, plan_compaction, plan_full
from seerdb.storage.compaction.run import CompactionJob, CompactionResult, run_compaction
from seerdb.storage.flush import TableFormat
from seerdb.storage.jobs import JobRunner
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.outputs import TableOutputs
from seerdb.storage.publish import Publisher
from seerdb.storage.table_store import TableStore


class CompactionStatistics(msgspec.Struct, frozen=True):
    """Since the database was opened; ``seconds`` are those of the jobs."""

    compactions: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Merged:
    plan: Plan
    asked: int
    result: CompactionResult
    seconds: float

    @property
    def inputs(self) -> list[TableMeta]:
        return [table for run in self.plan.runs for table in run.tables]


class Compactor:
    """The work of the compaction lane."""

    def __init__(
        self,
        publisher: Publisher,
        tables: TableStore,
        outputs: TableOutputs,
        runner: JobRunner,
        *,
        table_format: TableFormat,
        clock: Clock,
        listener: Listener,
    ) -> None:
        self._publisher = publisher
        self._tables = tables
        self._outputs = outputs
        self._runner = runner
        self._format = table_format
        self._clock = clock
        self._listener = listener
        self._merged: _Merged | None = None
        self.statistics = CompactionStatistics()
        self._lock = threading.Lock()
        self._full_asked = 0
        self.full_done = 0
        """Up to which number the full merges that were asked for are done."""

    def compact_one(self) -> bool:
        """Do the merge that is due; returns whether there was one."""
        merged = self._merged
        if merged is None:
            asked, version = self._full_asked, self._publisher.version
            plan = plan_full(version) if asked > self.full_done else plan_compaction(version)
            if plan is None:
                self.full_done = asked
                return False
            merged = self._merged = self._merge(plan, asked)
        inputs = [table.id for table in merged.inputs]
        # Before the edit, or the collector could come between the two.
        self._outputs.removed(inputs)
        self._publisher.compacted(inputs, merged.result.tables)
        self._merged = None
        if merged.plan.everything:
            self.full_done = merged.asked
        self._account(merged)
        return True

    def ask_for_full(self) -> int:
        """Have the next merge take everything; see ``full_done`` for the number returned.
        Thread-safe."""
        with self._lock:
            self._full_asked += 1
            return self._full_asked

    def _merge(self, plan: Plan, asked: int) -> _Merged:
        started = self._clock.monotonic()
        outputs = self._outputs.begin(CompactionJob.outputs_needed(plan))
        job = CompactionJob(plan=plan, outputs=outputs, format=self._format)
        result = self._runner.run(run_compaction, job, Purpose.COMPACTION)
        self._outputs.finish(set(outputs) - {table.id for table in result.tables})
        return _Merged(plan, asked, result, self._clock.monotonic() - started)

    def _account(self, merged: _Merged) -> None:
        inputs, outputs = merged.inputs, merged.result.tables
        self._outputs.finish(table.id for table in outputs)
        self._tables.drop_cached(table.id for table in inputs)
        bytes_read = sum(table.size for table in inputs)
        bytes_written = sum(table.size for table in outputs)
        total = self.statistics
        self.statistics = CompactionStatistics(
            total.compactions + 1,
            total.bytes_read + bytes_read,
            total.bytes_written + bytes_written,
            total.seconds + merged.seconds,
        )
        self._listener(
            CompactionCompleted(
                inputs=[table.id for table in inputs],
                outputs=[table.id for table in outputs],
                bytes_read=bytes_read,
                bytes_written=bytes_written,
                entries=sum(table.entries for table in outputs),
                seconds=merged.seconds,
            )
        )
