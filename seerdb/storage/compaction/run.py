"""Compaction: the inputs of a plan in, tables of one run out. Streamed, so memory does not grow
with the tables; what it needs next, and the table that it made last, are on their way meanwhile.

A job does one part of a plan, a range of keys. Tombstones are kept unless the plan reaches the
bottom (I7); range tombstones are cut at the borders of parts and of output tables, and those that
newer ones hide altogether are left out. What has expired becomes a tombstone, for it must not
uncover what is older; it remembers when, as long as something merged into it may be elsewhere.
Operands are folded once their base is at hand, and combined before. Values in blobs stay where they
are, but for those whose blobs are to be rewritten and those that something is folded onto. Inputs
are not touched: the manifest edit that names the outputs removes them, and the garbage collector
deletes them later.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from seerdb.ids import TableId
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.blob.resolve import carried
from seerdb.storage.compaction.inputs import Inputs
from seerdb.storage.compaction.ledger import Ledger
from seerdb.storage.compaction.plan import Plan, between
from seerdb.storage.digest import NONE, Digest
from seerdb.storage.entry import DELETE, RangeTombstone, RangeTombstones
from seerdb.storage.flush.run import TableFormat, packed, upload
from seerdb.storage.flush.uploads import Uploads
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.version import BlobRef, TableMeta, Version
from seerdb.storage.merge import EMPTY, Chunk, collapse, windows
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.operators import settle
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.rows import living
from seerdb.storage.read.scan import chunk_of
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder, full_block
from seerdb.storage.sstable.compressor import Payload
from seerdb.storage.sstable.packed import NOTHING, Packed, join
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.pinning import leave_copy, size_on_disk
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.workers.pace import Pace
from seerdb.storage.workers.threads import transfer_threads

_PORTIONS = 16
"""A table is larger than planned by one part in so many at most, as far as entries allow."""

_MOST_GROWTH = 16
"""How many times as many bytes as the inputs the outputs may be, with another compression or block
size than those were made with, before the last table takes the rest."""


@dataclass(frozen=True)
class CompactionJob:
    """A part of a plan, ``[start, end)``, and the ids its outputs may take; the last id takes all
    the rest. Picklable."""

    plan: Plan
    start: bytes | None
    end: bytes | None
    outputs: tuple[TableId, ...]
    format: TableFormat
    now_us: int = 0
    """The time by which values expire."""
    forgotten: int = 0
    """The second before which nothing was merged that is not in the inputs of the plan."""
    expiring_below: bool = True
    """Whether data older than the inputs may expire."""
    copies: str | None = None
    """Local directory in which to leave copies of the outputs, as many as take no more than the
    inputs would."""
    requests: int = 1
    """How many may be under way beside the work; 1: none, the work waits for each."""

    @staticmethod
    def outputs_needed(plan: Plan, start: bytes | None, end: bytes | None) -> int:
        """How many ids to reserve for a part."""
        runs = between(plan.inputs, start, end)
        # Values that are rewritten go to the tables if blobs were turned off meanwhile.
        size = sum(run.weight if plan.dying else run.size for run in runs)
        return 2 + _MOST_GROWTH * size // plan.table_size


@dataclass(frozen=True)
class CompactionResult:
    """The uploaded tables, in key order; none when nothing was left."""

    tables: tuple[TableMeta, ...]
    dropped: Digest = NONE
    """What of the inputs is not in them; see ``ledger.py``."""


def run_compaction(
    job: CompactionJob, files: FileSystem, store: ObjectStore, pace: Pace
) -> CompactionResult:
    """Merge and upload. Durable when it returns; counts once the manifest says so."""
    with transfer_threads(job.requests) as threads:
        return _merge(job, files, store, threads, pace)


def _merge(
    job: CompactionJob, files: FileSystem, store: ObjectStore, threads: Executor, pace: Pace
) -> CompactionResult:
    # What a filter hides from a read comes back with a better filter; from a merge it never does.
    tables = TableStore(store, cache=BlockCache(0), disk=None, fetchers=threads, pass_over=False)
    layout = Layout(
        Version(between(job.plan.inputs, job.start, job.end)), tables, RowCache(lambda: 0)
    )
    inputs = Inputs(layout.runs, job.start, job.end, tables, threads)
    tombstones = layout.load_tombstones(tables)
    ledger = Ledger()
    outputs = _Outputs(job, tombstones, files, store, threads, ledger)
    if layout.special or tombstones or job.plan.dying:
        merged = _resolved(job, layout, inputs, tombstones, BlobReader(store, threads), ledger)
    else:
        merged = _newest(job, inputs, ledger)
    for entries in merged:
        if len(entries):
            outputs.add(entries)
        pace(len(entries))
    return CompactionResult(outputs.finish(), ledger.dropped)


def _newest(job: CompactionJob, inputs: Inputs, ledger: Ledger) -> Iterator[Packed]:
    """The newest version of each key, where nothing but a newer one hides or changes another.

    What fills no block waits for the next window, of which all is copied: else the builder would
    have to copy that once more, to join the two."""
    rest = NOTHING
    for window in windows(inputs.sources(TableReader.pack_blocks), NOTHING):
        filled = [entries for entries in window if len(entries)]
        if len(filled) < 2:
            yield from (_kept(job, entries, ledger) for entries in (rest, *filled))
            rest = NOTHING
            continue
        newest, older = join([each for each in (rest, *filled) if len(each)]).newest()
        ledger.drop(older)
        newest = _kept(job, newest, ledger)
        whole = len(newest) - len(newest) % full_block(newest, job.format.block_size)
        yield newest.between(0, whole)
        rest = newest.between(whole, len(newest))
    yield rest


def _kept(job: CompactionJob, newest: Packed, ledger: Ledger) -> Packed:
    """At the bottom, without deletes."""
    if not job.plan.bottom:
        return newest
    kept, deletes = newest.without(DELETE)
    ledger.drop(deletes)
    return kept


def _resolved(
    job: CompactionJob,
    layout: Layout,
    inputs: Inputs,
    tombstones: RangeTombstones,
    blobs: BlobReader,
    ledger: Ledger,
) -> Iterator[Packed]:
    """What is left of each key, where there may be range tombstones, merges and expiry, or values
    that move."""
    special = layout.special
    is_special = special or layout.pointed
    chunks: Iterator[Chunk] = (
        collapse(_dropped(window, ledger, special=is_special), tombstones, special=special)
        for window in windows(inputs.sources(_chunk), EMPTY)
    )
    if layout.pointed:
        chunks = carried(chunks, blobs, job.plan.dying, job.now_us // SECOND_US)
    for found in chunks:
        chunk = _settled(found, job) if special else found
        if job.plan.bottom:
            chunk = living(chunk)
        entries = packed(chunk, special=is_special)
        ledger.make(entries)
        yield entries


def _dropped(window: list[Chunk], ledger: Ledger, *, special: bool) -> list[Chunk]:
    """The window, all of which is dropped: something else is made of it."""
    for chunk in window:
        ledger.drop(packed(chunk, special=special))
    return window


def _chunk(reader: TableReader, first: int, last: int, stored: Payload) -> Chunk:
    return chunk_of(list(reader.decode_blocks(first, last, stored)))


def _settled(chunk: Chunk, job: CompactionJob) -> Chunk:
    operator, second, bottom = job.format.operator, job.now_us // SECOND_US, job.plan.bottom
    values = [
        settle(
            value,
            operator,
            second=second,
            forgotten=job.forgotten,
            bottom=bottom,
            expiring_below=job.expiring_below,
        )
        for value in chunk.values
    ]
    return chunk._replace(values=values)


class _Outputs:
    """The tables being made: one is built, and one at most on its way to the bucket."""

    def __init__(
        self,
        job: CompactionJob,
        tombstones: RangeTombstones,
        files: FileSystem,
        store: ObjectStore,
        threads: Executor,
        ledger: Ledger,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._files = files
        self._store = store
        self._tombstones = () if job.plan.bottom else tombstones.unhidden()
        self._start = job.start
        self._builder: TableBuilder | None = None
        self._known = [ref for table in job.plan.tables for ref in table.blobs]
        self._uploads = Uploads(threads)
        inputs = between(job.plan.inputs, job.start, job.end)
        self._room_for_copies = size_on_disk(sum(run.size for run in inputs))

    def add(self, entries: Packed) -> None:
        """Append what follows; where that fills a table, it goes on in the next one."""
        group = full_block(entries, self._job.format.block_size)
        for portion in entries.portions(max(1, self._job.plan.table_size // _PORTIONS), group):
            self._add(portion)

    def _add(self, entries: Packed) -> None:
        builder = self._builder
        if (
            builder is not None
            and builder.size_estimate >= self._job.plan.table_size
            and len(self._uploads) + 1 < len(self._job.outputs)
        ):
            self._finish_table(entries.first_key)
            builder = None
        if builder is None:
            builder = self._builder = self._begin()
        stored = self._blobs.separate(entries)
        if stored is not entries:
            moved = (stored.kinds != entries.kinds).nonzero()[0]
            self._ledger.drop(entries.take(moved))
            self._ledger.make(stored.take(moved))
        builder.add(stored)

    def _begin(self) -> TableBuilder:
        job = self._job
        table = job.outputs[len(self._uploads)]
        self._blobs = job.format.blob_writer(self._store, table, self._known)
        return job.format.builder()

    def finish(self) -> tuple[TableMeta, ...]:
        self._finish_table(self._job.end)
        return self._uploads.finish()

    def _finish_table(self, border: bytes | None) -> None:
        ranges = list(_between(self._tombstones, self._start, border))
        builder = self._builder
        self._builder, self._start = None, border
        if builder is None and not ranges:
            return
        builder = builder or self._begin()
        builder.add_range_tombstones(ranges)
        built = builder.finish(0, 0)
        refs = self._blobs.finish(built.pointed)
        table = self._job.outputs[len(self._uploads)]
        self._uploads.begin(lambda: self._put(table, built, refs))

    def _put(self, table: TableId, built: BuiltTable, refs: tuple[BlobRef, ...]) -> TableMeta:
        plan = self._job.plan
        meta = upload(self._store, table, built, level=plan.level, run=plan.run, blobs=refs)
        needed = size_on_disk(meta.size)
        if needed <= self._room_for_copies:
            self._room_for_copies -= needed
            leave_copy(self._files, self._job.copies, table, built)
        return meta


def _between(
    tombstones: tuple[RangeTombstone, ...], start: bytes | None, end: bytes | None
) -> Iterator[RangeTombstone]:
    for tombstone in tombstones:
        low = tombstone.start if start is None else max(start, tombstone.start)
        high = tombstone.end if end is None else min(end, tombstone.end)
        if low < high:
            yield RangeTombstone(low, high, tombstone.seq)
