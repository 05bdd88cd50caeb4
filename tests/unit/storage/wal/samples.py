"""Segments made by hand, byte by byte, so that tests can damage them where they want."""

from __future__ import annotations

import zstandard

from seerdb.storage.wal.format import (
    HEADER_SIZE,
    SegmentHeader,
    encode_frame,
    encode_header,
    encode_put,
    encode_record,
    encode_seal,
)
from seerdb.storage.wal.reader import SegmentScan, read_segment
from seerdb.testing.files import CrashableFileSystem

SALT = 0x5EEDB0A7
HEADER = SegmentHeader(
    database_id=bytes(range(16)),
    segment=3,
    epoch=2,
    first_seq=1,
    created_us=1_700_000_000_000_000,
    salt=SALT,
    alignment=1,
)


def put(seq: int, value: bytes = b"value", salt: int = SALT) -> bytes:
    """A record that puts the key named like its seq."""
    return encode_record(seq, seq * 10, encode_put(b"key%d" % seq, value), salt)


def seal(last_seq: int, records: int) -> bytes:
    return encode_seal(last_seq, 0, records, SALT)


def frame(
    *records: bytes,
    synced: int = HEADER_SIZE,
    salt: int = SALT,
    alignment: int = 1,
    compressed: bool = False,
) -> bytes:
    compress = zstandard.ZstdCompressor(level=1).compress if compressed else None
    return encode_frame(
        b"".join(records), salt=salt, synced=synced, alignment=alignment, compress=compress
    )


def segment(*frames: bytes, padding: int = 0, header: SegmentHeader = HEADER) -> bytes:
    """A segment of these frames, then ``padding`` zeros."""
    return encode_header(header) + b"".join(frames) + bytes(padding)


def read(data: bytes, *, salvage: bool = False) -> SegmentScan:
    return read_segment(data, "wal/3", 3, salvage=salvage)


def seqs(scan: SegmentScan) -> list[int]:
    return [seq for seq, _, _ in scan.records]


def flipped(data: bytes, offset: int, bit: int = 0) -> bytes:
    """``data`` with one bit of the byte at ``offset`` turned over."""
    return data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :]


def disk() -> CrashableFileSystem:
    """An empty disk with a directory for the log."""
    files = CrashableFileSystem()
    files.make_directory("wal")
    return files
