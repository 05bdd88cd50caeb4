"""Sealed parts and the footer: whole, or refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import zstandard
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError, UnsupportedFormatError
from seerdb.storage.sstable.compressor import Compressor
from seerdb.storage.sstable.format import (
    FOOTER_SIZE,
    MAGIC,
    TRAILER_SIZE,
    VERSION,
    Footer,
    decode_footer,
    encode_footer,
    seal,
    seal_rows,
    unseal,
    unseal_all,
)

NAME = "tables/t.sst"

FRAME_OF_A_PEBIBYTE = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + bytes(8)
"""A zstd frame that announces so much that nobody could even make room for it."""


def compressor() -> Compressor:
    """As a builder has it."""
    return Compressor()


def resealed(body: bytes, codec: int, raw_length: int) -> bytes:
    """A part with a right checksum, whatever its fields say."""
    part = body + codec.to_bytes(1, "little") + raw_length.to_bytes(4, "little")
    crc = crc32c(part)
    if codec & 2:  # as in LevelDB, table/format.cc
        crc = ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % (1 << 32)
    return part + crc.to_bytes(4, "little")


def opened(stored: bytes) -> bytes:
    """The payload of a part."""
    return unseal(stored, name=NAME, offset=7)


def opened_among_others(stored: bytes) -> bytes:
    """The same, of a part between sound ones that are compressed; errors have its offset."""
    return _opened_between(stored, compressor())


def opened_among_raw(stored: bytes) -> bytes:
    """The same, of a part between sound ones that are not."""
    return _opened_between(stored, None)


def _opened_between(stored: bytes, chosen: Compressor | None) -> bytes:
    before, after = seal(b"before" * 50, chosen), seal(b"after" * 50, chosen)
    borders = [0, len(before), len(before) + len(stored), len(before + stored + after)]
    joined = before + stored + after
    payloads = unseal_all(joined, np.array(borders), name=NAME, offset=7 - len(before))
    assert [bytes(payloads[0]), bytes(payloads[2])] == [b"before" * 50, b"after" * 50]
    return bytes(payloads[1])


@given(st.binary(min_size=1, max_size=300), st.integers(1, 20), st.booleans())
def test_parts_are_unsealed_together(piece: bytes, times: int, compressed: bool) -> None:
    payload = piece * times
    stored = seal(payload, compressor() if compressed else None)
    assert opened_among_others(stored) == opened_among_raw(stored) == payload


@given(st.binary(max_size=300), st.integers(1, 20), st.booleans())
def test_what_was_sealed_is_unsealed(piece: bytes, times: int, compressed: bool) -> None:
    payload = piece * times
    assert opened(seal(payload, compressor() if compressed else None)) == payload


def test_compressible_parts_are_compressed_and_others_are_not() -> None:
    repetitive, random = b"abcdefgh" * 100, bytes((n * n >> 3) & 0xFF for n in range(40))
    assert len(seal(repetitive, compressor())) < 100
    assert seal(random, compressor()) == seal(random, None)
    assert len(seal(random, None)) == len(random) + TRAILER_SIZE


def test_a_part_that_hardly_shrinks_is_stored_raw() -> None:
    payload = b"".join(xxh3_128_digest(b"%d" % number) for number in range(40)) + bytes(36)
    assert len(payload) - 30 < len(compressor().compress(payload)) < len(payload)
    assert seal(payload, compressor()) == seal(payload, None)


def rows_of(payloads: list[bytes]) -> NDArray[np.uint8]:
    """Payloads of one length, each with room for its trailer, of whatever was there before."""
    joined = b"".join(payload + b"\xee" * TRAILER_SIZE for payload in payloads)
    return np.frombuffer(bytearray(joined), np.uint8).reshape(len(payloads), -1)


@given(
    st.integers(0, 40).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), min_size=1))
)
def test_rows_are_sealed_as_each_for_itself(payloads: list[bytes]) -> None:
    stored = bytes(seal_rows(rows_of(payloads)))
    assert stored == b"".join(seal(payload, None) for payload in payloads)
    borders = np.arange(len(payloads) + 1) * (len(payloads[0]) + TRAILER_SIZE)
    assert list(map(bytes, unseal_all(stored, borders, name=NAME, offset=0))) == payloads


def test_damage_in_one_of_many_rows_is_found_where_it_is() -> None:
    stored = bytearray(seal_rows(rows_of([b"%04d" % number for number in range(9)])))
    width = 4 + TRAILER_SIZE
    for at in range(len(stored)):
        stored[at] ^= 1
        with pytest.raises(ChecksumError) as found:
            unseal_all(bytes(stored), np.arange(10) * width, name=NAME, offset=100)
        assert found.value.offset == 100 + at // width * width
        stored[at] ^= 1


def test_every_flipped_bit_is_a_checksum_error() -> None:
    for part in (seal(b"abc" * 50, compressor()), seal(b"abc" * 50, None)):
        for bit in range(len(part) * 8):
            damaged = bytearray(part)
            damaged[bit // 8] ^= 1 << bit % 8
            for opening in (opened, opened_among_others, opened_among_raw):
                with pytest.raises(ChecksumError) as raised:
                    opening(bytes(damaged))
                assert (raised.value.name, raised.value.offset) == (NAME, 7)


def test_every_truncation_is_refused() -> None:
    part = seal(b"abc" * 50, compressor())
    for length in range(len(part)):
        for opening in (opened, opened_among_others, opened_among_raw):
            with pytest.raises(TruncatedError if length < TRAILER_SIZE else ChecksumError):
                opening(part[:length])


def test_an_unknown_codec_is_from_a_newer_release() -> None:
    with pytest.raises(UnsupportedFormatError):
        opened(resealed(b"abc", 4, 3))


@pytest.mark.parametrize(
    ("body", "codec", "raw_length"),
    [
        (b"abc", 0, 4),
        (b"not a frame", 1, 3),
        (compressor().compress(b"a" * 1000), 1, 999),
        (compressor().compress(b"a" * 1000), 1, 1001),
        (compressor().compress(b"a" * 1000), 1, 0),
        (zstandard.ZstdCompressor(level=1).compress(b"a" * 1000), 1, 10),
        (compressor().compress(b"a" * 1000)[:-3], 1, 1000),
        (FRAME_OF_A_PEBIBYTE, 1, 1000),
    ],
    ids=["raw", "garbage", "longer", "shorter", "empty", "announced", "torn", "bomb"],
)
@pytest.mark.parametrize("masked", [0, 2])
def test_a_length_or_frame_that_lies_is_corruption(
    body: bytes, codec: int, raw_length: int, masked: int
) -> None:
    for opening in (opened, opened_among_others, opened_among_raw):
        with pytest.raises(CorruptionError) as raised:
            opening(resealed(body, codec | masked, raw_length))
        assert raised.value.offset == 7


def test_a_length_that_no_frame_expands_to_takes_no_memory() -> None:
    body = compressor().compress(b"a" * 1000)
    for opening in (opened, opened_among_others, opened_among_raw):
        tracemalloc.start()
        with pytest.raises(CorruptionError, match="than a frame of its length holds"):
            opening(resealed(body, 3, (1 << 32) - 1))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1 << 17, 1 << 20, 1 << 26])
def test_what_compresses_best_is_opened(size: int) -> None:
    payload = bytes(size)
    assert opened(seal(payload, compressor())) == payload
    assert opened_among_others(seal(payload, compressor())) == payload
    best = zstandard.ZstdCompressor(level=22).compress(payload)
    assert opened(resealed(best, 3, size)) == payload


@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_parts_of_earlier_versions_are_opened_beside_new_ones(
    payload: bytes, compressed: bool
) -> None:
    """Their checksums are not masked."""
    body = compressor().compress(payload) if compressed else payload
    part = resealed(body, int(compressed), len(payload))
    assert opened(part) == opened_among_others(part) == opened_among_raw(part) == payload
    assert opened(resealed(body, 2 | compressed, len(payload))) == payload
    if not compressed:
        assert seal(payload, None) == resealed(payload, 2, len(payload))


def test_what_follows_a_frame_is_refused_by_who_opens_one_part() -> None:
    """Who opens many has the payload that the checksum and the length promise."""
    stored = resealed(compressor().compress(b"a" * 1000) + b"more", 1, 1000)
    with pytest.raises(CorruptionError):
        opened(stored)
    assert opened_among_others(stored) == b"a" * 1000


FOOTER = Footer(100, 120, 140, 160)


def tail_with(footer: bytes) -> bytes:
    """A tail from byte 100 to the footer at byte 180."""
    return bytes(80) + footer


def decoded(tail: bytes) -> Footer:
    """The footer of a tail that starts at byte 100."""
    return decode_footer(tail, name=NAME, tail_offset=100)


def test_a_footer_comes_back() -> None:
    assert decoded(tail_with(encode_footer(FOOTER))) == FOOTER


def test_another_magic_is_not_a_table() -> None:
    damaged = encode_footer(FOOTER).replace(MAGIC, b"PARQUET1")
    with pytest.raises(UnsupportedFormatError, match="not a SeerDB table") as raised:
        decoded(tail_with(damaged))
    assert (raised.value.name, raised.value.offset) == (NAME, 180)


def test_a_future_version_is_refused_with_the_way_out() -> None:
    fields = bytearray(encode_footer(FOOTER)[:-4])
    fields[-len(MAGIC) - 4] = VERSION + 1
    future = bytes(fields) + crc32c(bytes(fields)).to_bytes(4, "little")
    with pytest.raises(UnsupportedFormatError) as raised:
        decoded(tail_with(future))
    assert (raised.value.expected, raised.value.found) == ((1, 2, VERSION), VERSION + 1)
    assert "upgrade" in raised.value.hint


def test_a_damaged_offset_is_a_checksum_error() -> None:
    damaged = bytearray(encode_footer(FOOTER))
    damaged[3] ^= 1
    with pytest.raises(ChecksumError):
        decoded(tail_with(bytes(damaged)))


@pytest.mark.parametrize(
    "footer",
    [Footer(99, 120, 140, 160), Footer(100, 160, 140, 120), Footer(100, 120, 140, 175)],
    ids=["elsewhere", "backwards", "too close to the footer"],
)
def test_offsets_that_do_not_divide_the_tail_are_corruption(footer: Footer) -> None:
    with pytest.raises(CorruptionError):
        decoded(tail_with(encode_footer(footer)))


def test_a_tail_shorter_than_a_footer_is_truncated() -> None:
    with pytest.raises(TruncatedError):
        decoded(encode_footer(FOOTER)[1:])
    assert len(encode_footer(FOOTER)) == FOOTER_SIZE
