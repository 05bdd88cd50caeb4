from __future__ import annotations

import re
import struct
import tracemalloc

import pytest
import zstandard
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    InvalidRequestError,
    TruncatedError,
    UnsupportedFormatError,
)
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT
from seerdb.storage.wal import format as wal_format
from seerdb.storage.wal.format import (
    BATCH,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_COMPRESSED_BODY,
    MAX_FRAME_BODY,
    MAX_PAYLOAD,
    RECORD_HEADER_SIZE,
    SEAL_FRAME_SIZE,
    decode_batch,
    decode_frame_header,
    decode_header,
    decode_operations,
    encode_frame,
    encode_header,
    encode_operations,
    encode_put,
    encode_record,
    put_frame,
)
from tests.unit.storage.wal.samples import HEADER, SALT, flipped, frame, put, seal

operations = st.lists(
    st.tuples(
        st.sampled_from([PUT, DELETE, DELETE_RANGE]), st.binary(max_size=40), st.binary(max_size=60)
    ),
    max_size=30,
)


class Huge(bytes):
    """Says that it is 5 GiB."""

    def __len__(self) -> int:
        return 5 << 30


@pytest.mark.parametrize("size", [(64 << 10) - 1, 64 << 10, 16 << 20])
def test_a_record_of_a_large_payload_is_made_without_another_copy_of_it(size: int) -> None:
    payload = b"x" * size
    tracemalloc.start()
    try:
        record = encode_record(7, 9, payload, SALT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fields = struct.pack("<IBQQ", size, BATCH, 7, 9)
    assert record == struct.pack("<I", crc32c(fields + payload, SALT)) + fields + payload
    if size >= 64 << 10:
        assert peak < 1.1 * size


def documented_example() -> bytes:
    assert wal_format.__doc__ is not None
    lines = re.findall(r"^    ((?:[0-9a-f]{2} +)+[0-9a-f]{2})$", wal_format.__doc__, re.MULTILINE)
    return bytes.fromhex("".join(lines))


def documented_sizes() -> list[int]:
    """Offset plus width of the last fixed field in each table of the module docstring."""
    assert wal_format.__doc__ is not None
    rows = re.findall(r"^(\d+) +(\d+) ", wal_format.__doc__, re.MULTILINE)
    ends = [int(offset) + int(width) for offset, width in rows]
    return [end for end, later in zip(ends, [*ends[1:], 0], strict=True) if later < end]


def packed_put(seq: int, stamp: int, key: bytes, value: bytes, salt: int, *, synced: int) -> bytes:
    """What ``put_frame`` makes of a put."""
    sizes = len(key), len(value)
    pack, pack_into, header, payload, size = put_frame(*sizes, salt=salt, synced=synced)
    record = pack(payload, BATCH, seq, stamp, 1, PUT, *sizes, key, value)
    buffer = bytearray(5 + size)
    pack_into(buffer, 5, header, crc32c(record, salt), record)
    return bytes(buffer[5:])


def test_the_documented_example_is_what_is_written() -> None:
    stamp = 1_700_000_000_000_000
    assert documented_example() == packed_put(7, stamp, b"k", b"hello", 0x5EEDB0A7, synced=4096)


def test_the_documented_tables_have_the_sizes_in_the_code() -> None:
    assert documented_sizes() == [HEADER_SIZE, FRAME_HEADER_SIZE, RECORD_HEADER_SIZE]


def test_the_size_kept_free_for_the_seal_is_that_of_its_frame() -> None:
    assert len(frame(seal(1, 1))) == SEAL_FRAME_SIZE


@given(operations)
def test_operations_survive_the_round_trip(batch: list[tuple[int, bytes, bytes]]) -> None:
    kinds = bytes(kind for kind, _, _ in batch)
    payload = encode_operations(kinds, [key for _, key, _ in batch], [v for _, _, v in batch])
    assert decode_operations(payload) == batch


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_single_put_has_the_bytes_of_a_batch_of_one(key: bytes, value: bytes) -> None:
    assert encode_put(key, value) == encode_operations(bytes([PUT]), [key], [value])


@given(
    st.integers(1, (1 << 63) - 1),
    st.integers(0, (1 << 63) - 1),
    st.binary(max_size=100),
    st.binary(max_size=300),
    st.integers(1, (1 << 32) - 1),
)
def test_the_fused_frame_has_the_bytes_of_the_composed_one(
    seq: int, stamp: int, key: bytes, value: bytes, salt: int
) -> None:
    record = encode_record(seq, stamp, encode_put(key, value), salt)
    composed = encode_frame(record, salt=salt, synced=stamp, alignment=1, compress=None)
    assert packed_put(seq, stamp, key, value, salt, synced=stamp) == composed


def test_the_longest_key_fits() -> None:
    payload = encode_operations(b"\x01\x02", [b"k" * 65_535, b""], [b"", b""])
    assert decode_operations(payload)[0] == (PUT, b"k" * 65_535, b"")


def test_a_batch_cut_anywhere_is_refused() -> None:
    payload = encode_operations(b"\x01\x02\x03", [b"a", b"bb", b"c"], [b"1", b"", b"d"])
    for length in range(len(payload)):
        with pytest.raises(TruncatedError):
            decode_operations(payload[:length])
    with pytest.raises(CorruptionError):
        decode_operations(payload + b"x")
    single = encode_put(b"key", b"value")
    for length in range(len(single)):
        with pytest.raises(CorruptionError):
            decode_operations(single[:length])


def test_an_unknown_kind_is_refused_with_its_place() -> None:
    for payload, offset in (
        (encode_operations(b"\x7f", [b"a"], [b"b"]), 4),
        (encode_operations(b"\x01\x00\x01", [b"a"] * 3, [b"b"] * 3), 5),
    ):
        with pytest.raises(CorruptionError, match="unknown kind") as caught:
            decode_operations(payload, "wal/1")
        assert (caught.value.name, caught.value.offset) == ("wal/1", offset)


@pytest.mark.parametrize("kinds", [b"\x01", b"\x02", b"\x04", b"\x01\x02"])
def test_no_database_takes_an_empty_key(kinds: bytes) -> None:
    keys = [b"k", b""][-len(kinds) :]
    with pytest.raises(CorruptionError, match=r"^wal/1: a batch has an empty key$"):
        decode_batch(encode_operations(kinds, keys, [b""] * len(kinds)), "wal/1")


@pytest.mark.parametrize("end", [b"k", b"a", b""])
def test_no_database_takes_a_range_that_ends_before_it_starts(end: bytes) -> None:
    columns = b"\x01\x03", [b"a", b"k"], [b"v", b"l"]
    assert decode_batch(encode_operations(*columns), "wal/1") == columns
    columns[2][1] = end
    with pytest.raises(CorruptionError, match="wal/1: a batch deletes a range that ends before"):
        decode_batch(encode_operations(*columns), "wal/1")


def test_a_hostile_count_allocates_nothing() -> None:
    payload = struct.pack("<I", (1 << 32) - 1) + bytes(100)
    with pytest.raises(TruncatedError) as caught:
        decode_operations(payload)
    assert caught.value.expected == 4 + 7 * ((1 << 32) - 1)


def test_a_batch_too_large_for_a_record_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=f"{MAX_PAYLOAD:,}"):
        encode_record(1, 1, Huge(), SALT)
    with pytest.raises(InvalidRequestError, match=f"{MAX_FRAME_BODY:,}"):
        encode_frame(Huge(), salt=SALT, synced=0, alignment=1, compress=lambda data: data)


def test_frames_are_compressed_only_where_it_helps() -> None:
    repetitive = put(1, b"a" * 1000)
    squeezed = frame(repetitive, compressed=True)
    assert len(squeezed) < 200
    header = decode_frame_header(squeezed[:FRAME_HEADER_SIZE], HEADER_SIZE, HEADER)
    assert header is not None
    assert (header.raw, header.end) == (len(repetitive), HEADER_SIZE + len(squeezed))
    assert frame(put(1, b""), compressed=True) == frame(put(1, b""))


def test_what_readers_would_refuse_to_decompress_is_not_compressed() -> None:
    def refuse(data: bytes) -> bytes:
        raise AssertionError("too large")

    body = bytes(MAX_COMPRESSED_BODY + 1)
    plain = encode_frame(body, salt=SALT, synced=0, alignment=1, compress=refuse)
    assert len(plain) == FRAME_HEADER_SIZE + len(body)


def test_frames_of_direct_segments_fill_whole_blocks() -> None:
    for size in (1, 4000, 4096 - 24 - 25 - 11 - 4, 4096, 10_000):
        padded = frame(put(1, b"v" * size), alignment=4096)
        assert len(padded) % 4096 == 0
        assert padded.startswith(frame(put(1, b"v" * size)))
        assert not padded[len(frame(put(1, b"v" * size))) :].strip(b"\0")


def test_the_header_survives_the_round_trip() -> None:
    data = encode_header(HEADER)
    assert len(data) == HEADER_SIZE
    assert decode_header(data + b"frames", "wal/3") == HEADER
    direct = HEADER._replace(alignment=4096, segment=(1 << 64) - 1, salt=1)
    assert decode_header(encode_header(direct), "wal/3") == direct


def test_a_header_cut_anywhere_is_truncated() -> None:
    data = encode_header(HEADER)
    for length in (0, 1, 8, 71, 72, 4095):
        with pytest.raises(TruncatedError) as caught:
            decode_header(data[:length], "wal/3")
        assert (caught.value.name, caught.value.found) == ("wal/3", length)


def test_a_flipped_bit_in_the_header_is_noticed() -> None:
    data = encode_header(HEADER)
    for offset in range(72):
        for bit in range(8):
            with pytest.raises((ChecksumError, UnsupportedFormatError)):
                decode_header(flipped(data, offset, bit), "wal/3")


def test_another_magic_version_or_alignment_is_unsupported() -> None:
    data = encode_header(HEADER)
    for strange, offset in (
        (b"SQLite f" + data[8:], 0),
        (data[:8] + b"\x02" + data[9:], 8),
        (encode_header(HEADER._replace(alignment=512)), 10),
    ):
        with pytest.raises(UnsupportedFormatError) as caught:
            decode_header(strange, "wal/3")
        assert caught.value.offset == offset


def test_a_frame_header_counts_only_with_the_salt_and_its_checksum() -> None:
    whole = frame(put(1))
    fields = whole[:FRAME_HEADER_SIZE]
    header = decode_frame_header(fields, HEADER_SIZE, HEADER)
    assert header is not None
    assert header.end == header.next == HEADER_SIZE + len(whole)
    assert decode_frame_header(fields, HEADER_SIZE, HEADER._replace(salt=1)) is None
    assert decode_frame_header(whole[1 : FRAME_HEADER_SIZE + 1], HEADER_SIZE, HEADER) is None
    assert decode_frame_header(fields[:-1], HEADER_SIZE, HEADER) is None
    for position in range(FRAME_HEADER_SIZE):
        assert decode_frame_header(flipped(fields, position), HEADER_SIZE, HEADER) is None


def test_a_frame_of_a_direct_segment_starts_at_a_block() -> None:
    fields = frame(put(1))[:FRAME_HEADER_SIZE]
    assert decode_frame_header(fields, HEADER_SIZE + 1, HEADER) is not None
    assert decode_frame_header(fields, HEADER_SIZE + 1, HEADER._replace(alignment=4096)) is None


def test_zstd_bodies_say_how_long_they_are() -> None:
    squeezed = frame(put(1, b"a" * 1000), compressed=True)
    assert zstandard.frame_content_size(squeezed[FRAME_HEADER_SIZE:]) == len(put(1, b"a" * 1000))
