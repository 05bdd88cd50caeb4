"""The bytes of large values: blobs, pointers in tables, and what the manifest says of them.

``golden/blob_v*.bin`` are uncompressed, so their bytes depend on no library's compressor. All of it
is additive: no file from before has any, and a release from before refuses what has.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from crc32c import crc32c
from msgspec.structs import replace

from seerdb.errors import CorruptionError, UnsupportedFormatError
from seerdb.ids import MAX_SEQ, Epoch, blob_id, table_id
from seerdb.storage.blob.format import BlobBuilder, BuiltBlob, Directory, open_value
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, PUT
from seerdb.storage.manifest.edit import decode_record, encode_record
from seerdb.storage.manifest.version import BlobRef, TableMeta
from seerdb.storage.pointer import BlobPointer, Place
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import pack
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.sstable.verify import verify_table
from seerdb.storage.value import Expiring, Value, decode_value, encode_values
from tests.unit.storage.manifest.samples import edit_record, table

GOLDEN = Path(__file__).parent / "golden"
BLOB_FILES = [GOLDEN / f"blob_v{version}.bin" for version in (1, 2)]
TABLE_FILES = [GOLDEN / f"sstable_v{version}_pointers.bin" for version in (1, 3)]
EDIT_FILE = GOLDEN / "manifest_edit_blobs_v1.bin"

ID = blob_id(table_id(Epoch(3), 0x0102030405), 7)
OTHER = blob_id(table_id(Epoch(3), 0x0102030405), 8)
VALUES = [b"a large value", b"\x00" * 40, b"x"]

PLACE = Place(ID, 22, 49, 0x11223344)
POINTER = bytes.fromhex("03000000 07000000 0504030201000000 1600000000000000 31000000 44332211")
ENTRIES: list[tuple[bytes, Value, int, bytes]] = [
    (b"a", BlobPointer(POINTER), BLOB, POINTER),
    (
        b"b",
        Expiring(BlobPointer(POINTER), 1_700_000_030),
        BLOB_WITH_EXPIRY,
        bytes.fromhex("1ef1536500000000") + POINTER,
    ),
    (b"c", b"small", PUT, b"small"),
]


def build_blob() -> tuple[list[BlobPointer], BuiltBlob]:
    """The golden blob, built today."""
    builder = BlobBuilder(ID, "none")
    return [builder.add(value) for value in VALUES], builder.finish()


def build_table() -> BuiltTable:
    """The golden table, built today."""
    builder = TableBuilder(block_size=1024, compression="none", filter_bits_per_key=10)
    keys, values, _, _ = (list(column) for column in zip(*ENTRIES, strict=True))
    kinds, stored = encode_values(values)
    builder.add(pack(keys, [1, 2, 3], kinds, stored))
    return builder.finish(0, 0, created_by="seerdb 0.1.0")


def meta_of(built: BuiltTable) -> TableMeta:
    fields = {
        name: getattr(built, name) for name in TableMeta.__struct_fields__ if hasattr(built, name)
    }
    [(blob, (values, size))] = built.pointed.items()
    ref = BlobRef(id=blob, size=900, checksum=1, total=800, values=values, bytes=size)
    return TableMeta(
        id=table_id(Epoch(3), 1),
        level=0,
        run=1,
        size=len(built.data),
        pointers=values,
        blobs=(ref,),
        **fields,
    )


def test_version_2_of_a_blob_is_written_to_the_byte() -> None:
    pointers, built = build_blob()
    assert bytes(built.data) == BLOB_FILES[-1].read_bytes()
    assert (built.total, built.checksum) == (81, 0xC4699D0F)
    assert [pointer.place[1:3] for pointer in pointers] == [(0, 22), (22, 49), (71, 10)]


@pytest.mark.parametrize("path", BLOB_FILES)
def test_every_version_of_a_blob_is_read(path: Path) -> None:
    data = path.read_bytes()
    places = list(Directory(ID, data))
    assert places == [pointer.place for pointer in build_blob()[0]]
    for place, value in zip(places, VALUES, strict=True):
        assert open_value(data[place.offset : place.offset + place.length], place) == value


def test_a_blob_of_a_future_version_says_so() -> None:
    data = BLOB_FILES[-1].read_bytes()
    with pytest.raises(UnsupportedFormatError, match=r"version.*expected .*2.*, found 3.*upgrade"):
        Directory(ID, data[:-16] + b"\x03" + data[-15:])
    with pytest.raises(UnsupportedFormatError, match="not a SeerDB blob"):
        Directory(ID, TABLE_FILES[-1].read_bytes())


def test_a_pointer_is_written_and_read_as_ever() -> None:
    assert BlobPointer.to(PLACE).stored == POINTER
    assert (BlobPointer.read(POINTER).place, BlobPointer(POINTER).length) == (PLACE, 49)
    largest = Place(blob_id(table_id(Epoch(99_999_999), 10**12 - 1), 999_999), 1 << 40, 1 << 31, 9)
    assert BlobPointer.to(largest).place == largest


@pytest.mark.parametrize(("key", "value", "kind", "stored"), ENTRIES)
def test_pointers_in_a_table(key: bytes, value: Value, kind: int, stored: bytes) -> None:
    assert encode_values([value]) == (bytes([kind]), [stored])
    assert decode_value(kind, stored) == value
    if kind != PUT:
        for wrong in (stored[:-1], stored + b"\0", b""):
            with pytest.raises(CorruptionError):
                decode_value(kind, wrong)


def test_a_table_with_pointers_is_written_to_the_byte() -> None:
    built = build_table()
    assert bytes(built.data) == TABLE_FILES[-1].read_bytes()
    assert (built.pointed, built.expiring) == ({ID: (2, 98)}, 1)


@pytest.mark.parametrize("path", TABLE_FILES)
def test_a_table_with_pointers_is_read(path: Path) -> None:
    data = path.read_bytes()
    meta = replace(meta_of(build_table()), checksum=crc32c(data))
    verify_table(meta, data)
    reader = TableReader(meta, data[meta.tail_offset :])
    offset, length = reader.block_range(0)
    block = reader.decode_block(0, data[offset : offset + length])
    for seq, (key, value, _, _) in enumerate(ENTRIES, 1):
        assert block.find(key, key_hash(key) >> FINGERPRINT_SHIFT, MAX_SEQ) == (seq, value)


def test_a_table_that_does_not_point_as_the_manifest_says_is_damaged() -> None:
    built = build_table()
    meta = meta_of(built)
    [ref] = meta.blobs
    with pytest.raises(CorruptionError, match="pointers differs"):
        verify_table(replace(meta, pointers=3), bytes(built.data))
    for wrong in (replace(ref, bytes=97), replace(ref, values=1), replace(ref, id=OTHER)):
        with pytest.raises(CorruptionError, match="point into blobs"):
            verify_table(replace(meta, blobs=(wrong,)), bytes(built.data))


def test_the_manifest_names_the_blobs_of_a_table() -> None:
    pointing = replace(
        table(7),
        pointers=3,
        blobs=(
            BlobRef(id=ID, size=900, checksum=0xC0FFEE, total=800, values=2, bytes=98),
            BlobRef(id=OTHER, size=70, checksum=1, total=20, values=1, bytes=20),
        ),
    )
    edit = edit_record(pointing)
    assert decode_record(EDIT_FILE.name, EDIT_FILE.read_bytes()) == edit
    assert encode_record(edit) == EDIT_FILE.read_bytes()
    assert b"blobs" not in msgspec.json.encode(table(7))
