"""Small tables for tests of their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from seerdb.ids import MAX_SEQ, Epoch, table_id
from seerdb.storage.entry import DELETE, PUT, RangeTombstone
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT, Block
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import Packed, pack
from seerdb.storage.sstable.reader import TableReader


class Entry(NamedTuple):
    """One version of a key."""

    key: bytes
    seq: int
    kind: int = PUT
    value: bytes = b""


def puts(count: int, *, value_size: int = 100) -> list[Entry]:
    """``count`` entries ``key 0000`` … with seqs from 1 and values that tell them apart."""
    return [
        Entry(b"key%04d" % number, number + 1, PUT, b"%04d" % number * (value_size // 4))
        for number in range(count)
    ]


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sorted as a table wants them."""
    return sorted(entries, key=lambda entry: (entry.key, -entry.seq))


def packed(entries: list[Entry]) -> Packed:
    """Rows as columns."""
    keys, seqs, kinds, values = (list(column) for column in zip(*entries, strict=True))
    return pack(keys, seqs, bytes(kinds), values)


def add(builder: TableBuilder, entries: list[Entry]) -> None:
    """Append rows to a builder of columns."""
    builder.add(packed(entries))


def new_builder(
    *,
    block_size: int = 4096,
    compression: str = "zstd",
    filter_bits_per_key: int = 10,
    index: str = "bisect",
) -> TableBuilder:
    """A builder with small blocks."""
    return TableBuilder(
        block_size=block_size,
        compression=compression,
        filter_bits_per_key=filter_bits_per_key,
        index=index,
    )


def build(
    entries: list[Entry],
    tombstones: Iterable[RangeTombstone] = (),
    *,
    block_size: int = 4096,
    compression: str = "zstd",
    filter_bits_per_key: int = 10,
    index: str = "bisect",
) -> BuiltTable:
    """A table of ``entries``, which must be in order."""
    builder = new_builder(
        block_size=block_size,
        compression=compression,
        filter_bits_per_key=filter_bits_per_key,
        index=index,
    )
    if entries:
        add(builder, entries)
    builder.add_range_tombstones(tombstones)
    return builder.finish(1_000, 2_000, created_by="test")


def meta_of(built: BuiltTable) -> TableMeta:
    """The manifest's record of a table."""
    return TableMeta(
        id=table_id(Epoch(1), 7),
        level=0,
        run=1,
        size=len(built.data),
        checksum=built.checksum,
        entries=built.entries,
        deletes=built.deletes,
        range_deletes=built.range_deletes,
        smallest=built.smallest,
        largest=built.largest,
        min_seq=built.min_seq,
        max_seq=built.max_seq,
        tail_offset=built.tail_offset,
    )


def found_as(entry: Entry) -> Entry:
    """What a point read shows of an entry: of a delete, no value."""
    return entry if entry.kind == PUT else entry._replace(value=b"")


def block_number(reader: TableReader, key: bytes) -> int:
    """Of the only block that can hold ``key``; -1 when it is below all of them."""
    return reader.rank(key) - 1


class OpenTable:
    """A reader together with the bytes it is about, which may be damaged."""

    def __init__(self, built: BuiltTable, data: bytes | None = None) -> None:
        self.data = bytes(built.data) if data is None else data
        meta = meta_of(built)
        self.reader = TableReader(meta, self.data[meta.tail_offset : meta.size])

    def block(self, index: int) -> Block:
        """A block, read as a ranged GET would."""
        offset, length = self.reader.block_range(index)
        return self.reader.decode_block(index, self.data[offset : offset + length])

    def packed(self, first: int, last: int) -> list[Entry]:
        """The entries of some neighbouring blocks, as a merge gets them."""
        start = self.reader.block_range(first)[0]
        end = sum(self.reader.block_range(last - 1))
        entries = self.reader.pack_blocks(first, last, self.data[start:end])
        columns = entries.keys(), entries.seqs.tolist(), entries.kinds.tolist(), entries.values()
        return [Entry(*row) for row in zip(*columns, strict=True)]

    def entries(self) -> list[Entry]:
        """Everything, in the table's order."""
        return [
            Entry(*row)
            for index in range(self.reader.block_count)
            for row in zip(*self.block(index).columns(), strict=True)
        ]

    def find(self, key: bytes, seq_limit: int = MAX_SEQ) -> Entry | None:
        """The newest version of a key up to a seq, found as a point read does."""
        h = key_hash(key)
        if not self.reader.filter.may_contain(h):
            return None
        index = block_number(self.reader, key)
        if index < 0:
            return None
        found = self.block(index).find(key, h >> FINGERPRINT_SHIFT, seq_limit)
        if found is None:
            return None
        seq, value = found
        assert value is None or isinstance(value, bytes)
        return Entry(key, seq, DELETE, b"") if value is None else Entry(key, seq, PUT, value)
