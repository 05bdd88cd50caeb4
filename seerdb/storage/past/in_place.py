"""Restore in place: what the database was at an instant takes the place of what it is.

It is a commit like any other, with the next seq, and is made as an ingest is: with all writers
held, one manifest edit puts the tables of then in the place of those of now. So nothing goes
backwards. Each seq tells what it always told, to reads of the past, followers and restores
elsewhere; and as tables hold everything up to the new seq, no log from before is ever replayed
over it.

The tables of then are in the bucket as long as history or a checkpoint keeps them; of the log that
leads from them to the instant a job makes tables, while readers and writers go on. Right before the
edit the state that it replaces gets a checkpoint, and to restore that one is to undo it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import msgspec

from seerdb.clock import ForwardClock, when
from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    HistoryError,
    InvalidRequestError,
    NotFoundError,
)
from seerdb.events import Listener, RestoredInPlace
from seerdb.ids import TableId
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import TableFormat
from seerdb.storage.jobs.runners import JobRunner
from seerdb.storage.manifest.version import Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX
from seerdb.storage.past.rewind import MOST_TABLES, RewindJob, Then, run_rewind
from seerdb.storage.past.time_travel import AsOf, instant_of
from seerdb.storage.read.state import LiveState
from seerdb.storage.retention.checkpoints import Checkpoints
from seerdb.storage.retention.garbage import GarbageCollector, find_missing
from seerdb.storage.retention.kept import list_checkpoints, name_before_restore
from seerdb.storage.retention.outputs import TableOutputs
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.write.commit import Committer


class InPlaceReport(msgspec.Struct, frozen=True):
    """What a restore in place did, or would do.

    From the commit ``seq`` on the database is what it was after ``restored_seq``; as a dry run,
    ``seq`` is 0. What it was after ``replaced_seq``, right before, is kept by ``checkpoint``.
    ``tables_added`` came into use and ``tables_removed`` went out of it; so many ``commits`` came
    from the log."""

    seq: int
    restored_seq: int
    replaced_seq: int
    checkpoint: str
    commits: int
    tables_added: int
    tables_removed: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Those of an open database that a restore in place needs."""

    live: LiveState
    committer: Committer
    publisher: Publisher
    compactor: Compactor
    merges: Lane
    """The lane of the compactor."""
    collector: GarbageCollector
    checkpoints: Checkpoints
    outputs: TableOutputs
    runner: JobRunner
    manifest: ManifestWriter
    tables: TableStore
    store: ObjectStore
    table_format: TableFormat
    wal: str
    retention: float
    clock: ForwardClock
    listener: Listener
    flushed: Callable[[int], None]
    """Waits until everything up to a seq, which is sealed, is in tables."""


class InPlace:
    """Restores one database in place, once at a time. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = Lock()

    def restore(
        self, as_of: AsOf | None, checkpoint: str | None, *, dry_run: bool = False
    ) -> InPlaceReport:
        """See :meth:`seerdb.DB.restore_in_place`."""
        if (as_of is None) == (checkpoint is None):
            raise InvalidRequestError("name a seq or a time, or else a checkpoint, to restore")
        parts = self._parts
        began = parts.clock.monotonic()
        with self._lock:
            outputs = () if dry_run or as_of is None else parts.outputs.begin(MOST_TABLES)
            restoring = _Restoring(parts, outputs)
            try:
                then = _kept(parts, checkpoint) if as_of is None else _told(parts, as_of, outputs)
                report = restoring.plan(then)
                if not dry_run:
                    report = restoring.run(then.version, report)
            finally:
                restoring.end()
        return msgspec.structs.replace(report, seconds=parts.clock.monotonic() - began)


def _told(parts: Parts, as_of: AsOf, outputs: tuple[TableId, ...]) -> Then:
    """The database at an instant, as its past tells."""
    kind, wanted = instant_of(as_of)
    now = parts.clock.now_us()
    if kind == "time" and wanted > now:
        raise HistoryError(f"{when(wanted)} has not come yet; it is {when(now)}")
    position = parts.committer.position()
    assert position is not None, "it waits for writers as long as they take"
    job = RewindJob(
        kind=kind,
        wanted=wanted,
        since_us=now - int(parts.retention * SECOND_US),
        database_id=parts.manifest.state.database_id,
        wal=parts.wal,
        position=position,
        outputs=outputs,
        format=parts.table_format,
    )
    return parts.runner.run(run_rewind, job, Purpose.BACKUP)


def _kept(parts: Parts, name: str | None) -> Then:
    """The database as a checkpoint keeps it."""
    for _, kept in list_checkpoints(parts.store):
        if kept.name == name:
            return Then(kept.state.version, (), 0, kept.state.last_seq)
    raise NotFoundError(f"there is no checkpoint {name!r}")


class _Restoring:
    """One restore: what is held while it lasts."""

    def __init__(self, parts: Parts, outputs: tuple[TableId, ...]) -> None:
        self._parts = parts
        self._outputs = outputs
        self._is_in_doubt = False

    def plan(self, then: Then) -> InPlaceReport:
        """See to it that all of ``then`` stays in the bucket, and say what is to be done.

        Raises: ``HistoryError`` when some of it is gone.
        """
        parts = self._parts
        with parts.collector.resting():
            self._handles = [parts.tables.handle(table) for table in then.version.tables]
        data = parts.store.list(TABLE_PREFIX) + parts.store.list(BLOB_PREFIX)
        if missing := find_missing(data, then.version):
            raise HistoryError(f"seq {then.seq:,} cannot be restored: {missing}")
        now = {table.id for table in parts.publisher.settled_version().tables}
        wanted = {table.id for table in then.version.tables}
        return InPlaceReport(
            seq=0,
            restored_seq=then.seq,
            replaced_seq=parts.live.visible_seq,
            checkpoint="",
            commits=then.commits,
            tables_added=len(wanted - now),
            tables_removed=len(now - wanted),
            seconds=0.0,
        )

    def run(self, version: Version, report: InPlaceReport) -> InPlaceReport:
        """Put ``version`` in the place of what there is. Durable in the bucket when it returns."""
        parts = self._parts
        parts.flushed(parts.committer.rotate())  # most of it, while writers go on
        parts.compactor.pause()
        try:
            if not parts.merges.wake_and_outwait(lambda: parts.compactor.is_idle):
                raise ClosedError("the database was closed before it was restored in place")
            seq = parts.committer.insert(self._keep, lambda seq: self._publish(version, seq))
        finally:
            parts.compactor.resume()
            parts.merges.wake()
        parts.tables.drop_cached(self._removed)
        done = msgspec.structs.replace(
            report,
            seq=seq,
            replaced_seq=seq - 1,
            checkpoint=name_before_restore(seq),
            tables_removed=len(self._removed),
        )
        parts.listener(RestoredInPlace(done.seq, done.restored_seq, done.checkpoint))
        return done

    def _keep(self, seq: int) -> None:
        """Have all up to ``seq`` in tables, and a checkpoint of these."""
        parts = self._parts
        parts.flushed(seq)
        parts.publisher.settled_version()
        parts.manifest.checkpoint()
        name = name_before_restore(seq + 1)
        try:
            parts.checkpoints.create(name, None, flush=False)
        except AlreadyExistsError:
            # An earlier attempt that went no further, unless somebody else took the name.
            if not any(each.name == name and each.seq == seq for each in parts.checkpoints.all()):
                raise

    def _publish(self, version: Version, seq: int) -> None:
        parts = self._parts
        wanted = {table.id for table in version.tables}
        replaced = parts.manifest.state.version.tables
        removed = [table for table in replaced if table.id not in wanted]
        self._removed = {table.id for table in removed}
        # Before the edit, or the collector could come between the two.
        parts.outputs.removed(removed)
        self._is_in_doubt = True
        parts.publisher.restored(version, seq, self._settled)

    def _settled(self) -> None:
        """It is known what became of it. Until then this object is kept, and with it the handles:
        the tables of then may come into use as long as nobody knows."""
        self._parts.outputs.finish(self._outputs)

    def end(self) -> None:
        """Hold nothing any more; what was made and is not named by the manifest is garbage."""
        if not self._is_in_doubt:
            self._parts.outputs.finish(self._outputs)
