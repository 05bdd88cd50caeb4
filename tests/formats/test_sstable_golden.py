"""Tables of every format version ever written are still read, and version 3 is still written.

``golden/sstable_v*.bin`` are uncompressed, so their bytes depend on no library's compressor.
To look at it: format.py and block.py draw what is where.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from msgspec.structs import replace

from seerdb.errors import CorruptionError, InternalError
from seerdb.ids import MAX_SEQ, Epoch, table_id
from seerdb.storage.digest import Digest
from seerdb.storage.entry import DELETE, PUT, RangeTombstone
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT, Block
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.format import unseal, unseal_all
from seerdb.storage.sstable.packed import pack
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.sstable.verify import verify_table
from tests.unit.storage.sstable.samples import block_number

DIRECTORY = Path(__file__).parent / "golden"

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
"""Of versions 1 and 2, whose parts are as long: so the checksum is the same, too."""
META_3 = replace(META, checksum=0x4B5AF8F2)

VERSIONS = [
    pytest.param(META, DIRECTORY / "sstable_v1.bin", id="1"),
    pytest.param(META, DIRECTORY / "sstable_v2.bin", id="2"),
    pytest.param(META_3, DIRECTORY / "sstable_v3.bin", id="3"),
]

SEALED_ZSTD = [
    bytes.fromhex("28b52ffd00006d00003073656572646201002f692902017800000098e9bc9d"),
    bytes.fromhex("28b52ffd00006d00003073656572646201002f692902037800000014c60410"),
]
"""``b"seerdb" * 20`` as a compressed part, of versions 1 and 2, and of version 3."""


def build() -> BuiltTable:
    """The golden table, built today."""
    builder = TableBuilder(block_size=64, compression="none", filter_bits_per_key=10)
    keys, seqs, kinds, values = (list(column) for column in zip(*ROWS, strict=True))
    builder.add(pack(keys, seqs, bytes(kinds), values))
    builder.add_range_tombstones(RANGES)
    return builder.finish(1_700_000_000_000_000, 1_700_000_000_000_001, created_by="seerdb 0.1.0")


def test_version_3_is_written_to_the_byte() -> None:
    built = build()
    assert bytes(built.data) == (DIRECTORY / "sstable_v3.bin").read_bytes()
    assert (built.checksum, built.tail_offset) == (META_3.checksum, META_3.tail_offset)


@pytest.mark.parametrize(("meta", "path"), VERSIONS)
def test_every_version_is_read(meta: TableMeta, path: Path) -> None:
    golden = path.read_bytes()
    verify_table(meta, golden)
    reader = TableReader(meta, golden[meta.tail_offset :])
    blocks = []
    for index in range(reader.block_count):
        offset, length = reader.block_range(index)
        blocks.append(reader.decode_block(index, golden[offset : offset + length]))
    assert [row for block in blocks for row in zip(*block.columns(), strict=True)] == ROWS
    assert reader.tombstones == tuple(sorted(RANGES))
    for key in {row[0] for row in ROWS}:
        h = key_hash(key)
        assert reader.filter.may_contain(h)
        block = blocks[block_number(reader, key)]
        _, seq, kind, value = next(row for row in ROWS if row[0] == key)
        shown = (seq, None if kind == DELETE else value)
        assert block.find(key, h >> FINGERPRINT_SHIFT, MAX_SEQ) == shown
    assert not reader.filter.may_contain(key_hash(b"absent"))
    assert reader.properties.min_timestamp_us == 1_700_000_000_000_000
    assert reader.properties.created_by == "seerdb 0.1.0"


@pytest.mark.parametrize("part", SEALED_ZSTD)
def test_compressed_parts_are_read(part: bytes) -> None:
    assert unseal(part, name="", offset=0) == b"seerdb" * 20
    [payload] = unseal_all(part, np.array([0, len(part)]), name="", offset=0)
    assert bytes(payload) == b"seerdb" * 20


def build_learned() -> BuiltTable:
    """The table with a learned index and with prefixes in its filter, built today."""
    keys = [b"tenant/%06d" % (number * number) for number in range(200)]
    keys += [b"tenant/9/a-long-separator-%d" % number for number in range(2)]
    builder = TableBuilder(
        block_size=64,
        compression="none",
        filter_bits_per_key=10,
        filter_prefix=8,
        index="learned",
    )
    builder.add(pack(keys, list(range(1, 203)), bytes([PUT]) * 202, [b"value"] * 202))
    return builder.finish(0, 0, created_by="seerdb 0.1.0")


LEARNED = [DIRECTORY / f"sstable_v{version}_learned.bin" for version in (2, 3)]


def test_a_learned_index_and_prefixes_are_written_to_the_byte() -> None:
    assert bytes(build_learned().data) == LEARNED[-1].read_bytes()


@pytest.mark.parametrize("path", LEARNED)
def test_a_learned_index_and_prefixes_are_read(path: Path) -> None:
    built, golden = build_learned(), path.read_bytes()
    meta = replace(
        META,
        size=len(golden),
        checksum=crc32c(golden),
        tail_offset=built.tail_offset,
        entries=202,
        deletes=0,
        range_deletes=0,
        smallest=b"tenant/000000",
        largest=b"tenant/9/a-long-separator-1",
        min_seq=1,
        max_seq=202,
    )
    verify_table(meta, golden)
    reader = TableReader(meta, golden[meta.tail_offset :])
    assert reader.separators is None
    assert reader.properties.filter_prefix == 8
    assert reader.may_hold(b"tenant/9", b"tenant/:")
    assert not reader.may_hold(b"tenant/8", b"tenant/8z")
    assert reader.may_hold(b"tenant", b"tenanu")
    assert reader.separator(0) == b"tenant/000000"


UNASSIGNED = [DIRECTORY / f"sstable_v{version}_unassigned.bin" for version in (1, 2, 3)]
"""As an ingest makes them: without seqs of their own."""


def build_unassigned() -> BuiltTable:
    """The golden table without seqs, built today."""
    rows = [(key, value) for key, _, kind, value in ROWS if kind == PUT]
    unique = dict(rows)
    builder = TableBuilder(block_size=64, compression="none", filter_bits_per_key=10)
    keys, count = list(unique), len(unique)
    builder.add(pack(keys, [0] * count, bytes([PUT]) * count, list(unique.values())))
    return builder.finish(0, 0)


def test_a_table_without_seqs_is_written_to_the_byte() -> None:
    assert bytes(build_unassigned().data) == UNASSIGNED[-1].read_bytes()


@pytest.mark.parametrize("path", UNASSIGNED)
def test_a_table_without_seqs_has_the_one_that_the_manifest_names(path: Path) -> None:
    built, golden = build_unassigned(), path.read_bytes()
    for seq in (1, 255, 256, 1 << 40, MAX_SEQ):
        meta = TableMeta(
            id=META.id,
            level=0,
            run=1,
            size=len(golden),
            checksum=crc32c(golden),
            entries=built.entries,
            deletes=0,
            range_deletes=0,
            smallest=built.smallest,
            largest=built.largest,
            min_seq=seq,
            max_seq=seq,
            tail_offset=built.tail_offset,
            digest=str(Digest.read(built.entries, built.digest).with_seq(seq)),
        )
        verify_table(meta, golden)
        reader = TableReader(meta, golden[meta.tail_offset :])
        for index in range(reader.block_count):
            offset, length = reader.block_range(index)
            block = reader.decode_block(index, golden[offset : offset + length])
            assert set(block.columns().seqs) == {seq}
            key = block.first_key
            fingerprint = key_hash(key) >> FINGERPRINT_SHIFT
            assert block.find(key, fingerprint, seq - 1) is None
            assert block.find(key, fingerprint, seq) == (seq, dict(zip_rows(block))[key])
    with pytest.raises(CorruptionError, match="min_seq differs"):
        TableReader(replace(meta, min_seq=1), golden[meta.tail_offset :])


def zip_rows(block: Block) -> list[tuple[bytes, bytes]]:
    columns = block.columns()
    return list(zip(columns.keys, columns.values, strict=True))


def test_a_table_has_seqs_or_has_none() -> None:
    builder = TableBuilder(block_size=64, compression="none", filter_bits_per_key=10)
    builder.add(pack([b"a"], [0], bytes([PUT]), [b""]))
    with pytest.raises(InternalError, match="with and without"):
        builder.add(pack([b"b"], [1], bytes([PUT]), [b""]))
