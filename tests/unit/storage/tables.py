"""Tables in a bucket, for tests of what reads and merges them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from seerdb.ids import Epoch, TableId, table_id
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.flush.run import TableFormat, packed, upload
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.merge import Chunk
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.read.layout import Layout
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.builder import BuiltTable
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.threads import InlineExecutor

FORMAT = TableFormat(block_size=256, compression="none", filter_bits_per_key=10)

Rows = Mapping[bytes, tuple[int, bytes | None]]
"""Seq and value (``None``: a tombstone) by key."""


def id_of(number: int) -> TableId:
    return table_id(Epoch(1), number)


def build_table(rows: Rows, tombstones: Iterable[RangeTombstone] = ()) -> BuiltTable:
    """A table that is nowhere yet."""
    builder = FORMAT.builder()
    if rows:
        keys = sorted(rows)
        builder.add(packed(Chunk(keys, [rows[k][0] for k in keys], [rows[k][1] for k in keys])))
    builder.add_range_tombstones(tombstones)
    return builder.finish(1, 2)


def put_table(
    store: ObjectStore,
    number: int,
    rows: Rows,
    tombstones: Iterable[RangeTombstone] = (),
    *,
    run: int | None = None,
    level: int = 0,
) -> TableMeta:
    """Upload table ``number``; it is a run of its own unless ``run`` says otherwise."""
    built = build_table(rows, tombstones)
    return upload(store, id_of(number), built, level=level, run=number if run is None else run)


def many(
    first: int, last: int, *, seq: int, value: bytes = b"v" * 30
) -> dict[bytes, tuple[int, bytes | None]]:
    """Rows ``key0000`` …, seqs rising from ``seq``."""
    return {b"key%04d" % n: (seq + n - first, value) for n in range(first, last)}


def new_table_store(store: ObjectStore, capacity: int = 1 << 20) -> TableStore:
    """One without a disk tier that fetches in the caller."""
    return TableStore(store, cache=BlockCache(capacity), disk=None, fetchers=InlineExecutor())


def layout_of(tables: list[TableMeta], table_store: TableStore) -> Layout:
    return Layout(Version.of(tables), table_store, RowCache(lambda: 0))
