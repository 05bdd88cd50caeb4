"""The background verbs of one database: flush, compact, collect garbage, keep a spare segment.

Each method is the work of one lane (``workers.py``) and returns whether it did something. What
a job uploaded is remembered until its manifest edit is known to be in effect: a commit that
failed with an unknown outcome is tried again with the same arguments, never made anew.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import InternalError, UnavailableError
from seerdb.events import CompactionCompleted, FlushCompleted, GarbageCollected, Listener
from seerdb.ids import SegmentId, SeqNo, TableId, table_id
from seerdb.options import Options
from seerdb.storage.compaction.plan import Plan, plan_compaction, plan_full
from seerdb.storage.compaction.run import CompactionJob, CompactionResult, run_compaction
from seerdb.storage.flush import FlushJob, FlushResult, TableFormat, run_flush
from seerdb.storage.garbage import GarbageCollector
from seerdb.storage.jobs import JobRunner
from seerdb.storage.layout import Layout
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import parse_table_name, table_name
from seerdb.storage.retention import SegmentRetention
from seerdb.storage.state import LiveState
from seerdb.storage.table_store import TableStore

GRACE_SECONDS = 300.0
"""How long an object that nobody names any more is kept, for readers elsewhere."""


class MaintenanceStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened; seconds are of the jobs."""

    flushes: int = 0
    flushed_bytes: int = 0
    flush_seconds: float = 0.0
    compactions: int = 0
    compacted_bytes_read: int = 0
    compacted_bytes_written: int = 0
    compaction_seconds: float = 0.0
    deleted_objects: int = 0


@dataclass(frozen=True)
class _Flushed:
    memtable: Memtable
    result: FlushResult
    seconds: float


@dataclass(frozen=True)
class _Compacted:
    plan: Plan
    result: CompactionResult
    seconds: float


class Maintenance:
    """See the module docstring. Each method runs on one thread at a time."""

    def __init__(
        self,
        live: LiveState,
        manifest: ManifestWriter,
        tables: TableStore,
        runner: JobRunner,
        garbage: GarbageCollector,
        retention: SegmentRetention,
        *,
        wal_directory: str,
        options: Options,
        clock: Clock,
        listener: Listener,
    ) -> None:
        self._live = live
        self._manifest = manifest
        self._tables = tables
        self._runner = runner
        self._garbage = garbage
        self._retention = retention
        self._wal_directory = wal_directory
        self._clock = clock
        self._listener = listener
        self._format = TableFormat(
            options.block_size, options.compression, options.filter_bits_per_key
        )
        self._counter = itertools.count(1)
        self._flushed: _Flushed | None = None
        self._compacted: _Compacted | None = None
        # Guarded by the lock: the lanes run beside each other.
        self._lock = threading.Lock()
        self._in_flight: set[TableId] = set()
        self._removed_at: dict[TableId, float] = {}
        self._counts = MaintenanceStatistics()
        self.compact_all = False
        """Set to have the next compaction merge everything."""
        self.on_removed: Callable[[], None] = lambda: None
        """Called when tables have left the version."""

    def flush_one(self) -> bool:
        """Flush the oldest sealed memtable (I5)."""
        sealed = self._live.current.sealed
        if not sealed:
            return False
        memtable = sealed[-1]
        flushed = self._flushed
        if flushed is None or flushed.memtable is not memtable:
            flushed = self._flushed = self._build(memtable)
        self._commit_flush(flushed, sealed)
        return True

    def _build(self, memtable: Memtable) -> _Flushed:
        started = self._clock.monotonic()
        table = self._new_table()
        runs = self._manifest.state.version.runs
        job = FlushJob(
            directory=self._wal_directory,
            segments=tuple(memtable.segments),
            table=table,
            run=1 + max((run.number for run in runs), default=0),
            format=self._format,
        )
        result = self._runner.run(run_flush, job, Purpose.FLUSH)
        if result.last_seq != memtable.last_seq:
            raise InternalError(
                f"segments {memtable.segments} end at seq {result.last_seq}, their memtable at "
                f"{memtable.last_seq}"
            )
        return _Flushed(memtable, result, self._clock.monotonic() - started)

    def _commit_flush(self, flushed: _Flushed, sealed: tuple[Memtable, ...]) -> None:
        memtable, table = flushed.memtable, flushed.result.table
        newer = sealed[-2] if len(sealed) > 1 else self._live.current.active
        state = self._manifest.commit(
            add=[table] if table else [],
            last_seq=SeqNo(memtable.last_seq),
            log_start=SegmentId(newer.segments[0]),
            reason="flush",
        )
        rows = self._live.current.layout.rows.without(memtable)
        self._live.release([memtable], Layout(state.version, self._tables, rows))
        self._flushed = None
        self._finish_outputs([table.id] if table else [])
        self._count(
            flushes=1, flushed_bytes=table.size if table else 0, flush_seconds=flushed.seconds
        )
        self._retention.flushed(memtable.segments)
        self._listener(
            FlushCompleted(
                segments=memtable.segments,
                table=table.id if table else None,
                entries=table.entries if table else 0,
                bytes=table.size if table else 0,
                last_seq=memtable.last_seq,
                seconds=flushed.seconds,
            )
        )

    def compact_one(self) -> bool:
        """Do the merge that is due, if any."""
        compacted = self._compacted
        if compacted is None:
            everything = self.compact_all
            version = self._manifest.state.version
            plan = plan_full(version) if everything else plan_compaction(version)
            if plan is None:
                self.compact_all = False
                return False
            compacted = self._compacted = self._merge(plan)
            self.compact_all = self.compact_all and not everything
        self._commit_compaction(compacted)
        self._compacted = None
        return True

    def _merge(self, plan: Plan) -> _Compacted:
        started = self._clock.monotonic()
        job = CompactionJob(
            plan=plan,
            outputs=tuple(self._new_table() for _ in range(CompactionJob.outputs_needed(plan))),
            format=self._format,
        )
        result = self._runner.run(run_compaction, job, Purpose.COMPACTION)
        unused = set(job.outputs) - {table.id for table in result.tables}
        self._finish_outputs(unused)
        return _Compacted(plan, result, self._clock.monotonic() - started)

    def _commit_compaction(self, compacted: _Compacted) -> None:
        inputs = [table for run in compacted.plan.runs for table in run.tables]
        outputs = compacted.result.tables
        state = self._manifest.commit(
            add=outputs, remove=[table.id for table in inputs], reason="compaction"
        )
        now = self._clock.monotonic()
        with self._lock:
            self._removed_at |= {table.id: now for table in inputs}
        rows = self._live.current.layout.rows
        self._live.replace_layout(Layout(state.version, self._tables, rows))
        self._finish_outputs([table.id for table in outputs])
        self._tables.drop_cached(table.id for table in inputs)
        self.on_removed()
        bytes_read = sum(table.size for table in inputs)
        bytes_written = sum(table.size for table in outputs)
        self._count(
            compactions=1,
            compacted_bytes_read=bytes_read,
            compacted_bytes_written=bytes_written,
            compaction_seconds=compacted.seconds,
        )
        self._listener(
            CompactionCompleted(
                inputs=[table.id for table in inputs],
                outputs=[table.id for table in outputs],
                bytes_read=bytes_read,
                bytes_written=bytes_written,
                entries=sum(table.entries for table in outputs),
                seconds=compacted.seconds,
            )
        )

    def collect(self) -> bool:
        """Delete what nobody needs; never has more to do at once."""
        report = self._garbage.run(self._in_use)
        if report.refused:
            raise UnavailableError(f"nothing was deleted: {report.refused}")
        with self._lock:
            for name in report.deleted:
                if (table := parse_table_name(name)) is not None:
                    self._removed_at.pop(table, None)
        self._count(deleted_objects=len(report.deleted))
        if report.deleted:
            self._listener(GarbageCollected(list(report.deleted)))
        return False

    def statistics(self) -> MaintenanceStatistics:
        """A copy of the counters."""
        return self._counts

    def _count(self, **added: float) -> None:
        with self._lock:
            counts = {name: getattr(self._counts, name) + count for name, count in added.items()}
            self._counts = replace(self._counts, **counts)

    def _in_use(self) -> set[str]:
        since = self._clock.monotonic() - GRACE_SECONDS
        with self._lock:
            recent = {table for table, at in self._removed_at.items() if at > since}
            return set(map(table_name, self._in_flight | recent | self._tables.live_tables()))

    def _new_table(self) -> TableId:
        table = table_id(self._manifest.epoch, next(self._counter))
        with self._lock:
            self._in_flight.add(table)
        return table

    def _finish_outputs(self, tables: Iterable[TableId]) -> None:
        with self._lock:
            self._in_flight.difference_update(tables)
