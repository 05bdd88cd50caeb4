"""The bytes of a lease."""

from __future__ import annotations

import pytest
from crc32c import crc32c
from msgspec.structs import replace

from seerdb.ids import Epoch, SeqNo
from seerdb.storage.lease.record import MAX_SIZE, LeaseRecord, decode_lease, encode_lease

RECORD = LeaseRecord(
    epoch=Epoch(3),
    number=7,
    seconds=6.0,
    home="ab" * 16,
    address="http://127.0.0.1:8000",
    seq=SeqNo(120),
    shipped_seq=SeqNo(100),
    time_us=1_700_000_000_000_000,
)


def test_what_is_written_is_read_back() -> None:
    assert decode_lease(encode_lease(RECORD)) == RECORD


def test_the_bytes_are_these_for_ever() -> None:
    assert encode_lease(RECORD) == (
        b'0510bf1d {"epoch":3,"number":7,"seconds":6.0,"home":"abababababababababababababababab",'
        b'"address":"http://127.0.0.1:8000","seq":120,"shipped_seq":100,'
        b'"time_us":1700000000000000,"version":1,"released":false}\n'
    )


def test_every_renewal_has_other_bytes() -> None:
    assert encode_lease(RECORD) != encode_lease(replace(RECORD, number=8))


def test_a_member_of_a_later_release_is_no_damage() -> None:
    body = encode_lease(RECORD).partition(b" ")[2].rstrip(b"\n")[:-1] + b',"later":1}'
    assert decode_lease(b"%08x %b\n" % (crc32c(body), body)) == RECORD


def test_nesting_too_deep_to_be_read_tells_nothing() -> None:
    deep = b"[" * 20_000 + b"]" * 20_000
    body = encode_lease(RECORD).partition(b" ")[2].rstrip(b"\n")[:-1] + b',"later":%b}' % deep
    assert decode_lease(b"%08x %b\n" % (crc32c(body), body)) is None


def test_a_version_of_a_later_release_tells_nothing() -> None:
    assert decode_lease(encode_lease(replace(RECORD, version=2))) is None


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 50, 150])
def test_a_cut_one_tells_nothing(cut: int) -> None:
    assert decode_lease(encode_lease(RECORD)[:cut]) is None


def test_a_damaged_one_tells_nothing() -> None:
    data = bytearray(encode_lease(RECORD))
    for position in range(len(data) - 1):
        data[position] ^= 1
        assert decode_lease(bytes(data)) is None
        data[position] ^= 1


@pytest.mark.parametrize("data", [None, b"00000000 ", b"x" * (MAX_SIZE + 1), b"\xff" * 40])
def test_what_is_no_lease_tells_nothing(data: bytes | None) -> None:
    assert decode_lease(data) is None


def test_one_that_is_nested_too_deep_tells_nothing() -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    body = encode_lease(RECORD).partition(b" ")[2].rstrip(b"\n")[:-1] + b',"x":' + nested[:60_000]
    assert decode_lease(b"%08x %b\n" % (crc32c(body), body)) is None
