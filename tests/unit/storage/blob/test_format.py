"""A damaged blob is an error that says where, never another value."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from seerdb.errors import ChecksumError, CorruptionError
from seerdb.ids import Epoch, blob_id, table_id
from seerdb.storage.blob.format import BlobBuilder, Directory, open_value
from seerdb.storage.blob.verify import verify_blob
from seerdb.storage.manifest.version import BlobUse
from seerdb.storage.object_store.names import blob_name
from seerdb.storage.pointer import BlobPointer, Place, count_by_blob

ID = blob_id(table_id(Epoch(1), 2), 3)
VALUES = [b"one" * 30, b"", random.Random(1).randbytes(200), b"two" * 30]


def build(
    values: list[bytes], compression: str = "zstd"
) -> tuple[list[BlobPointer], bytes, BlobUse]:
    builder = BlobBuilder(ID, compression)
    pointers = [builder.add(value) for value in values]
    built = builder.finish()
    data, checksum, total = bytes(built.data), built.checksum, built.total
    return pointers, data, BlobUse(ID, len(data), checksum, total, len(values), total)


def read(data: bytes, pointer: BlobPointer) -> bytes:
    place = pointer.place
    return open_value(data[place.offset : place.offset + place.length], place)


@given(st.lists(st.binary(max_size=300), min_size=1), st.sampled_from(["zstd", "none"]))
def test_what_goes_in_comes_out(values: list[bytes], compression: str) -> None:
    pointers, data, use = build(values, compression)
    assert [read(data, pointer) for pointer in pointers] == values
    directory = verify_blob(use, data)
    assert list(directory) == [pointer.place for pointer in pointers]
    assert all(pointer.place in directory for pointer in pointers)
    assert count_by_blob(b"".join(pointer.stored for pointer in pointers)) == {
        ID: (len(values), use.total)
    }


def test_values_are_compressed_where_that_pays() -> None:
    assert build([b"v" * 10_000], "none")[2].total > 10_000
    assert build([b"v" * 10_000])[2].total < 100
    noise = random.Random(2).randbytes(10_000)
    assert build([noise])[2].total == 10_009


def test_a_place_where_nothing_begins_is_not_in_the_directory() -> None:
    pointers, data, _ = build(VALUES)
    directory = Directory(ID, data)
    place = pointers[2].place
    for wrong in (
        place._replace(offset=place.offset + 1),
        place._replace(length=place.length - 1),
        place._replace(crc=place.crc ^ 1),
        place._replace(blob=blob_id(table_id(Epoch(1), 2), 4)),
        place._replace(offset=place.offset + 10**6),
    ):
        assert wrong not in directory
    assert "anything else" not in directory


def test_every_flipped_bit_is_found() -> None:
    pointers, data, use = build(VALUES)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptionError) as found:
            verify_blob(use, bytes(damaged))
        assert found.value.name == blob_name(ID)
        for pointer, value in zip(pointers, VALUES, strict=True):
            place = pointer.place
            if place.offset <= position < place.offset + place.length:
                with pytest.raises(CorruptionError) as found:
                    read(bytes(damaged), pointer)
                assert (found.value.name, found.value.offset) == (blob_name(ID), place.offset)
            else:
                assert read(bytes(damaged), pointer) == value


def test_a_blob_cut_anywhere_is_found() -> None:
    pointers, data, use = build(VALUES)
    for length in range(len(data)):
        with pytest.raises(CorruptionError):
            verify_blob(use, data[:length])
        with pytest.raises(CorruptionError):
            Directory(ID, data[:length])
        for pointer in pointers:
            place = pointer.place
            if place.offset + place.length > length:
                with pytest.raises(CorruptionError):
                    read(data[:length], pointer)


def test_a_sound_value_is_not_taken_for_another() -> None:
    [one, _, _, two], data, _ = build(VALUES)
    place = two.place
    there = place._replace(offset=one.place.offset, length=one.place.length)
    assert read(data, BlobPointer.to(there._replace(crc=one.place.crc))) == VALUES[0]
    with pytest.raises(ChecksumError, match="not the value that the table points at"):
        read(data, BlobPointer.to(there))


def test_what_the_manifest_says_of_a_blob_must_hold() -> None:
    _, data, use = build(VALUES)
    for wrong in (
        replace(use, size=use.size + 1),
        replace(use, checksum=1),
        replace(use, total=use.total - 1),
    ):
        with pytest.raises(CorruptionError):
            verify_blob(wrong, data)


def test_pointers_are_counted_by_blob() -> None:
    places = [
        Place(blob_id(table_id(Epoch(epoch), counter), number), 7, length, 9)
        for epoch, counter, number, length in [
            (1, 5, 0, 10),
            (2, 5, 0, 20),
            (1, 5, 1, 1 << 31),
            (1, 5, 0, 30),
            (1, 1 << 39, 0, 40),
            (1, 5, 1, 1 << 31),
        ]
    ]
    found = count_by_blob(b"".join(BlobPointer.to(place).stored for place in places))
    assert found == {
        places[0].blob: (2, 40),
        places[1].blob: (1, 20),
        places[2].blob: (2, 1 << 32),
        places[4].blob: (1, 40),
    }
    assert count_by_blob(b"") == {}
