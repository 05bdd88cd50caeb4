"""The bytes of a dump: a stream of keys and values in checksummed chunks of columns.

All integers little-endian::

    stream                                          width
      magic                                         8 bytes: 89 "SEERDMP"
      version                                       u32: 1
      crc32c                                        u32: over the 12 bytes before it
      frames                                        of chunks, then one end frame, then nothing

    frame                                           width
      kind                                          u8: 1 chunk, 2 end
      codec                                         u8: 0 raw, 1 zstd
      zero                                          u16
      entries                                       u64: in the chunk, or, at the end, of all chunks
      raw length                                    u32: of the payload before compression
      stored length                                 u32: of the body
      crc32c of the body                            u32
      crc32c                                        u32: over the 24 bytes before it
      body                                          the payload of a chunk, as it is or one zstd
                                                    frame; nothing at the end

    payload of a chunk with n entries               width
      key lengths                                   u16 x n
      value lengths                                 u32 x n
      keys                                          joined
      values                                        joined

A stream that ends before its end frame was cut off. The first byte is in no text, so a dump is
told from lines of JSON by it. What order the keys have, and whether they are unique, is up to
whoever writes: a dump of a database ascends, and so do the sorted runs of an ingest, which are
such streams too.

Version 1 is the first. Numbers, magic and layout are part of the format: do not change.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import add
from typing import NamedTuple

import zstandard
from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError, UnsupportedFormatError
from seerdb.options import MAX_VALUE_SIZE

MAGIC = b"\x89SEERDMP"
VERSION = 1

CHUNK_BYTES = 64 << 10
"""Keys and values of a chunk, unless it holds a single larger entry."""

_CHUNK, _END = 1, 2
_RAW, _ZSTD = 0, 1
_ZSTD_LEVEL = 1
_MAX_RAW = MAX_VALUE_SIZE + (1 << 20)
"""No chunk is larger, whatever a header says: the largest entry, and its lengths."""

_START = struct.Struct("<8sI")
_FRAME = struct.Struct("<BBHQIII")
_CRC = struct.Struct("<I")
START_SIZE = _START.size + _CRC.size
FRAME_HEADER_SIZE = _FRAME.size + _CRC.size


class Pairs(NamedTuple):
    """Keys and values, as columns of equal length."""

    keys: Sequence[bytes]
    values: Sequence[bytes]


class DumpEncoder:
    """The parts of a stream, in order: :meth:`start`, any number of chunks, :meth:`end`."""

    def __init__(self, *, compress: bool) -> None:
        self.entries = 0
        """In the chunks so far."""
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL) if compress else None

    def start(self) -> bytes:
        """What every stream begins with."""
        fields = _START.pack(MAGIC, VERSION)
        return fields + _CRC.pack(crc32c(fields))

    def chunks(self, keys: Sequence[bytes], values: Sequence[bytes]) -> Iterator[bytes]:
        """Frames with these entries, each of about :data:`CHUNK_BYTES`.

        Requires: keys of at most 65,535 bytes, values of at most 1 GiB.
        """
        ends = list(accumulate(map(add, map(len, keys), map(len, values))))
        first = begun = 0
        while first < len(keys):
            last = max(first + 1, bisect_left(ends, begun + CHUNK_BYTES))
            yield self._chunk(keys[first:last], values[first:last])
            first, begun = last, ends[last - 1]

    def end(self) -> bytes:
        """What says that the stream is complete."""
        return _frame(_END, _RAW, self.entries, b"", 0)

    def _chunk(self, keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
        count = len(keys)
        self.entries += count
        lengths = struct.pack(f"<{count}H{count}I", *map(len, keys), *map(len, values))
        payload = b"".join((lengths, *keys, *values))
        if self._compressor is not None:
            body = self._compressor.compress(payload)
            if len(body) < len(payload):
                return _frame(_CHUNK, _ZSTD, count, body, len(payload))
        return _frame(_CHUNK, _RAW, count, payload, len(payload))


def _frame(kind: int, codec: int, entries: int, body: bytes, raw: int) -> bytes:
    fields = _FRAME.pack(kind, codec, 0, entries, raw, len(body), crc32c(body))
    return b"".join((fields, _CRC.pack(crc32c(fields)), body))


class _Frame(NamedTuple):
    """A checked header; ``offset`` is where the frame stands."""

    offset: int
    kind: int
    codec: int
    entries: int
    raw: int
    stored: int
    crc: int


class DumpDecoder:
    """Reads a stream from ``read``, which returns fewer bytes than asked for only at the end.

    ``name`` is for error messages. For one use, by one thread.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self.offset = 0
        """Bytes read so far."""
        self._source = read
        self._name = name
        self._decompressor = zstandard.ZstdDecompressor()

    def __iter__(self) -> Iterator[Pairs]:
        """The chunks. Raises: ``UnsupportedFormatError`` (not a dump, or from another release),
        ``TruncatedError``, ``ChecksumError``, ``CorruptionError``, which name the offset."""
        self._read_start()
        entries = 0
        while True:
            frame = self._read_frame()
            if frame.kind == _END:
                self._check_end(frame, entries)
                return
            entries += frame.entries
            yield self._read_chunk(frame)

    def _read_start(self) -> None:
        data = self._source(START_SIZE)
        if not data.startswith(MAGIC[: len(data)]):
            raise UnsupportedFormatError(
                "not a dump", name=self._name, offset=0, expected=MAGIC, found=data[: len(MAGIC)]
            )
        self._took(data, START_SIZE)
        _, version = _START.unpack_from(data)
        if version != VERSION:
            raise UnsupportedFormatError(
                "a dump of another version",
                name=self._name,
                offset=len(MAGIC),
                expected=VERSION,
                found=version,
                hint="load it with the release that wrote it",
            )
        self._check_crc(_CRC.unpack_from(data, _START.size)[0], data[: _START.size], 0)

    def _read_frame(self) -> _Frame:
        offset = self.offset
        header = self._read(FRAME_HEADER_SIZE)
        self._check_crc(_CRC.unpack_from(header, _FRAME.size)[0], header[: _FRAME.size], offset)
        kind, codec, _, entries, raw, stored, crc = _FRAME.unpack_from(header)
        if kind not in {_CHUNK, _END} or codec not in {_RAW, _ZSTD}:
            raise UnsupportedFormatError(
                f"a frame of unknown kind {kind} or codec {codec}", name=self._name, offset=offset
            )
        if max(raw, stored) > _MAX_RAW:
            raise self._malformed("a chunk is too large", offset, _MAX_RAW, max(raw, stored))
        return _Frame(offset, kind, codec, entries, raw, stored, crc)

    def _read_chunk(self, frame: _Frame) -> Pairs:
        payload = self._read(frame.stored)
        self._check_crc(frame.crc, payload, frame.offset)
        if frame.codec == _ZSTD:
            payload = self._decompress(payload, frame)
        if len(payload) != frame.raw:
            raise self._malformed("wrong length of a chunk", frame.offset, frame.raw, len(payload))
        count = frame.entries
        start = 6 * count
        if start > len(payload):
            raise self._malformed("a chunk without its lengths", frame.offset, start, len(payload))
        lengths = struct.unpack_from(f"<{count}H{count}I", payload)
        bounds = list(accumulate(lengths, initial=start))
        if bounds[-1] != len(payload):
            raise self._malformed(
                "the lengths in a chunk do not add up", frame.offset, bounds[-1], len(payload)
            )
        if 0 in lengths[:count]:
            raise CorruptionError("an empty key", name=self._name, offset=frame.offset)
        parts = [payload[low:high] for low, high in pairwise(bounds)]
        return Pairs(parts[:count], parts[count:])

    def _decompress(self, body: bytes, frame: _Frame) -> bytes:
        try:
            size = zstandard.frame_content_size(body)
            if size != frame.raw:
                raise self._malformed("wrong length of a chunk", frame.offset, frame.raw, size)
            return self._decompressor.decompress(body, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptionError(
                f"a chunk cannot be decompressed: {error}", name=self._name, offset=frame.offset
            ) from error

    def _check_end(self, frame: _Frame, entries: int) -> None:
        if frame.entries != entries:
            raise self._malformed(
                "another number of entries than its end says", frame.offset, frame.entries, entries
            )
        extra = self._source(1)
        if extra or frame.stored:
            raise self._malformed("something follows the end of the dump", self.offset, b"", extra)

    def _read(self, size: int) -> bytes:
        data = self._source(size)
        self._took(data, size)
        return data

    def _took(self, data: bytes, wanted: int) -> None:
        self.offset += len(data)
        if len(data) < wanted:
            raise TruncatedError(
                "the dump is cut off",
                name=self._name,
                offset=self.offset,
                expected=f"{wanted - len(data)} more bytes, and an end",
                found="the end of the file",
            )

    def _check_crc(self, expected: int, data: bytes, offset: int) -> None:
        found = crc32c(data)
        if found != expected:
            raise ChecksumError(
                "the dump is damaged",
                name=self._name,
                offset=offset,
                expected=expected,
                found=found,
            )

    def _malformed(
        self, message: str, offset: int, expected: object, found: object
    ) -> CorruptionError:
        return CorruptionError(
            message, name=self._name, offset=offset, expected=expected, found=found
        )
