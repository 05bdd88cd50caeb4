"""Compaction: the inputs of a plan in, tables of one run out. Streamed, so memory does not grow
with the tables.

A job does one part of a plan, a range of keys. Tombstones are kept unless the plan reaches the
bottom (I7); range tombstones are cut at the borders of parts and of output tables. What has
expired becomes a tombstone, for it must not uncover what is older; it remembers when, as long as
something merged into it may be elsewhere. Operands are folded once their base is at hand, and
combined before. Values in blobs stay where they are, but for those whose blobs are to be
rewritten and those that something is folded onto. Inputs are not touched: the manifest edit that
names the outputs removes them, and the garbage collector deletes them later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seerdb.ids import TableId
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.blob.resolve import carried
from seerdb.storage.compaction.ledger import Ledger
from seerdb.storage.compaction.plan import Plan, between
from seerdb.storage.digest import NONE, Digest
from seerdb.storage.entry import DELETE, RangeTombstone, RangeTombstones
from seerdb.storage.files import FileSystem
from seerdb.storage.flush import TableFormat, packed, upload
from seerdb.storage.layout import Layout
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.merge import EMPTY, Chunk, Entries, Piece, collapse, windows
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.operators import settle
from seerdb.storage.pace import Pace
from seerdb.storage.pinning import leave_copy
from seerdb.storage.row_cache import RowCache
from seerdb.storage.scan import MAX_READAHEAD, Load, Wanted, loading, run_pieces
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.builder import TableBuilder
from seerdb.storage.sstable.packed import NOTHING, Packed, join
from seerdb.storage.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.workers import InlineExecutor


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
    """Local directory in which to leave copies of the outputs."""

    @staticmethod
    def outputs_needed(plan: Plan, start: bytes | None, end: bytes | None) -> int:
        """How many ids to reserve for a part."""
        runs = between(plan.inputs, start, end)
        # Values that are rewritten go to the tables if blobs were turned off meanwhile.
        size = sum(run.weight if plan.dying else run.size for run in runs)
        return 2 + size // plan.table_size


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
    # What a filter hides from a read comes back with a better filter; from a merge it never does.
    tables = TableStore(
        store, cache=BlockCache(0), disk=None, fetchers=InlineExecutor(), pass_over=False
    )
    inputs = between(job.plan.inputs, job.start, job.end)
    layout = Layout(Version(inputs), tables, RowCache(lambda: 0))
    tombstones = layout.load_tombstones(tables)
    ledger = Ledger()
    outputs = _Outputs(job, tombstones, files, store, ledger)
    blobs = BlobReader(store, InlineExecutor())
    is_plain = not (layout.special or tombstones or job.plan.dying)
    merge = _newest if is_plain else _resolved
    for entries in merge(job, layout, tables, tombstones, blobs, ledger):
        if len(entries):
            outputs.add(entries)
        pace(len(entries))
    return CompactionResult(outputs.finish(), ledger.dropped)


def _newest(
    job: CompactionJob,
    layout: Layout,
    tables: TableStore,
    _: RangeTombstones,
    __: BlobReader,
    ledger: Ledger,
) -> Iterator[Packed]:
    """The newest version of each key, where nothing but a newer one hides or changes another."""
    for window in windows(_sources(job, layout, tables, tables.load_packed), NOTHING):
        filled = [entries for entries in window if len(entries)]
        if filled:
            newest, older = join(filled).newest() if len(filled) > 1 else (filled[0], NOTHING)
            ledger.drop(older)
            if job.plan.bottom:
                newest, deletes = newest.without(DELETE)
                ledger.drop(deletes)
            yield newest


def _resolved(
    job: CompactionJob,
    layout: Layout,
    tables: TableStore,
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
        for window in windows(_sources(job, layout, tables, loading(tables, fill=False)), EMPTY)
    )
    if layout.pointed:
        chunks = carried(chunks, blobs, job.plan.dying, job.now_us // SECOND_US)
    for found in chunks:
        chunk = _settled(found, job) if special else found
        if job.plan.bottom:
            chunk = _without_deletes(chunk)
        entries = packed(chunk, special=is_special)
        ledger.make(entries)
        yield entries


def _dropped(window: list[Chunk], ledger: Ledger, *, special: bool) -> list[Chunk]:
    """The window, all of which is dropped: something else is made of it."""
    for chunk in window:
        ledger.drop(packed(chunk, special=special))
    return window


def _sources(
    job: CompactionJob,
    layout: Layout,
    tables: TableStore,
    load: Load[Entries],
) -> list[Iterator[Piece[Entries]]]:
    wanted = Wanted(job.start, job.end, fill=False)
    return [run_pieces(run, wanted, tables, load, readahead=MAX_READAHEAD) for run in layout.runs]


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


def _without_deletes(chunk: Chunk) -> Chunk:
    if None not in chunk.values:
        return chunk
    kept = [entry for entry in zip(*chunk, strict=True) if entry[2] is not None]
    return Chunk(
        [entry[0] for entry in kept], [entry[1] for entry in kept], [entry[2] for entry in kept]
    )


class _Outputs:
    """The tables being made: one builder at a time."""

    def __init__(
        self,
        job: CompactionJob,
        tombstones: RangeTombstones,
        files: FileSystem,
        store: ObjectStore,
        ledger: Ledger,
    ) -> None:
        self._job = job
        self._ledger = ledger
        self._files = files
        self._store = store
        self._tombstones = () if job.plan.bottom else tombstones.tombstones
        self._start = job.start
        self._builder: TableBuilder | None = None
        self._known = [ref for table in job.plan.tables for ref in table.blobs]
        self._tables: list[TableMeta] = []

    def add(self, entries: Packed) -> None:
        builder = self._builder
        if (
            builder is not None
            and builder.size_estimate >= self._job.plan.table_size
            and len(self._tables) + 1 < len(self._job.outputs)
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
        table = job.outputs[len(self._tables)]
        self._blobs = job.format.blob_writer(self._store, table, self._known)
        return job.format.builder()

    def finish(self) -> tuple[TableMeta, ...]:
        self._finish_table(self._job.end)
        return tuple(self._tables)

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
        plan, table = self._job.plan, self._job.outputs[len(self._tables)]
        meta = upload(self._store, table, built, level=plan.level, run=plan.run, blobs=refs)
        leave_copy(self._files, self._job.copies, table, built)
        self._tables.append(meta)


def _between(
    tombstones: tuple[RangeTombstone, ...], start: bytes | None, end: bytes | None
) -> Iterator[RangeTombstone]:
    for tombstone in tombstones:
        low = tombstone.start if start is None else max(start, tombstone.start)
        high = tombstone.end if end is None else min(end, tombstone.end)
        if low < high:
            yield RangeTombstone(low, high, tombstone.seq)
