"""Bringing sealed memtables into the bucket, oldest first.

What a job uploaded is remembered until its manifest edit is known to be in effect: a commit
that failed with an unknown outcome is tried again with the same table, never made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from seerdb.clock import Clock
from seerdb.errors import InternalError
from seerdb.events import FlushCompleted, Listener, WorkFailed
from seerdb.ids import TableId
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import FlushJob, FlushResult, TableFormat, run_flush
from seerdb.storage.jobs.runners import JobRunner
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.read.state import LiveState
from seerdb.storage.retention.outputs import TableOutputs


class FlushStatistics(msgspec.Struct, frozen=True):
    """Since the database was opened; ``seconds`` are those of the jobs."""

    flushes: int = 0
    bytes: int = 0
    entries: int = 0
    seconds: float = 0.0
    unproved: int = 0
    """Flushes of which it could not be told whether they hold what the log has, because that is
    damaged."""


@dataclass(frozen=True)
class _Built:
    memtable: Memtable
    result: FlushResult
    log_start: int
    """The first segment of what is newer."""
    seconds: float


class Flusher:
    """The work of the flush lane."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        live: LiveState,
        publisher: Publisher,
        outputs: TableOutputs,
        runner: JobRunner,
        *,
        wal_directory: str,
        table_format: TableFormat,
        clock: Clock,
        listener: Listener,
        is_worth_warming: Callable[[], bool],
    ) -> None:
        """``is_worth_warming``: whether to bring a table into memory; asked once for each."""
        self._live = live
        self._publisher = publisher
        self._outputs = outputs
        self._runner = runner
        self._wal_directory = wal_directory
        self._format = table_format
        self._clock = clock
        self._listener = listener
        self._is_worth_warming = is_worth_warming
        self._built: _Built | None = None
        self.statistics = FlushStatistics()

    def flush_one(self) -> list[int] | None:
        """Flush the oldest sealed memtable; returns the segments that nobody needs any more,
        ``None`` when no memtable is sealed."""
        built = self._built or self._build_oldest()
        if built is None:
            return None
        memtable, warm = built.memtable, self._is_worth_warming()
        self._publisher.flushed(memtable, built.result.table, built.log_start, warm=warm)
        try:
            self._account(built)
        finally:
            self._built = None
        return memtable.segments

    def has_reached(self, seq: int) -> bool:
        """Whether what was committed up to ``seq`` is in tables that reads see, and was told of.
        Requires: no active memtable holds any of it. For any thread."""
        if self._live.current.seals(seq):
            return False
        built = self._built  # until all know of it
        return built is None or built.memtable.last_seq > seq

    def _build_oldest(self) -> _Built | None:
        memtables = self._live.current.memtables
        if len(memtables) > 1:
            self._built = self._build(memtables[-1], memtables[-2].segments[0])
        return self._built

    def _build(self, memtable: Memtable, log_start: int) -> _Built:
        started = self._clock.monotonic()
        runs = self._publisher.settled_version().runs
        outputs = self._outputs.begin()
        [table] = outputs
        made: set[TableId] = set()
        try:
            # In memory entries take more than in a table.
            with self._publisher.pins.room(0, memtable.size, outputs) as copies:
                job = FlushJob(
                    directory=self._wal_directory,
                    segments=tuple(memtable.segments),
                    table=table,
                    run=1 + max((run.number for run in runs), default=0),
                    format=self._format,
                    memtable=memtable if self._runner.shares_memory else None,
                    copies=copies,
                    after=self._publisher.flushed_seq,
                )
                result = self._runner.run(run_flush, job, Purpose.FLUSH)
                if result.last_seq != memtable.last_seq:
                    raise InternalError(
                        f"segments {memtable.segments} end at seq {result.last_seq}, their "
                        f"memtable at {memtable.last_seq}"
                    )
                if result.table is not None:
                    self._publisher.pins.adopt([result.table])
                    made.add(result.table.id)
        finally:
            self._outputs.finish(set(outputs) - made)
        return _Built(memtable, result, log_start, self._clock.monotonic() - started)

    def _account(self, built: _Built) -> None:
        table = built.result.table
        entries, size = (table.entries, table.bytes_made) if table else (0, 0)
        if table is not None:
            self._outputs.finish([table.id])
        total = self.statistics
        self.statistics = FlushStatistics(
            total.flushes + 1,
            total.bytes + size,
            total.entries + entries,
            total.seconds + built.seconds,
            total.unproved + bool(built.result.unproved),
        )
        if built.result.unproved:
            self._listener(WorkFailed("prove a flush", built.result.unproved, 1, 0.0))
        self._listener(
            FlushCompleted(
                segments=built.memtable.segments,
                table=table.id if table else None,
                entries=entries,
                bytes=size,
                last_seq=built.memtable.last_seq,
                seconds=built.seconds,
            )
        )
