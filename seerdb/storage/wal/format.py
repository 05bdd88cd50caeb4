r"""The bytes of a write-ahead log segment. Pure: no files, no time, no randomness.

A segment file is a header, then frames, then whatever the file held before (zeros, or the
frames of the segment that it was recycled from). All numbers are little-endian.

Header, 4096 bytes, written and synced before the file gets its name:

====== ===== =================================================================
offset bytes field
====== ===== =================================================================
0      8     magic ``SEERWAL\n``
8      2     version, 1
10     2     alignment of frames: 1, or 4096 for O_DIRECT
12     4     reserved, 0
16     16    database id
32     8     segment id, the number in the file's name
40     8     epoch of the writer
48     8     seq that the first record will have, at least
56     8     time of creation, microseconds since 1970
64     4     salt: random, not 0, another one for every segment
68     4     CRC32C of bytes 0 to 67
72     4024  zeros
====== ===== =================================================================

Frame, one per group commit, at a multiple of the alignment:

====== ====== ================================================================
offset bytes  field
====== ====== ================================================================
0      4      salt: stale frames of a recycled file have another one
4      4      stored: length of the body
8      4      raw: 0, or the length of the body before zstd compressed it
12     8      synced: everything before this offset was durable when the frame
              was written
20     4      CRC32C of bytes 0 to 19
24     stored body: records back to back, or their zstd
\      \      zeros up to the alignment
====== ====== ================================================================

Record:

====== ====== ================================================================
offset bytes  field
====== ====== ================================================================
0      4      CRC32C, begun with the salt, of everything after itself
4      4      length of the payload
8      1      type: 1 BATCH, 2 SEAL
9      8      seq
17     8      time of the commit, microseconds since 1970
25     length payload
====== ====== ================================================================

Seq and time are below 10^18, as all numbers in the bucket are.

A BATCH is one atomic commit; its payload is in columns: count (4), kinds (1 each, see
``storage/entry.py``), key lengths (2 each), value lengths (4 each), the keys joined, the
values joined. A DELETE has an empty value; a DELETE_RANGE has its start as key and its end as
value; those of MERGE and PUT_WITH_EXPIRY are in ``storage/value.py``. SEAL is the last record of a
finished segment: its seq is the last one used, its payload the number of BATCH records (8). It has
a frame of its own, written when all before it is durable.

Worked example: the frame at offset 4096 of a segment with salt 0x5EEDB0A7, nothing after the
header synced; it holds seq 7 at time 1,700,000,000,000,000, which puts ``k`` = ``hello``::

    a7 b0 ed 5e  2a 00 00 00  00 00 00 00  00 10 00 00 00 00 00 00  f2 42 ea 26
    31 6b cc 83  11 00 00 00  01  07 00 00 00 00 00 00 00  00 40 1e 18 24 0a 06 00
    01 00 00 00  01  01 00  05 00 00 00  6b  68 65 6c 6c 6f

Version 1 is the first. The constants below are part of the format: do not change them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

from crc32c import crc32c

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    InvalidRequestError,
    TruncatedError,
    UnsupportedFormatError,
)
from seerdb.storage.entry import DELETE, DELETE_RANGE, MERGE, PUT, PUT_WITH_EXPIRY

MAGIC = b"SEERWAL\n"
VERSION = 1
HEADER_SIZE = 4096
DIRECT_ALIGNMENT = 4096
BATCH = 1
SEAL = 2

_U32 = struct.Struct("<I")
_HEADER = struct.Struct("<8sHHI16sQQQQI")
_FRAME = struct.Struct("<IIIQ")
_RECORD = struct.Struct("<IBQQ")
SINGLE = struct.Struct("<IBHI")
"""Count, kind and lengths of a batch of one, whose key and value follow."""
_RECORD_OF_SINGLE = struct.Struct("<IBQQIBHI")

FRAME_FIELDS = struct.Struct("<IIIQI")
"""salt, stored, raw, synced, CRC of the four."""
RECORD_FIELDS = struct.Struct("<IIBQQ")
"""CRC of the rest, payload length, type, seq, timestamp."""
SEAL_PAYLOAD = struct.Struct("<Q")

FRAME_HEADER_SIZE = FRAME_FIELDS.size
FRAME_CRC_OFFSET = _FRAME.size
RECORD_HEADER_SIZE = RECORD_FIELDS.size
CRC_SIZE = _U32.size
SINGLE_SIZE = SINGLE.size
SEAL_FRAME_SIZE = FRAME_HEADER_SIZE + RECORD_HEADER_SIZE + SEAL_PAYLOAD.size

MAX_FRAME_BODY = (1 << 32) - 1
"""Bytes of records that one frame can hold; a group commit must stay below."""
MAX_PAYLOAD = MAX_FRAME_BODY - RECORD_HEADER_SIZE
"""Bytes of one batch, so that its record fits a frame."""
MAX_COMPRESSED_BODY = 64 << 20
"""Larger bodies are stored as they are, so that no reader ever allocates more than this
because a header says so."""

_KINDS = bytes((PUT, DELETE, DELETE_RANGE, MERGE, PUT_WITH_EXPIRY))
_WORTH_A_CALL = 64 << 10
"""Bytes of which to make a copy less is worth a call more."""

_EXPIRY_SIZE = 8
"""The second in which a value expires comes first."""


class SegmentHeader(NamedTuple):
    """What the first 4096 bytes of a segment say; see the module docstring."""

    database_id: bytes
    segment: int
    epoch: int
    first_seq: int
    created_us: int
    salt: int
    alignment: int


class FrameHeader(NamedTuple):
    """The checked header of a frame; ``offset`` is where it stands, ``next`` where the
    frame after it would."""

    offset: int
    stored: int
    raw: int
    synced: int
    next: int

    @property
    def end(self) -> int:
        """Where the body ends, padding not counted."""
        return self.offset + FRAME_HEADER_SIZE + self.stored


def aligned(length: int, alignment: int) -> int:
    """``length`` rounded up to a multiple of ``alignment``."""
    return -(-length // alignment) * alignment


def encode_header(header: SegmentHeader) -> bytes:
    """The 4096 bytes of ``header``. Requires: a database id of 16 bytes."""
    database_id, segment, epoch, first_seq, created_us, salt, alignment = header
    numbers = (segment, epoch, first_seq, created_us, salt)
    fields = _HEADER.pack(MAGIC, VERSION, alignment, 0, database_id, *numbers)
    return (fields + _U32.pack(crc32c(fields))).ljust(HEADER_SIZE, b"\0")


def decode_header(data: bytes, name: str) -> SegmentHeader:
    """The header at the start of ``data``; ``name`` is for error messages.

    Raises: ``UnsupportedFormatError`` (not a segment, or from a future version),
    ``ChecksumError``, ``TruncatedError``.
    """
    if len(data) < HEADER_SIZE:
        raise TruncatedError(
            "the segment ends inside its header",
            name=name,
            offset=0,
            expected=HEADER_SIZE,
            found=len(data),
        )
    magic, version, alignment, _, database_id, *numbers = _HEADER.unpack_from(data)
    segment, epoch, first_seq, created_us, salt = numbers
    if magic != MAGIC:
        raise UnsupportedFormatError(
            "not a WAL segment", name=name, offset=0, expected=MAGIC, found=magic
        )
    if version != VERSION:
        raise UnsupportedFormatError(
            "WAL segment of another version",
            name=name,
            offset=len(MAGIC),
            expected=VERSION,
            found=version,
            hint="open it with the release that wrote it",
        )
    (stated,) = _U32.unpack_from(data, _HEADER.size)
    found = crc32c(data[: _HEADER.size])
    if stated != found:
        raise ChecksumError(
            "the segment header is damaged", name=name, offset=0, expected=stated, found=found
        )
    if alignment not in (1, DIRECT_ALIGNMENT):
        raise UnsupportedFormatError(
            "frames of an unknown alignment", name=name, offset=10, expected=1, found=alignment
        )
    return SegmentHeader(database_id, segment, epoch, first_seq, created_us, salt, alignment)


def encode_put(key: bytes, value: bytes) -> bytes:
    """The payload of a batch that is one put: ``encode_operations`` of it, but faster."""
    return SINGLE.pack(1, PUT, len(key), len(value)) + key + value


def encode_operations(
    kinds: bytes | bytearray, keys: Sequence[bytes], values: Sequence[bytes]
) -> bytes:
    """The payload of a batch: operation ``i`` is ``kinds[i]``, ``keys[i]``, ``values[i]``.

    Requires: three sequences of one length, keys of at most 65,535 bytes, values of at most
    1 GiB. Raises: ``InvalidRequestError`` when the batch is too large for one record.
    """
    count = len(kinds)
    columns = struct.pack(
        f"<I{count}s{count}H{count}I", count, kinds, *map(len, keys), *map(len, values)
    )
    payload = b"".join((columns, *keys, *values))
    _check_size("batch", len(payload), MAX_PAYLOAD)
    return payload


def decode_operations(payload: bytes, name: str = "") -> list[tuple[int, bytes, bytes]]:
    """``(kind, key, value)`` of each operation in a BATCH's payload; else as
    :func:`decode_columns`."""
    return list(zip(*decode_columns(payload, name), strict=True))


def decode_columns(payload: bytes, name: str = "") -> tuple[bytes, list[bytes], list[bytes]]:
    """The kinds, keys and values of the operations in a BATCH's payload.

    Allocates no more than a small multiple of ``payload``. Raises: ``CorruptionError``
    (its offset counts from the payload's start).
    """
    size = len(payload)
    count = _U32.unpack_from(payload)[0] if size >= _U32.size else 0
    start = _U32.size + 7 * count
    if start > size:
        raise TruncatedError(
            "a batch is shorter than its columns", name=name, offset=0, expected=start, found=size
        )
    kinds = payload[_U32.size : _U32.size + count]
    strange = kinds.translate(None, _KINDS)
    if strange:
        raise CorruptionError(
            f"a batch has an operation of unknown kind {strange[0]}",
            name=name,
            offset=_U32.size + kinds.index(strange[0]),
        )
    lengths = struct.unpack_from(f"<{count}H{count}I", payload, _U32.size + count)
    bounds = list(accumulate(lengths, initial=start))
    if bounds[-1] != size:
        raise TruncatedError(
            "the lengths in a batch do not add up to its size",
            name=name,
            offset=0,
            expected=bounds[-1],
            found=size,
        )
    pieces = [payload[low:high] for low, high in pairwise(bounds)]
    if PUT_WITH_EXPIRY in kinds:
        _check_expiring(kinds, pieces[count:], name)
    return kinds, pieces[:count], pieces[count:]


def _check_expiring(kinds: bytes, values: list[bytes], name: str) -> None:
    for kind, value in zip(kinds, values, strict=True):
        if kind == PUT_WITH_EXPIRY and len(value) < _EXPIRY_SIZE:
            raise TruncatedError(
                "a value that expires is too short to say when",
                name=name,
                expected=_EXPIRY_SIZE,
                found=len(value),
            )


def decode_batch(payload: bytes, name: str) -> tuple[bytes, list[bytes], list[bytes]]:
    """As :func:`decode_columns`, for who takes the operations into a database: raises
    ``CorruptionError`` also for what the format can hold but no database can, which is an empty
    key, and a range that ends before it starts."""
    columns = kinds, keys, values = decode_columns(payload, name)
    if not all(keys):
        raise CorruptionError("a batch has an empty key", name=name)
    if DELETE_RANGE in kinds:
        for kind, key, value in zip(kinds, keys, values, strict=True):
            if kind == DELETE_RANGE and key >= value:
                raise CorruptionError(
                    f"a batch deletes a range that ends before it starts: {key!r} to {value!r}",
                    name=name,
                )
    return columns


def encode_record(seq: int, timestamp_us: int, payload: bytes, salt: int) -> bytes:
    """A BATCH record for a segment with ``salt``.

    Raises: ``InvalidRequestError`` when ``payload`` is too large for one record.
    """
    size = len(payload)
    if size > MAX_PAYLOAD:
        _check_size("batch", size, MAX_PAYLOAD)
    head = _RECORD.pack(size, BATCH, seq, timestamp_us)
    if size >= _WORTH_A_CALL:
        return b"".join((_U32.pack(crc32c(payload, crc32c(head, salt))), head, payload))
    body = head + payload
    return _U32.pack(crc32c(body, salt)) + body


PutFrame: TypeAlias = tuple[Callable[..., bytes], Callable[..., None], bytes, int, int]
"""How the frame of a single put is made, for one length of key and of value:

- what packs the record without its CRC: payload length, type, seq, time, count, kind, the two
  lengths, key and value
- what packs the whole into a buffer, at an offset: header, CRC, the record
- the header, the payload length, and the bytes of the whole
"""


def put_frame(key_length: int, value_length: int, *, salt: int, synced: int) -> PutFrame:
    """See :data:`PutFrame`. The bytes are those of ``encode_frame`` of
    ``encode_record(…, encode_put(…))``."""
    record = struct.Struct(f"{_RECORD_OF_SINGLE.format}{key_length}s{value_length}s")
    stored = _U32.size + record.size
    frame = struct.Struct(f"<{FRAME_HEADER_SIZE}sI{record.size}s")
    header = encode_frame_header(stored, salt=salt, synced=synced)
    return record.pack, frame.pack_into, header, record.size - _RECORD.size, frame.size


def encode_seal(last_seq: int, timestamp_us: int, records: int, salt: int) -> bytes:
    """The SEAL record that ends a segment of ``records`` BATCH records."""
    payload = SEAL_PAYLOAD.pack(records)
    body = _RECORD.pack(len(payload), SEAL, last_seq, timestamp_us) + payload
    return _U32.pack(crc32c(body, salt)) + body


def encode_frame_header(stored: int, raw: int = 0, *, salt: int, synced: int) -> bytes:
    """The header of a frame whose body has ``stored`` bytes, ``raw`` decompressed."""
    fields = _FRAME.pack(salt, stored, raw, synced)
    return fields + _U32.pack(crc32c(fields))


def encode_frame(
    records: bytes,
    *,
    salt: int,
    synced: int,
    alignment: int,
    compress: Callable[[bytes], bytes] | None,
) -> bytes:
    """The frame of one group commit, padded to ``alignment``.

    ``compress`` is used where it saves bytes. Raises: ``InvalidRequestError`` when
    ``records`` are more than a frame can hold.
    """
    raw = 0
    body = records
    if compress is not None and len(records) <= MAX_COMPRESSED_BODY:
        squeezed = compress(records)
        if len(squeezed) < len(records):
            body, raw = squeezed, len(records)
    stored = len(body)
    if stored > MAX_FRAME_BODY:
        _check_size("group of commits", stored, MAX_FRAME_BODY)
    frame = encode_frame_header(stored, raw, salt=salt, synced=synced) + body
    return frame if alignment == 1 else frame.ljust(aligned(len(frame), alignment), b"\0")


def decode_frame_header(fields: bytes, offset: int, header: SegmentHeader) -> FrameHeader | None:
    """The frame header ``fields``, found at ``offset``, when it is whole, sound and of this
    segment."""
    if offset % header.alignment or len(fields) < FRAME_HEADER_SIZE:
        return None
    salt, stored, raw, synced, crc = FRAME_FIELDS.unpack(fields)
    if salt != header.salt or crc != crc32c(fields[:FRAME_CRC_OFFSET]):
        return None
    end = offset + FRAME_HEADER_SIZE + stored
    return FrameHeader(offset, stored, raw, synced, aligned(end, header.alignment))


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise InvalidRequestError(f"a {what} of {size:,} bytes is more than the {limit:,} allowed")
