"""The bytes of a table object around its blocks and its filter; all integers little-endian.

::

    table object                                    starts at
      block 0 … block n-1   (sealed, block.py)      0, back to back
      range tombstones      (sealed)                tail offset
      filter                (sealed, filter.py)     filter offset
      index                 (sealed)                index offset
      properties            (sealed)                properties offset
      footer                                        size - 48

    sealed part                                     width
      body                                          raw, or one zstd frame
      codec                                         u8: 2 raw, 3 zstd
      raw length                                    u32: of the payload that was sealed
      masked crc32c                                 u32: over everything before it in the part

    footer                                          width
      tail, filter, index, properties offsets       u64 x 4
      version                                       u32: 3
      magic                                         8 bytes: "SEERDBST"
      crc32c                                        u32: over everything before it in the footer

    payload of                                      MessagePack
      range tombstones                              [[start, end, seq], …], sorted
      index                                         index.py
      properties                                    {name: value, …} of TableProperties

A table whose properties say that its highest seq is 0 was built before its seq was known, as an
ingest does; all its entries have the seq that the manifest names.

The tail, everything from the tail offset on, is read by one ranged GET. Columns of numbers
are used in place, so the host must be little-endian too.

Version 3 masks the checksums of parts, as LevelDB and the framing format of Snappy do: turned right
by 15 bits, plus 0xA282EAD8. What ends with its own CRC has one and the same CRC whatever it holds,
so that of the object, by which manifests, copies and backups go, told the lengths of its parts and
nothing else. Codecs 0 and 1, of earlier versions, are 2 and 3 without the mask.

Version 2 has filters of two words a key, and separators for an index. What version 1 has instead is
in ``filter.py`` and ``index.py``. All versions are read. Numbers, magic and layouts are part of the
format: do not change.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import zstandard
from crc32c import crc32c
from numpy.typing import NDArray

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError, UnsupportedFormatError
from seerdb.storage.sstable.compressor import Compressor, Payload, Payloads, views
from seerdb.storage.sstable.order import Bytes

assert sys.byteorder == "little", "table bytes are used in place: little-endian hosts only"

VERSION = 3
_KNOWN_VERSIONS = (1, 2, VERSION)
MAGIC = b"SEERDBST"

UNASSIGNED_SEQ = 0
"""Of every entry of a table that was built before its seq was known: it has the manifest's."""

_RAW, _ZSTD = 0, 1
_MASKED = 2
"""In a codec: the checksum is masked."""
_MASK = 0xA282EAD8
_WORTH_IT = 16
"""A part is stored compressed when that spares at least one byte in this many."""

_MOST_EXPANSION = 1 << 15
"""No zstd frame expands to more for each of its bytes: its blocks take four for 128 KiB at best."""

_CODEC = struct.Struct("<BI")
_CRC = struct.Struct("<I")
_FOOTER = struct.Struct("<QQQQI8s")
TRAILER_SIZE = _CODEC.size + _CRC.size
_TRAILER = np.dtype([("codec", "u1"), ("raw_length", "<u4"), ("crc", "<u4")])
_TRAILER_BYTES = np.arange(-TRAILER_SIZE, 0)
FOOTER_SIZE = _FOOTER.size + _CRC.size

_idle: list[zstandard.ZstdDecompressor] = []
"""Decompressors nobody uses now: making one costs as much as using it, and no two threads
may share one. ``list.pop`` and ``append`` are atomic."""


class TableProperties(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a table says of itself. Bounds and seqs include range tombstones."""

    entries: int
    deletes: int
    range_deletes: int
    smallest: bytes
    largest: bytes
    min_seq: int
    max_seq: int
    min_timestamp_us: int
    max_timestamp_us: int
    raw_bytes: int
    """Bytes of all keys and values."""
    created_by: str
    expiring: int = 0
    """Entries that expire, or whose base does; left out when there are none."""
    merges: int = 0
    """Entries of kind MERGE; left out when there are none."""
    filter_prefix: int = 0
    """Length of the prefixes in the filter; left out when there are none."""
    pointers: int = 0
    """Entries that point into blobs; left out when there are none."""


class Footer(NamedTuple):
    """Where the parts of the tail start; each ends where the next one starts."""

    tail_offset: int
    filter_offset: int
    index_offset: int
    properties_offset: int


def seal(payload: bytes, compressor: Compressor | None) -> bytes:
    """The stored form of ``payload``, compressed when there is a compressor and it pays."""
    return b"".join(_sealed(payload, compressor.compress(payload) if compressor else payload))


def seal_all(payloads: Sequence[Payload], compressor: Compressor | None) -> tuple[bytes, list[int]]:
    """The stored forms of all payloads, joined, and the length of each; see :func:`seal`.
    Requires: none is empty."""
    frames = compressor.compress_all(payloads) if compressor else payloads
    parts = list(map(_sealed, payloads, frames))
    lengths = [len(body) + TRAILER_SIZE for body, _ in parts]
    return b"".join(chain.from_iterable(parts)), lengths


def seal_rows(rows: Bytes) -> memoryview:
    """The stored forms of payloads that look the same, joined and as they are: each is sealed where
    it lies, at the start of a row whose last ``TRAILER_SIZE`` bytes are for its trailer."""
    width = rows.shape[1]
    payload, checked = width - TRAILER_SIZE, width - _CRC.size
    rows[:, payload:checked] = np.frombuffer(_CODEC.pack(_RAW | _MASKED, payload), np.uint8)
    stored = rows.reshape(-1).data
    starts = range(0, len(stored), width)
    crcs = np.array([crc32c(stored[start : start + checked]) for start in starts], "<u4")
    rows[:, checked:] = _all_masked(crcs).view(np.uint8).reshape(-1, _CRC.size)
    return stored


def _sealed(payload: Payload, compressed: Payload) -> tuple[Payload, bytes]:
    """What is stored of a payload, and the trailer that follows it."""
    body, codec = payload, _RAW
    if compressed is not payload and len(compressed) <= len(payload) - len(payload) // _WORTH_IT:
        body, codec = compressed, _ZSTD
    trailer = _CODEC.pack(codec | _MASKED, len(payload))
    return body, trailer + _CRC.pack(_masked(crc32c(trailer, crc32c(body))))


def _masked(crc: int) -> int:
    return (crc >> 15 | crc << 17) + _MASK & 0xFFFFFFFF


def _all_masked(crcs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(_MASK)


def unseal(stored: bytes, *, name: str, offset: int) -> bytes:
    """The payload that was sealed into ``stored``, which is ``name``'s part at ``offset``.

    Raises: ``TruncatedError``, ``ChecksumError``, ``UnsupportedFormatError``.
    """
    size = len(stored) - TRAILER_SIZE
    if size < 0:
        raise TruncatedError(
            "a part of the table is too short",
            name=name,
            offset=offset,
            expected=TRAILER_SIZE,
            found=len(stored),
        )
    view = memoryview(stored)
    codec, raw_length = _CODEC.unpack_from(stored, size)
    _check_crc(view, name=name, offset=offset, is_masked=bool(codec & _MASKED))
    codec &= ~_MASKED
    if codec == _ZSTD:
        payload = _decompress(view[:size], raw_length, name=name, offset=offset)
    elif codec == _RAW:
        payload = stored[:size]
    else:
        raise UnsupportedFormatError(
            "unknown codec", name=name, offset=offset, expected=(_RAW, _ZSTD), found=codec
        )
    if len(payload) != raw_length:
        raise CorruptionError(
            "a part of the table has the wrong length",
            name=name,
            offset=offset,
            expected=raw_length,
            found=len(payload),
        )
    return payload


def unseal_all(stored: Payload, borders: NDArray[np.int64], *, name: str, offset: int) -> Payloads:
    """The payloads of neighbouring parts of table ``name``, the first of them at ``offset``: part
    ``i`` is ``stored[borders[i] : borders[i + 1]]``. Raises as :func:`unseal` does, but that bytes
    after a frame, under a checksum that is right, are passed over."""
    payloads = _expand_all(stored, borders)
    if payloads is not None:
        return payloads
    return [
        unseal(bytes(stored[start:stop]), name=name, offset=offset + start)
        for start, stop in pairwise(borders.tolist())
    ]


def _expand_all(stored: Payload, borders: NDArray[np.int64]) -> Payloads | None:
    """The payloads, by one call; ``None`` where some are compressed and some not, or one is not
    sound."""
    data, starts, sizes = np.frombuffer(stored, np.uint8), borders[:-1], np.diff(borders)
    sizes = sizes - TRAILER_SIZE
    trailers = _checked_trailers(data, borders) if (sizes >= 0).all() else None
    if trailers is None:
        return None
    codecs = trailers["codec"] & ~np.uint8(_MASKED)
    if (codecs == _RAW).all() and (trailers["raw_length"] == sizes).all():
        if (sizes == sizes[0]).all():
            return data[borders[0] : borders[-1]].reshape(len(sizes), -1)[:, :-TRAILER_SIZE]
        view, bodies = data.data, zip(starts.tolist(), sizes.tolist(), strict=True)
        return [view[start : start + size] for start, size in bodies]
    raw_lengths = trailers["raw_length"].astype(np.uint64)
    is_possible = (raw_lengths > 0) & (raw_lengths <= sizes * _MOST_EXPANSION)
    if (codecs != _ZSTD).any() or not is_possible.all():
        return None
    frames = np.stack((starts, sizes), axis=1)
    decompressor = _take_decompressor()
    try:
        expanded = decompressor.multi_decompress_to_buffer(
            zstandard.BufferWithSegments(stored, frames.astype(np.uint64).tobytes()),
            decompressed_sizes=raw_lengths.tobytes(),
        )
    except zstandard.ZstdError:
        return None
    finally:
        _idle.append(decompressor)
    return views(expanded)


def _checked_trailers(data: Bytes, borders: NDArray[np.int64]) -> NDArray[np.void] | None:
    """The trailers of parts, ``None`` where a checksum is wrong. Requires: each has a trailer."""
    trailers = data[borders[1:, np.newaxis] + _TRAILER_BYTES].reshape(-1).view(_TRAILER)
    view, places = data.data, pairwise(borders.tolist())
    crcs = np.array([crc32c(view[start : end - _CRC.size]) for start, end in places], np.uint32)
    masked = np.where(trailers["codec"] & _MASKED, _all_masked(crcs), crcs)
    return None if (masked != trailers["crc"]).any() else trailers


def _decompress(body: memoryview, raw_length: int, *, name: str, offset: int) -> bytes:
    decompressor = _take_decompressor()
    try:
        if zstandard.frame_content_size(body) > raw_length:
            raise zstandard.ZstdError("the frame announces more than was sealed")
        if raw_length > len(body) * _MOST_EXPANSION:
            raise zstandard.ZstdError("more is announced than a frame of its length holds")
        return decompressor.decompress(body, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptionError(
            f"a part of the table does not decompress: {error}", name=name, offset=offset
        ) from error
    finally:
        _idle.append(decompressor)


def _take_decompressor() -> zstandard.ZstdDecompressor:
    """One that nobody else uses; to be put back into ``_idle``."""
    try:
        return _idle.pop()
    except IndexError:
        return zstandard.ZstdDecompressor()


def encode_footer(footer: Footer) -> bytes:
    """The last ``FOOTER_SIZE`` bytes of a table."""
    fields = _FOOTER.pack(*footer, VERSION, MAGIC)
    return fields + _CRC.pack(crc32c(fields))


def decode_footer(tail: bytes, *, name: str, tail_offset: int) -> Footer:
    """The footer at the end of ``tail``, which starts at ``tail_offset`` of table ``name``.

    Raises: ``TruncatedError``, ``UnsupportedFormatError``, ``ChecksumError``; and
    ``CorruptionError`` when its offsets do not divide the tail.
    """
    start = len(tail) - FOOTER_SIZE
    offset = tail_offset + start
    if start < 0:
        raise TruncatedError(
            "the table has no footer", name=name, expected=FOOTER_SIZE, found=len(tail)
        )
    *offsets, version, magic = _FOOTER.unpack_from(tail, start)
    if magic != MAGIC:
        raise UnsupportedFormatError(
            "not a SeerDB table", name=name, offset=offset, expected=MAGIC, found=magic
        )
    if version not in _KNOWN_VERSIONS:
        raise UnsupportedFormatError(
            "unknown table version",
            name=name,
            offset=offset,
            expected=_KNOWN_VERSIONS,
            found=version,
            hint="a newer release wrote it: upgrade",
        )
    _check_crc(memoryview(tail)[start:], name=name, offset=offset)
    footer = Footer(*offsets)
    borders = (*footer, offset)
    if footer.tail_offset != tail_offset or any(b - a < TRAILER_SIZE for a, b in pairwise(borders)):
        raise CorruptionError(
            "the footer does not fit the table",
            name=name,
            offset=offset,
            expected=(tail_offset, offset),
            found=borders,
        )
    return footer


def _check_crc(part: memoryview, *, name: str, offset: int, is_masked: bool = False) -> None:
    """Raise ``ChecksumError`` unless ``part`` ends with the CRC of the rest of it."""
    (expected,) = _CRC.unpack_from(part, len(part) - _CRC.size)
    found = crc32c(part[: -_CRC.size])
    if is_masked:
        found = _masked(found)
    if found != expected:
        raise ChecksumError(
            "checksum mismatch",
            name=name,
            offset=offset,
            expected=expected,
            found=found,
            hint="read it again; if it stays, restore the object from a backup",
        )
