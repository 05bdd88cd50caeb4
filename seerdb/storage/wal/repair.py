"""Makes the segments that a crash left ready to have successors.

A segment that is not the last must end in SEAL, so recovery seals what it has read before it
starts a new segment. Nothing is ever written behind a torn tail: it is cut off first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import (
    HEADER_SIZE,
    SegmentHeader,
    aligned,
    encode_frame,
    encode_header,
    encode_record,
    encode_seal,
)
from seerdb.storage.wal.reader import SegmentScan, scan_segment
from seerdb.storage.wal.segments import segment_path

_FRAME_TARGET = 1 << 20


def seal_recovered(files: FileSystem, directory: str, scan: SegmentScan) -> None:
    """Cut everything from the first damage on off the segment, and seal it.

    Reading it again gives the same records. May be repeated after a crash or an error; what
    was durable before stays so throughout. Durable: all of it, when it returns.
    Requires: a scan without ``salvage`` of a segment that is not sealed. Raises: ``DiskError``.
    """
    if scan.partial:
        # The frame at the end has to be written anew, and must not be lost on the way.
        _rewrite(files, directory, scan)
        return
    file = files.open(segment_path(directory, scan.header.segment))
    try:
        # What was read may be in the page cache only, and SEAL will say that it is durable.
        file.sync(metadata=True)
        if scan.damages:
            file.truncate(scan.end)
        position = aligned(scan.end, scan.header.alignment)
        _seal(file, scan, position)
    finally:
        file.close()


def frame_bodies(salt: int, records: Iterable[Record]) -> Iterator[bytes]:
    """The records, encoded with ``salt``, in bodies of frames: no matter how many there are, each
    is large enough not to waste headers, and has little more than a large record."""
    body: list[bytes] = []
    size = 0
    for seq, timestamp_us, payload in records:
        body.append(encode_record(seq, timestamp_us, payload, salt))
        size += len(body[-1])
        if size >= _FRAME_TARGET:
            yield b"".join(body)
            body, size = [], 0
    if body:
        yield b"".join(body)


def segment_of(header: SegmentHeader, records: Iterable[Record]) -> bytes:
    """The bytes of a segment that has these records, and no SEAL."""
    bodies = frame_bodies(header.salt, records)
    frames = (_frame(header, body, synced=HEADER_SIZE) for body in bodies)
    return b"".join([encode_header(header), *frames])


def _rewrite(files: FileSystem, directory: str, scan: SegmentScan) -> None:
    """Put a sealed segment with the records of ``scan`` in its place, in one atomic step."""
    path = segment_path(directory, scan.header.segment)
    records = scan_segment(files, directory, scan.header.segment).records
    draft = f"{path}.rewrite"
    files.remove(draft)
    file = files.open(draft, create=True)
    try:
        file.write_at(0, encode_header(scan.header))
        position = HEADER_SIZE
        for body in frame_bodies(scan.header.salt, records):
            frame = _frame(scan.header, body, synced=HEADER_SIZE)
            file.write_at(position, frame)
            position += len(frame)
        _seal(file, scan, position)
    finally:
        file.close()
    files.rename(draft, path)
    files.sync_directory(directory)


def _seal(file: File, scan: SegmentScan, position: int) -> None:
    """End the segment of ``scan`` at ``position``, and make all of the file durable.

    Requires: everything before is durable, or the file has no name that a reader would look at.
    """
    header = scan.header
    last_seq, timestamp_us = scan.last or (header.first_seq - 1, header.created_us)
    seal = encode_seal(last_seq, timestamp_us, scan.count, header.salt)
    file.write_at(position, _frame(header, seal, synced=position))
    file.sync(metadata=True)


def _frame(header: SegmentHeader, body: bytes, *, synced: int) -> bytes:
    return encode_frame(
        body, salt=header.salt, synced=synced, alignment=header.alignment, compress=None
    )
