"""The bytes of values that expire or are merged: in logs, tables and the manifest.

None of it is in the files of version 1 that have none of those: it is additive. A release from
before refuses it by the kinds, and by the fields that only then are in the manifest.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from crc32c import crc32c
from msgspec.structs import asdict, replace

from seerdb.errors import CorruptionError, UnsupportedFormatError
from seerdb.ids import MAX_SEQ, Epoch, table_id
from seerdb.storage.entry import DELETE, MERGE, PUT, PUT_WITH_EXPIRY
from seerdb.storage.manifest.edit import decode_record, encode_record
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT, Block
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import pack
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.sstable.verify import verify_table
from seerdb.storage.value import (
    BELOW,
    Expiring,
    Merge,
    Operand,
    Value,
    decode_value,
    encode_values,
    expiry_marks,
    pack_expiring,
)
from seerdb.storage.wal.format import decode_operations, encode_operations
from tests.unit.storage.manifest.samples import checkpoint_record, claim_record, table
from tests.unit.storage.sstable.samples import block_number

TABLES = [
    Path(__file__).parent / "golden" / f"sstable_v{version}_special.bin" for version in (1, 2, 3)
]

BATCH = bytes.fromhex("0200000005040100010009000000050000006b631ef1536500000000762b66697665")
"""A put of k = v until second 1,700,000,030, and a merge of +five into c."""
OPERATIONS = [
    (PUT_WITH_EXPIRY, b"k", bytes.fromhex("1ef1536500000000") + b"v"),
    (MERGE, b"c", b"+five"),
]

VALUES: list[tuple[Value, int, bytes]] = [
    (b"v", PUT, b"v"),
    (None, DELETE, b""),
    (Expiring(b"v", 1_700_000_030), PUT_WITH_EXPIRY, bytes.fromhex("1ef1536500000000 76")),
    (
        Merge(BELOW, (Operand(1_700_000_000, b"+5"), Operand(1_700_000_001, b""))),
        MERGE,
        bytes.fromhex("00000000000200000000f153650000000001f153650000000002000000000000002b35"),
    ),
    (
        Merge(None, (Operand(1, b"x"),)),
        MERGE,
        bytes.fromhex("02000000000100000001000000000000000100000078"),
    ),
    (
        Merge(b"base", (Operand(1, b"x"),)),
        MERGE,
        bytes.fromhex("0104000000010000000100000000000000010000006261736578"),
    ),
    (
        Merge(Expiring(b"", 9), (Operand(1, b"x"),)),
        MERGE,
        bytes.fromhex("050800000001000000010000000000000001000000090000000000000078"),
    ),
]
KEYS = [b"%d" % number for number in range(len(VALUES))]


def build() -> BuiltTable:
    """The golden table, built today."""
    builder = TableBuilder(block_size=64, compression="none", filter_bits_per_key=10)
    kinds, stored = encode_values([value for value, _, _ in VALUES])
    builder.add(pack(KEYS, range(1, 1 + len(KEYS)), kinds, stored))
    return builder.finish(0, 0, created_by="seerdb 0.1.0")


def meta_of(built: BuiltTable) -> TableMeta:
    fields = {
        name: getattr(built, name) for name in TableMeta.__struct_fields__ if hasattr(built, name)
    }
    return TableMeta(id=table_id(Epoch(1), 1), level=0, run=1, size=len(built.data), **fields)


def test_operations_in_a_log() -> None:
    kinds, keys, values = zip(*OPERATIONS, strict=True)
    assert encode_operations(bytes(kinds), keys, values) == BATCH
    assert decode_operations(BATCH) == OPERATIONS
    for kind, key, value in OPERATIONS:
        assert decode_operations(encode_operations(bytes([kind]), [key], [value])) == [
            (kind, key, value)
        ]


@pytest.mark.parametrize(("value", "kind", "stored"), VALUES)
def test_values_in_a_table(value: Value, kind: int, stored: bytes) -> None:
    assert encode_values([value]) == (bytes([kind]), [stored])
    assert decode_value(kind, stored) == value


def test_a_table_with_all_of_them_is_written_to_the_byte() -> None:
    built = build()
    assert bytes(built.data) == TABLES[-1].read_bytes()
    assert (built.entries, built.deletes, built.expiring, built.merges) == (7, 1, 2, 4)
    assert (built.first_expiry, built.half_expired) == (9, 0)


@pytest.mark.parametrize("path", TABLES)
def test_a_table_with_all_of_them_is_read(path: Path) -> None:
    data = path.read_bytes()
    meta = replace(meta_of(build()), size=len(data), checksum=crc32c(data))
    verify_table(meta, data)
    reader = TableReader(meta, data[meta.tail_offset :])
    for seq, (key, (value, _, _)) in enumerate(zip(KEYS, VALUES, strict=True), 1):
        number = block_number(reader, key)
        offset, length = reader.block_range(number)
        block = reader.decode_block(number, data[offset : offset + length])
        assert block.find(key, key_hash(key) >> FINGERPRINT_SHIFT, MAX_SEQ) == (seq, value)


def test_a_table_that_counts_them_wrongly_is_damaged() -> None:
    built = build()
    for field in ("expiring", "merges"):
        with pytest.raises(CorruptionError, match=field):
            verify_table(replace(meta_of(built), **{field: 1}), bytes(built.data))


@pytest.mark.parametrize("marks", [{"first_expiry": 8}, {"half_expired": 9}])
def test_a_table_whose_values_expire_at_other_times_is_damaged(marks: dict[str, int]) -> None:
    built = build()
    with pytest.raises(CorruptionError, match="expire at other times"):
        verify_table(replace(meta_of(built), **marks), bytes(built.data))


@pytest.mark.parametrize(
    ("ends", "entries", "marks"),
    [([], 0, (0, 0)), ([], 5, (0, 0)), ([7], 2, (7, 7)), ([7], 3, (7, 0)), ([9, 7, 8], 4, (7, 8))],
)
def test_by_when_half_of_a_table_has_expired(
    ends: list[int], entries: int, marks: tuple[int, int]
) -> None:
    assert expiry_marks(ends, entries) == marks


def test_a_kind_from_the_future_is_refused() -> None:
    payload = bytes.fromhex("01000000 00 01 01 00 6b 00 08 01 08 09 09")
    assert Block(payload.replace(b"\x00\x08", b"\x00\x01"), name="t", offset=0).first_key == b"k"
    with pytest.raises(UnsupportedFormatError, match=r"kind.*found 8.*upgrade"):
        Block(payload, name="t", offset=0)


@pytest.mark.parametrize("value", VALUES[2:])
def test_a_stored_value_that_is_cut_or_padded_is_damage(value: tuple[Value, int, bytes]) -> None:
    _, kind, stored = value
    minimum = 8 if kind == PUT_WITH_EXPIRY else len(stored)
    for length in range(minimum):
        with pytest.raises(CorruptionError):
            decode_value(kind, stored[:length])
    if kind == MERGE:
        with pytest.raises(CorruptionError):
            decode_value(kind, stored + b"x")
        with pytest.raises(CorruptionError, match="base"):
            decode_value(kind, b"\x09" + stored[1:])


def test_what_says_how_much_there_is_allocates_nothing() -> None:
    for huge in (b"\x00" + b"\xff" * 8, b"\x00" + bytes(4) + b"\xff" * 4 + bytes(100)):
        with pytest.raises(CorruptionError):
            decode_value(MERGE, huge)


def test_the_manifest_names_operator_and_counts_only_where_there_are_any() -> None:
    plain = table(7)
    special = replace(plain, expiring=2, merges=4, first_expiry=5, half_expired=9)
    claim = replace(claim_record(), merge_operator="int64_add")
    checkpoint = replace(checkpoint_record(special), merge_operator="int64_add")
    for record in (claim, checkpoint):
        assert decode_record("m", encode_record(record)) == record
    assert b'"merge_operator":"int64_add"' in encode_record(claim)
    assert msgspec.json.encode(special).endswith(
        b',"expiring":2,"merges":4,"first_expiry":5,"half_expired":9}'
    )
    assert set(asdict(plain)) - set(msgspec.json.decode(msgspec.json.encode(plain))) == {
        "expiring",
        "merges",
        "first_expiry",
        "half_expired",
        "pointers",
        "blobs",
        "digest",
    }
    assert pack_expiring(1, b"v") == bytes.fromhex("0100000000000000 76")
