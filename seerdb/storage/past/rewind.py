"""What a database was at an instant, as tables: those of a state from before it, and new ones of
the log that leads from there to the instant.

A job, as reading that log and making tables of it takes a while. It changes nothing; what it made
counts once the manifest names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seerdb.ids import TableId
from seerdb.storage.flush.run import FlushJob, TableFormat, run_flush
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.past.history import Instant, live_instant
from seerdb.storage.past.log import Log, live_log
from seerdb.storage.retention.timeline import Timeline, read_timeline, state_of
from seerdb.storage.wal.backlog import Place
from seerdb.storage.wal.replay import Replay
from seerdb.storage.workers.pace import Pace

MEMTABLE_BYTES = 64 << 20
"""Bytes of log that become one table."""

MOST_TABLES = 16
"""How many tables the log becomes at most: the last one takes all the rest."""

_REPLAYED = 1024
"""Records between two looks at the size of what they make."""


@dataclass(frozen=True)
class RewindJob:
    """An instant of a database; without ``outputs``, ids for tables, it is only looked what it
    was then."""

    kind: str
    """``seq`` or ``time``,"""
    wanted: int
    """and which, a time in microseconds since 1970."""
    since_us: int
    """Nothing of before is restored: it may be deleted at any moment."""
    database_id: str
    wal: str
    """The directory of the local log,"""
    position: Place
    """and how far that goes, synced."""
    outputs: tuple[TableId, ...]
    format: TableFormat


@dataclass(frozen=True)
class Then:
    """All of the database at an instant: tables, among them new ones of so many ``commits`` of the
    log. ``seq``: the newest commit."""

    version: Version
    made: tuple[TableMeta, ...]
    commits: int
    seq: int


def run_rewind(job: RewindJob, files: FileSystem, store: ObjectStore, pace: Pace) -> Then:
    """Look, and make the tables; they are durable then.

    Raises: ``HistoryError`` for an instant that cannot be told, ``CorruptionError``,
    ``DiskError``, ``UnavailableError``.
    """
    instant = live_instant(lambda: _look(job, files, store), job.kind, job.wanted)
    version = state_of(store, instant.base).version
    run = 1 + max((run.number for run in version.runs), default=0)
    made: list[TableMeta] = []
    for memtable, table in zip(_memtables(job, instant), job.outputs, strict=False):
        flush = FlushJob("", (), table, run + len(made), job.format, memtable)
        result = run_flush(flush, files, store, pace)
        if result.table is not None:
            made.append(result.table)
    return Then(
        Version.of([*version.tables, *made]), tuple(made), len(instant.records), instant.seq
    )


def _look(job: RewindJob, files: FileSystem, store: ObjectStore) -> tuple[Timeline, Log]:
    """What there is of the past."""
    log = live_log(files, job.wal, store, job.database_id, job.position)
    # Now, as it tells of the tables that hold what the log has let go of.
    timeline = read_timeline(store, job.since_us)
    assert timeline is not None, "there is a manifest: the database is open"
    there = store.list(TABLE_PREFIX) + store.list(BLOB_PREFIX)
    timeline.keep_whole({info.name for info in there})
    timeline.forget(job.since_us)  # what is still there of earlier may go at any moment
    return timeline, log


def _memtables(job: RewindJob, instant: Instant) -> Iterator[Memtable]:
    """Of the log up to an instant, one for each output at most."""
    records, place = instant.records, 0
    for left in range(len(job.outputs) - 1, -1, -1):
        replay, size = Replay(instant.base.last_seq, job.format.operator), 0
        while place < len(records) and (size < MEMTABLE_BYTES or not left):
            some = records[place : place + _REPLAYED]
            replay.take(some)
            size += sum(len(payload) for _, _, payload in some)
            place += len(some)
        if replay.records:
            yield replay.memtable([])
