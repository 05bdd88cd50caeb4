"""Ingest: any number of pairs become tables at once, shown by one manifest edit.

No log and no memtable: pairs are sorted on the local disk (``sorting.py``), and a job makes tables
of them and uploads them. All that takes time happens while readers and writers go on; what it
leaves behind, whenever it dies, is garbage that the collector takes. Then, with all writers held,
what they have committed so far is flushed, and the tables become the newest run under the next
seq, all in one step. So the seq is above everything that was committed before, and nothing that
is older lies above the tables (I3, I5). The entries are stored without it, as it is known last;
see ``sstable/format.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock

import msgspec

from seerdb.ids import TableId
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import TableFormat, packed, upload
from seerdb.storage.flush.uploads import Uploads
from seerdb.storage.ingest.sorting import (
    MergeJob,
    Scratch,
    ScratchDirectory,
    SortedRun,
    merge_groups,
    merged,
    run_merge,
    sort,
)
from seerdb.storage.jobs.runners import JobRunner
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.retention.outputs import TableOutputs
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.workers.pace import Pace
from seerdb.storage.workers.threads import transfer_threads
from seerdb.storage.write.commit import Committer

TABLE_SIZE = 32 << 20
"""Bytes at which a table is finished and the next one begun: once uploaded it is read back,
so it is in memory twice where the bucket is no directory, beside the next one."""

_ENTRY_OVERHEAD = 32
"""Bytes that a table adds to an entry: more than it ever is, for an estimate."""


class IngestReport(msgspec.Struct, frozen=True):
    """What an ingest brought: entries (of equal keys one), bytes of the tables and their blobs, the
    tables' ids, and the seq that all entries share; 0 when there were none, and nothing was
    changed."""

    entries: int
    bytes: int
    tables: list[str]
    seq: int


class IngestStatistics(msgspec.Struct, frozen=True):
    """Since the database was opened. ``user_bytes``: keys and values of the pairs that came."""

    ingests: int = 0
    bytes: int = 0
    entries: int = 0
    user_bytes: int = 0


@dataclass(frozen=True)
class IngestJob:
    """Sorted runs, oldest first, and the ids that tables of them may take; the last id takes all
    the rest."""

    runs: tuple[SortedRun, ...]
    outputs: tuple[TableId, ...]
    format: TableFormat
    target_size: int
    requests: int = 1
    """How many may be under way beside the work; 1: none, the work waits for each."""


def run_ingest(
    job: IngestJob, files: FileSystem, store: ObjectStore, pace: Pace
) -> tuple[TableMeta, ...]:
    """Build and upload the tables, in key order. They count once the manifest names them, and
    have no seq and no run until then."""
    output: _Output | None = None
    with transfer_threads(job.requests) as threads:
        uploads = Uploads(threads)
        for chunk in merged(files, job.runs, pace):
            if output is None:
                output = _Output(job.outputs[len(uploads)], job.format, store)
            output.add(packed(chunk))
            is_last = len(uploads) + 1 == len(job.outputs)
            if output.builder.size_estimate >= job.target_size and not is_last:
                uploads.begin(output.finished())
                output = None
        if output is not None:
            uploads.begin(output.finished())
        return uploads.finish()


class _Output:
    """A table being made, and its blobs."""

    def __init__(self, table: TableId, table_format: TableFormat, store: ObjectStore) -> None:
        self.builder = table_format.builder()
        self._table = table
        self._store = store
        self._blobs = table_format.blob_writer(store, table)

    def add(self, entries: Packed) -> None:
        self.builder.add(self._blobs.separate(entries))

    def finished(self) -> Callable[[], TableMeta]:
        """What uploads the table, whose blobs are in the bucket."""
        built = self.builder.finish(0, 0)
        refs = self._blobs.finish(built.pointed)
        return lambda: upload(self._store, self._table, built, level=0, run=0, blobs=refs)


class Ingester:
    """Ingests into one database. Thread-safe.

    ``requests``: see :class:`IngestJob`. ``flushed`` waits until everything up to a seq, which is
    sealed, is in tables, and raises when that fails. ``check_disk`` raises when there is no room
    for a run.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        committer: Committer,
        publisher: Publisher,
        outputs: TableOutputs,
        runner: JobRunner,
        scratch: ScratchDirectory,
        *,
        table_format: TableFormat,
        requests: int,
        flushed: Callable[[int], None],
        check_disk: Callable[[], None],
    ) -> None:
        self._committer = committer
        self._publisher = publisher
        self._outputs = outputs
        self._runner = runner
        self._directory = scratch
        self._format = table_format
        self._requests = requests
        self._flushed = flushed
        self._check_disk = check_disk
        self._lock = Lock()
        self.statistics = IngestStatistics()

    def ingest(self, pairs: Iterable[tuple[bytes, bytes]]) -> IngestReport:
        """Take all pairs and show them at once; see :meth:`seerdb.DB.ingest`."""
        with self._directory.scratch() as scratch:
            runs = self._narrow(sort(pairs, scratch, self._check_disk), scratch)
            if not runs:
                return IngestReport(entries=0, bytes=0, tables=[], seq=0)
            tables = self._build(runs)
        seq = self._publish(tables)
        report = IngestReport(
            entries=sum(table.entries for table in tables),
            bytes=sum(table.bytes_made for table in tables),
            tables=[table.id for table in tables],
            seq=seq,
        )
        self._count(report, scratch.pair_bytes)
        return report

    def _count(self, report: IngestReport, user_bytes: int) -> None:
        with self._lock:
            total = self.statistics
            self.statistics = IngestStatistics(
                total.ingests + 1,
                total.bytes + report.bytes,
                total.entries + report.entries,
                total.user_bytes + user_bytes,
            )

    def _publish(self, tables: tuple[TableMeta, ...]) -> int:
        ids = [table.id for table in tables]
        handed_over = False

        def ingested(seq: int) -> None:
            nonlocal handed_over
            handed_over = True
            self._publisher.ingested(tables, seq, lambda: self._outputs.finish(ids))

        try:
            # Most of what there is to flush, while writers go on.
            self._flushed(self._committer.rotate())
            return self._committer.insert(self._flushed, ingested)
        finally:
            if not handed_over:
                self._outputs.finish(ids)

    def _narrow(self, runs: list[SortedRun], scratch: Scratch) -> list[SortedRun]:
        """Merge runs until one merge can take all that are left."""
        while len(groups := merge_groups(runs)) > 1:
            runs = [self._merge(group, scratch) for group in groups]
        return runs

    def _merge(self, group: tuple[SortedRun, ...], scratch: Scratch) -> SortedRun:
        if len(group) == 1:
            return group[0]
        self._check_disk()
        run = self._runner.run(run_merge, MergeJob(group, scratch.new_path()), Purpose.INGEST)
        scratch.remove(group)
        return run

    def _build(self, runs: list[SortedRun]) -> tuple[TableMeta, ...]:
        most = sum(run.size + _ENTRY_OVERHEAD * run.entries for run in runs)
        ids = self._outputs.begin(1 + most // TABLE_SIZE)
        job = IngestJob(tuple(runs), ids, self._format, TABLE_SIZE, self._requests)
        made: tuple[TableMeta, ...] = ()
        try:
            made = self._runner.run(run_ingest, job, Purpose.INGEST)
        finally:
            self._outputs.finish(set(ids) - {table.id for table in made})
        return made
