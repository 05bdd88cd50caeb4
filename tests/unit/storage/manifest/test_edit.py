"""The bytes of manifest records, whole and damaged."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    TruncatedError,
    UnsupportedFormatError,
)
from seerdb.storage.manifest.edit import ManifestRecord, decode_record, encode_record
from seerdb.storage.object_store.envelope import HEADER_SIZE
from tests.unit.storage.manifest.samples import every_kind

NAME = "manifest/00000000000000000007"

kinds = pytest.mark.parametrize("record", every_kind(), ids=lambda record: type(record).__name__)


def sealed(body: bytes) -> bytes:
    """A well-formed object around any body."""
    prefix = struct.pack("<8sII", b"SeerMfst", 1, len(body))
    return prefix + struct.pack("<I", crc32c(prefix + body)) + body


@kinds
def test_what_is_encoded_is_decoded(record: ManifestRecord) -> None:
    assert decode_record(NAME, encode_record(record)) == record


@kinds
def test_the_documented_layout_is_the_layout(record: ManifestRecord) -> None:
    data = encode_record(record)
    assert data == sealed(data[HEADER_SIZE:])


@kinds
def test_cut_off_at_every_byte(record: ManifestRecord) -> None:
    data = encode_record(record)
    for size in range(len(data)):
        with pytest.raises(TruncatedError) as caught:
            decode_record(NAME, data[:size])
        assert caught.value.name == NAME
        assert caught.value.found == size


@kinds
def test_every_byte_flipped(record: ManifestRecord) -> None:
    data = encode_record(record)
    for position in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= mask
            with pytest.raises(CorruptionError) as caught:
                decode_record(NAME, bytes(damaged))
            assert caught.value.name == NAME
            if position >= HEADER_SIZE:
                assert isinstance(caught.value, ChecksumError)


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(CorruptionError, match="wrong length"):
        decode_record(NAME, encode_record(every_kind()[0]) + b"x")


def test_a_future_format_version_is_refused_with_the_way_out() -> None:
    data = bytearray(encode_record(every_kind()[0]))
    data[8] = 2
    with pytest.raises(UnsupportedFormatError, match="another release") as caught:
        decode_record(NAME, bytes(data))
    assert (caught.value.expected, caught.value.found) == (1, 2)


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError):
        decode_record(NAME, b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"claim"}',
        b'{"kind":"other"}',
        b'{"kind":"edit","number":"one"}',
        b'\xff\xfe{"kind":"claim"}',
        b'{"kind":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_a_body_that_is_no_record_is_corruption_although_its_checksum_fits(body: bytes) -> None:
    with pytest.raises(CorruptionError, match="not a manifest record"):
        decode_record(NAME, sealed(body))


@pytest.mark.parametrize(
    ("field", "damaged"),
    [
        (b'"number":1', b'"number":0'),
        (b'"epoch":1', b'"epoch":0'),
        (b'"checkpoint":0', b'"checkpoint":2'),
        (b'"checkpoint":0', b'"checkpoint":-1'),
        (b'"home"', b'"haus"'),
    ],
)
def test_fields_out_of_range_or_unknown_are_corruption(field: bytes, damaged: bytes) -> None:
    body = encode_record(every_kind()[0])[HEADER_SIZE:]
    assert field in body
    with pytest.raises(CorruptionError, match="not a manifest record"):
        decode_record(NAME, sealed(body.replace(field, damaged)))


@given(st.binary(max_size=200))
def test_any_body_is_a_record_or_corruption(body: bytes) -> None:
    for data in (body, sealed(body)):
        try:
            decode_record(NAME, data)
        except CorruptionError:
            continue
