"""WAL segments of every version ever written are read for ever, and written the same way.

The files are never rewritten. A new version of the format adds a file.
"""

from __future__ import annotations

from pathlib import Path

from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT
from seerdb.storage.wal.format import (
    HEADER_SIZE,
    SegmentHeader,
    decode_operations,
    encode_frame,
    encode_header,
    encode_operations,
    encode_put,
    encode_record,
    encode_seal,
)
from seerdb.storage.wal.reader import Condition, classify, read_segment

GOLDEN = Path(__file__).parent / "golden"
SALT = 0xC0FFEE11
HEADER = SegmentHeader(
    database_id=bytes.fromhex("00112233445566778899aabbccddeeff"),
    segment=42,
    epoch=7,
    first_seq=1001,
    created_us=1_700_000_000_000_000,
    salt=SALT,
    alignment=1,
)
BATCHES = {
    1001: [(PUT, b"key", b"value")],
    1002: [(PUT, b"", b""), (DELETE, b"\x00\xff", b""), (DELETE_RANGE, b"a", b"b")],
    1003: [(PUT, bytes(range(256)), bytes(range(255, -1, -1)) * 2)],
    1009: [(DELETE, b"gone", b"")],
}


def encode_version_1() -> bytes:
    """What today's code writes for BATCHES: two frames and the seal."""
    put = encode_record(1001, 1_700_000_000_000_001, encode_put(b"key", b"value"), SALT)
    first = _frame(put, synced=HEADER_SIZE)
    records = []
    for seq in (1002, 1003, 1009):
        kinds, keys, values = zip(*BATCHES[seq], strict=True)
        payload = encode_operations(bytes(kinds), keys, values)
        records.append(encode_record(seq, 1_700_000_000_000_000 + seq, payload, SALT))
    segment = encode_header(HEADER) + first
    segment += _frame(b"".join(records), synced=len(segment))
    return segment + _frame(encode_seal(1009, 1_700_000_000_001_009, 4, SALT), synced=len(segment))


def _frame(records: bytes, *, synced: int) -> bytes:
    return encode_frame(records, salt=SALT, synced=synced, alignment=1, compress=None)


def test_version_1_is_written_as_ever() -> None:
    assert encode_version_1() == (GOLDEN / "wal_v1.bin").read_bytes()


def test_version_1_is_read() -> None:
    scan = read_segment((GOLDEN / "wal_v1.bin").read_bytes(), "wal_v1.bin", 42)
    assert scan.header == HEADER
    assert classify(scan, is_last=False) is Condition.SOUND
    assert [seq for seq, _, _ in scan.records] == list(BATCHES)
    assert scan.records[0][1] == 1_700_000_000_000_001
    assert {seq: decode_operations(payload) for seq, _, payload in scan.records} == BATCHES


def test_version_1_compressed_in_whole_blocks_is_read() -> None:
    """Only read: what zstd writes depends on its release."""
    scan = read_segment((GOLDEN / "wal_v1_zstd_direct.bin").read_bytes(), "golden", 42)
    assert scan.header == HEADER._replace(alignment=4096)
    assert classify(scan, is_last=False) is Condition.SOUND
    expected = [(PUT, b"key%d" % number, b"compressible " * 20) for number in range(50)]
    assert [decode_operations(payload) for _, _, payload in scan.records] == [expected] * 2
