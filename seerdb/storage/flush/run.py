"""Flush: a sealed memtable, or the run of WAL segments that holds the same, becomes a table of the
bucket (I5).

It reads the segments from the local disk, and needs nothing of the serving process's memory; only
where they hold more than puts and deletes does it make a memtable of them. A job in this process is
given the memtable, and takes that unless the log can be taken in bulk. It builds the table in
memory, uploads it by one request, reads it back and compares. The engine then commits the manifest
edit and swaps the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from seerdb.errors import CorruptionError, DiskError
from seerdb.ids import TableId
from seerdb.options import Options
from seerdb.storage.blob.aside import Aside
from seerdb.storage.blob.writer import BlobWriter
from seerdb.storage.digest import NONE, Digest, digest
from seerdb.storage.entry import DELETE, PUT, RangeTombstone
from seerdb.storage.flush.plain_log import read_plain
from seerdb.storage.flush.proof import Flushed, LocalSegments, prove
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.version import BlobRef, TableMeta
from seerdb.storage.memtable import Memtable
from seerdb.storage.merge import Chunk, uncovered
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.object_store.upload import upload as upload_object
from seerdb.storage.operators import MergeOperator, folded
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.order import Order
from seerdb.storage.sstable.packed import NOTHING, Packed, gather, join, pack
from seerdb.storage.tiers.pinning import leave_copy
from seerdb.storage.value import Value, encode_values
from seerdb.storage.wal.replay import replay_sealed
from seerdb.storage.workers.pace import Pace

_GATHERED = 4096
_MOVED = 64
_ADDED = 1 << 16
"""Entries between two looks at the pace, of those that are taken from a memtable, and of those that
go into a table. A call that lets go of the interpreter lock for some 10 us has it back at once;
after a longer one it may take milliseconds. So the first are many short calls, the second few long
ones."""


@dataclass(frozen=True)
class TableFormat:
    """How tables are to be built. ``operator`` folds what is merged."""

    block_size: int
    compression: str
    filter_bits_per_key: int
    filter_prefix: int = 0
    index: str = "bisect"
    operator: MergeOperator | None = None
    blob_threshold: int = 0

    @classmethod
    def of(cls, options: Options, operator: MergeOperator | None) -> TableFormat:
        """That which follows from the settings of a database."""
        return cls(
            block_size=options.block_size,
            compression=options.compression,
            filter_bits_per_key=options.filter_bits_per_key,
            filter_prefix=options.filter_prefix,
            index=options.index,
            operator=operator,
            blob_threshold=options.blob_threshold,
        )

    def builder(self) -> TableBuilder:
        """A builder for one table."""
        return TableBuilder(
            block_size=self.block_size,
            compression=self.compression,
            filter_bits_per_key=self.filter_bits_per_key,
            filter_prefix=self.filter_prefix,
            index=self.index,
        )

    def blob_writer(
        self, store: ObjectStore, table: TableId, known: Iterable[BlobRef] = ()
    ) -> BlobWriter:
        """What takes the large values of one table; see :class:`BlobWriter`."""
        return BlobWriter(
            store,
            table,
            threshold=self.blob_threshold,
            compression=self.compression,
            known=known,
        )


@dataclass(frozen=True)
class FlushJob:
    """Which segments to make a table of; and what they hold, for a job that runs beside it."""

    directory: str
    segments: tuple[int, ...]
    table: TableId
    run: int
    format: TableFormat
    memtable: Memtable | None = None
    copies: str | None = None
    """Local directory in which to leave a copy of the table."""
    after: int = 0
    """The memtable has nothing of the segments up to this seq."""


@dataclass(frozen=True)
class FlushResult:
    """The uploaded table; ``None`` when the segments hold nothing."""

    table: TableMeta | None
    last_seq: int
    unproved: str = ""
    """Why it could not be told whether the table holds what the log has; see ``proof.py``."""


@dataclass(frozen=True)
class _Contents:
    """What is to be flushed: the ``entries`` at the positions ``order``, which is that of their
    keys. The ``large``, at the end of ``entries``, are pointers to the values of ``moved``.
    ``overwrites``: some key was written more than once."""

    entries: Packed
    order: Order
    overwrites: bool
    first_us: int
    last_us: int
    last_seq: int
    tombstones: Sequence[RangeTombstone] = ()
    large: Packed = NOTHING
    moved: Sequence[tuple[bytes, int, Value]] = ()


def run_flush(job: FlushJob, files: FileSystem, store: ObjectStore, pace: Pace) -> FlushResult:
    """Build, prove and upload the table. Durable when it returns; it counts once the manifest says
    so. Raises: ``CorruptionError`` unless it holds what the log has."""
    blobs = job.format.blob_writer(store, job.table)
    contents = _logged(job, files, pace) or _sealed(job, files, blobs, pace)
    built = _built(job.format, contents, pace)
    after = job.after if job.memtable is not None else 0
    log = LocalSegments(files, job.directory, job.segments, after)
    unproved = prove(_flushed(contents, built), log)
    pace()
    if built is None:
        return FlushResult(None, contents.last_seq, unproved)
    refs = blobs.finish(built.pointed)
    table = upload(store, job.table, built, level=0, run=job.run, blobs=refs)
    leave_copy(files, job.copies, table.id, built)
    return FlushResult(table, contents.last_seq, unproved)


def _logged(job: FlushJob, files: FileSystem, pace: Pace) -> _Contents | None:
    """What the segments hold; ``None`` where that takes a memtable to tell, has large values, or is
    had better from the memtable that there is."""
    memtable = job.memtable
    if memtable is not None and not memtable.plain:
        return None
    large, in_bulk = job.format.blob_threshold, memtable is not None
    try:
        log = read_plain(files, job.directory, job.segments, pace, below=large, in_bulk=in_bulk)
    except (CorruptionError, DiskError):
        if memtable is None:
            raise
        return None  # what is in memory is sound, and the proof tells of the log
    if log is None or (memtable is not None and len(log.entries) != len(memtable.values)):
        return None  # where the log has more, or less, the proof tells why
    entries, order = log.entries, log.entries.latest()
    return _Contents(
        entries, order, len(order) < len(entries), log.first_us, log.last_us, log.last_seq
    )


def _sealed(job: FlushJob, files: FileSystem, blobs: BlobWriter, pace: Pace) -> _Contents:
    """What the memtable holds, which is made if there is none; large values go to ``blobs``."""
    memtable = job.memtable
    if memtable is None:
        memtable = replay_sealed(files, job.directory, job.segments, pace, job.format.operator)
    aside = Aside(blobs, special=memtable.special)
    small = gather(_pieces(memtable, aside, pace), memtable.size)
    large = packed(aside.with_pointers(pace), special=True)
    entries = join([each for each in (small, large) if len(each)] or [small])
    return _Contents(
        entries,
        entries.order() if len(entries) else np.empty(0, np.intp),
        len(memtable.newest) < len(memtable.values),
        memtable.first_us,
        memtable.last_us,
        memtable.last_seq,
        memtable.tombstones.tombstones,
        large,
        aside.entries,
    )


def _built(table_format: TableFormat, contents: _Contents, pace: Pace) -> BuiltTable | None:
    """The table; ``None`` when there is nothing in it."""
    if not len(contents.entries) and not contents.tombstones:
        return None
    builder = table_format.builder()
    for stretch in contents.entries.stretches(contents.order, _ADDED):
        builder.add(stretch)
        pace()
    builder.add_range_tombstones(contents.tombstones)
    return builder.finish(contents.first_us, contents.last_us)


def _flushed(contents: _Contents, built: BuiltTable | None) -> Flushed:
    """What is to be proved."""
    moved, large = contents.moved, contents.large

    def originals() -> Iterator[Packed]:
        for start in range(0, len(moved), _MOVED):
            columns = map(list, zip(*moved[start : start + _MOVED], strict=True))
            yield packed(Chunk(*columns), special=True)

    def entries() -> Iterator[Packed]:
        small = contents.order[contents.order < len(contents.entries) - len(large)]
        return chain([contents.entries.take(small)], originals())

    sums = Digest.read(built.entries, built.digest) if built else NONE
    return Flushed(
        sums=sum(map(digest, originals()), sums - digest(large)),
        entries=entries,
        tombstones=contents.tombstones,
        overwrites=contents.overwrites,
    )


def _pieces(memtable: Memtable, aside: Aside, pace: Pace) -> Iterator[Packed]:
    """The newest version of everything in a memtable, folded and packed, but for what has large
    values and goes ``aside``."""
    for gathered in memtable.chunks(_GATHERED):
        chunk = uncovered(gathered, memtable.tombstones)
        if memtable.special:
            values = [folded(each, memtable.operator) for each in chunk.values]
            chunk = chunk._replace(values=values)
        chunk = aside.without_large(chunk)
        if chunk.keys:
            yield packed(chunk, special=memtable.special)
        pace()


def packed(chunk: Chunk, *, special: bool = False) -> Packed:
    """A chunk as tables store it. ``special``: it may hold more than bytes and deletes."""
    keys, seqs, values = chunk
    if special:
        return pack(keys, seqs, *encode_values(values))
    try:
        return pack(keys, seqs, bytes([PUT]) * len(keys), values)  # type: ignore[arg-type]
    except TypeError:  # None, of what was deleted, has no length
        kinds = bytes(DELETE if value is None else PUT for value in values)
        return pack(keys, seqs, kinds, [value or b"" for value in values])  # type: ignore[misc]


def upload(
    store: ObjectStore,
    table: TableId,
    built: BuiltTable,
    *,
    level: int,
    run: int,
    blobs: tuple[BlobRef, ...] = (),
) -> TableMeta:
    """Put a table into the bucket. Requires: the ``blobs`` it points into are there."""
    data = built.data
    upload_object(store, table_name(table), data, built.checksum)
    return TableMeta(
        id=table,
        level=level,
        run=run,
        size=len(data),
        checksum=built.checksum,
        entries=built.entries,
        deletes=built.deletes,
        range_deletes=built.range_deletes,
        smallest=built.smallest,
        largest=built.largest,
        min_seq=built.min_seq,
        max_seq=built.max_seq,
        tail_offset=built.tail_offset,
        expiring=built.expiring,
        merges=built.merges,
        first_expiry=built.first_expiry,
        half_expired=built.half_expired,
        pointers=sum(ref.values for ref in blobs),
        blobs=blobs,
        digest=built.digest,
    )
