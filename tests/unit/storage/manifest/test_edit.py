"""The bytes of manifest records, whole and damaged."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    InternalError,
    TruncatedError,
    UnsupportedFormatError,
)
from seerdb.ids import SeqNo
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


def with_numbers(value: Any, number: int) -> Iterator[Any]:
    """``value`` with each number in it, one at a time, replaced."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            for changed in with_numbers(each, number):
                copied = value.copy()
                copied[key] = changed
                yield copied
    elif isinstance(value, int) and not isinstance(value, bool):
        yield number


@kinds
@pytest.mark.parametrize("number", [-1, 10**18, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_numbers_that_no_writer_gets_to_are_corruption(record: ManifestRecord, number: int) -> None:
    bodies = list(with_numbers(json.loads(encode_record(record)[HEADER_SIZE:]), number))
    assert len(bodies) >= 5
    for body in bodies:
        with pytest.raises(CorruptionError, match="is not a manifest record") as caught:
            decode_record(NAME, sealed(json.dumps(body).encode()))
        assert caught.value.name == NAME


@kinds
def test_what_could_not_be_read_again_is_not_written(record: ManifestRecord) -> None:
    with pytest.raises(InternalError, match="no manifest record may say this: Expected `int` <= 9"):
        encode_record(replace(record, last_seq=SeqNo(10**18)))
    assert encode_record(replace(record, last_seq=SeqNo(10**18 - 1)))


def test_a_table_larger_than_any_object_is_corruption() -> None:
    [body] = [
        body
        for body in (json.loads(encode_record(each)[HEADER_SIZE:]) for each in every_kind())
        if body["kind"] == "checkpoint"
    ]
    body["tables"][0]["size"] = 1 << 43
    with pytest.raises(CorruptionError, match=r"size"):
        decode_record(NAME, sealed(json.dumps(body).encode()))
