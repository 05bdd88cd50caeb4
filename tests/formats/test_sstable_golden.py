"""Tables of every format version ever written are still read, and version 1 is still written.

``golden/sstable_v1.bin`` is uncompressed, so its bytes depend on no library's compressor.
To look at it: format.py and block.py draw what is where.
"""

from __future__ import annotations

from pathlib import Path

from seerdb.ids import MAX_SEQ, Epoch, table_id
from seerdb.storage.entry import DELETE, PUT, RangeTombstone
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.format import unseal
from seerdb.storage.sstable.reader import TableReader

GOLDEN = (Path(__file__).parent / "golden" / "sstable_v1.bin").read_bytes()

ROWS = [
    (b"\x00", 3, PUT, b"the smallest key"),
    (b"a", 300, PUT, b"newest"),
    (b"a", 70_000, PUT, b""),
    (b"b", 7, DELETE, b""),
    (b"user:1", 8, PUT, b'{"name": "Ada"}'),
    (b"user:2", 1 << 40, PUT, b"x" * 300),
    (b"\xff\xff", 9, PUT, b"the largest key"),
]
ROWS.sort(key=lambda row: (row[0], -row[1]))

RANGES = [RangeTombstone(b"c", b"d", 6), RangeTombstone(b"a", b"\xff\xff\x00", 2)]

META = TableMeta(
    id=table_id(Epoch(1), 1),
    level=0,
    run=1,
    size=797,
    checksum=0xF2E0C678,
    entries=7,
    deletes=1,
    range_deletes=2,
    smallest=b"\x00",
    largest=b"\xff\xff\x00",
    min_seq=2,
    max_seq=1 << 40,
    tail_offset=477,
)

SEALED_ZSTD = bytes.fromhex("28b52ffd00006d00003073656572646201002f692902017800000098e9bc9d")
"""``b"seerdb" * 20`` as a compressed part."""


def build() -> BuiltTable:
    """The golden table, built today."""
    builder = TableBuilder(block_size=64, compression="none", filter_bits_per_key=10)
    keys, seqs, kinds, values = (list(column) for column in zip(*ROWS, strict=True))
    builder.add(keys, seqs, kinds, values)
    builder.add_range_tombstones(RANGES)
    return builder.finish(1_700_000_000_000_000, 1_700_000_000_000_001, created_by="seerdb 0.1.0")


def test_version_1_is_written_to_the_byte() -> None:
    built = build()
    assert built.data == GOLDEN
    assert (built.checksum, built.tail_offset) == (META.checksum, META.tail_offset)


def test_version_1_is_read() -> None:
    reader = TableReader(META, GOLDEN[META.tail_offset :])
    blocks = []
    for index in range(reader.block_count):
        offset, length = reader.block_range(index)
        blocks.append(reader.decode_block(index, GOLDEN[offset : offset + length]))
    assert [row for block in blocks for row in zip(*block.columns(), strict=True)] == ROWS
    assert reader.tombstones.tombstones == tuple(sorted(RANGES))
    for key in {row[0] for row in ROWS}:
        h = key_hash(key)
        assert reader.may_contain(h)
        block = blocks[reader.find_block(key)]
        _, seq, kind, value = next(row for row in ROWS if row[0] == key)
        shown = (seq, None if kind == DELETE else value)
        assert block.find(key, h >> FINGERPRINT_SHIFT, MAX_SEQ) == shown
    assert not reader.may_contain(key_hash(b"absent"))
    assert reader.properties.min_timestamp_us == 1_700_000_000_000_000
    assert reader.properties.created_by == "seerdb 0.1.0"


def test_compressed_parts_are_read() -> None:
    assert unseal(SEALED_ZSTD, name="", offset=0) == b"seerdb" * 20
