"""The bytes of the live log, which a writer sends and its followers read. Pure.

A stream of messages without end, each the answer to what the writer has meanwhile. All numbers are
little-endian.

====== ====== ================================================================
offset bytes  field
====== ====== ================================================================
0      1      type
1      4      length of the body
5      4      CRC32C of bytes 0 to 4 and the body
9      length body
====== ====== ================================================================

===== ========= ==============================================================
type  name      body
===== ========= ==============================================================
1     HELLO     always first: version of this format (2), database id (16),
                epoch of the writer (8), its newest seq (8), its time in
                microseconds since 1970 (8)
2     SEGMENT   the header of a log segment, as in its file (4096)
3     FRAMES    whole frames of that segment, byte for byte as in its file, in
                their order and without a gap; SEAL among them
4     HEARTBEAT newest seq of the writer (8), its time (8); once a second
5     MARK      digest of all operations of the segment up to a seq, which is
                the last one sent: epoch of the segment (8), its number (8),
                seq (8), operations (8), digest as in ``digest.py`` (16,
                big-endian); before a heartbeat and at the end of a segment,
                if anything came since the last
===== ========= ==============================================================

The frames may begin before the seq that was asked for. Seqs are contiguous but for those that the
writer's disk has no log of (any more): the manifest has them by then. Only what is durable on that
disk is ever sent.

Worked example: a heartbeat with seq 7 at time 1,700,000,000,000,000::

    04 10 00 00 00 d1 71 f3 1e  07 00 00 00 00 00 00 00  00 40 1e 18 24 0a 06 00

Version 2 added MARK; else it is as version 1, the first. The constants below are part of the
format: do not change them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, UnsupportedFormatError
from seerdb.storage.replication.running import Mark

VERSION = 2
_OLDEST_VERSION = 1
MEDIA_TYPE = "application/vnd.seerdb.log"

_PREFIX = struct.Struct("<BI")
_CHECKSUM = struct.Struct("<I")
MESSAGE_HEADER_SIZE = _PREFIX.size + _CHECKSUM.size
_HELLO = struct.Struct("<H16sQQQ")
_HEARTBEAT = struct.Struct("<QQ")
_MARK = struct.Struct("<QQQQ16s")

_NAME = "the stream of the log"


class MessageType(IntEnum):
    """What a message says."""

    HELLO = 1
    SEGMENT = 2
    FRAMES = 3
    HEARTBEAT = 4
    MARK = 5


class Hello(NamedTuple):
    """Who sends: the writer of ``epoch``, whose newest commit is ``seq``."""

    database_id: str
    epoch: int
    seq: int
    time_us: int


class Heartbeat(NamedTuple):
    """How far the writer is."""

    seq: int
    time_us: int


Message = tuple[MessageType, bytes]


def encode_message(kind: MessageType, body: bytes) -> bytes:
    """One message."""
    prefix = _PREFIX.pack(kind, len(body))
    return prefix + _CHECKSUM.pack(crc32c(body, crc32c(prefix))) + body


def encode_hello(hello: Hello) -> bytes:
    """The first message of a stream."""
    fields = bytes.fromhex(hello.database_id), hello.epoch, hello.seq, hello.time_us
    return encode_message(MessageType.HELLO, _HELLO.pack(VERSION, *fields))


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """The message of each second."""
    return encode_message(MessageType.HEARTBEAT, _HEARTBEAT.pack(*heartbeat))


def encode_mark(mark: Mark) -> bytes:
    """How far the log was sent, and what was."""
    fields = mark.epoch, mark.segment, mark.seq, mark.entries, bytes.fromhex(mark.digest)
    return encode_message(MessageType.MARK, _MARK.pack(*fields))


def decode_hello(body: bytes) -> Hello:
    """Raises: ``UnsupportedFormatError`` for another version, ``CorruptionError``."""
    version = int.from_bytes(body[:2], "little")
    if not _OLDEST_VERSION <= version <= VERSION:
        raise UnsupportedFormatError(
            "the log is streamed in another version of the format",
            name=_NAME,
            expected=VERSION,
            found=version,
            hint="run the same release on the primary and its replicas",
        )
    _, database_id, epoch, seq, time_us = _unpack(_HELLO, body)
    return Hello(database_id.hex(), epoch, seq, time_us)


def decode_heartbeat(body: bytes) -> Heartbeat:
    """Raises: ``CorruptionError``."""
    return Heartbeat(*_unpack(_HEARTBEAT, body))


def decode_mark(body: bytes) -> Mark:
    """Raises: ``CorruptionError``."""
    epoch, segment, seq, entries, sums = _unpack(_MARK, body)
    return Mark(epoch, segment, seq, entries, sums.hex())


def _unpack(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != layout.size:
        raise CorruptionError(
            "a message of the wrong length", name=_NAME, expected=layout.size, found=len(body)
        )
    return layout.unpack(body)


class MessageReader:
    """Cuts a stream into its messages, however it arrives. For one thread."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes; take all of them.

        Raises: ``ChecksumError``, ``UnsupportedFormatError``; nothing of the stream can be used
        then from there on.
        """
        pending = self._pending
        pending += data
        while len(pending) >= MESSAGE_HEADER_SIZE:
            kind, length = _PREFIX.unpack_from(pending)
            end = MESSAGE_HEADER_SIZE + length
            if kind not in MessageType.__members__.values():
                raise UnsupportedFormatError("a message of unknown type", name=_NAME, found=kind)
            if len(pending) < end:
                return
            body = bytes(memoryview(pending)[MESSAGE_HEADER_SIZE:end])
            (stated,) = _CHECKSUM.unpack_from(pending, _PREFIX.size)
            found = crc32c(body, crc32c(bytes(pending[: _PREFIX.size])))
            if stated != found:
                what = "a message is damaged"
                raise ChecksumError(what, name=_NAME, expected=stated, found=found)
            del pending[:end]
            yield MessageType(kind), body
