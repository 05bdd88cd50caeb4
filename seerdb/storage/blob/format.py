"""The bytes of a blob object, which holds large values; all integers little-endian.

::

    blob object                             starts at
      value 0 … value n-1   (sealed)        0, back to back
      directory             (sealed)        directory offset
      footer                                size - 24

    footer                                  width
      directory offset                      u64
      version                               u32: 2
      magic                                 8 bytes: "SEERBLOB"
      crc32c                                u32: over everything before it in the footer

    payload of the directory
      lengths               u32 x n         of the sealed values
      checksums             u32 x n         CRC32C of the values

A sealed part carries its codec, its length and a checksum; ``sstable/format.py`` draws it. Reads
need a pointer and one ranged GET and nothing of the tail, which is there so that an object can be
checked, and looked into, without any table.

Version 2 masks the checksums of sealed parts; version 1, the first, is read. Numbers, magic and
layouts are part of the format: do not change.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError, UnsupportedFormatError
from seerdb.ids import BlobId
from seerdb.storage.object_store.names import blob_name
from seerdb.storage.pieces import Pieces, crc_of
from seerdb.storage.pointer import BlobPointer, Place
from seerdb.storage.sstable.compressor import Compressor
from seerdb.storage.sstable.format import TRAILER_SIZE, seal, unseal

VERSION = 2
_KNOWN_VERSIONS = (1, VERSION)
MAGIC = b"SEERBLOB"

_FOOTER = struct.Struct("<QI8s")
_CRC = struct.Struct("<I")
FOOTER_SIZE = _FOOTER.size + _CRC.size


class BuiltBlob(NamedTuple):
    """A finished blob. ``total``: bytes of its sealed values."""

    data: Pieces
    checksum: int
    total: int


class BlobBuilder:
    """Values in, the bytes of a blob out. For one use, by one thread.

    ``size``: bytes of the values so far, sealed, all of which are in memory.
    """

    def __init__(self, blob: BlobId, compression: str) -> None:
        self.blob = blob
        self.size = 0
        self._compressor = Compressor() if compression == "zstd" else None
        self._parts: list[bytes] = []
        self._lengths = array("I")
        self._checksums = array("I")

    def add(self, value: bytes) -> BlobPointer:
        """Append a value; returns the pointer to it."""
        part, checksum = seal(value, self._compressor), crc32c(value)
        pointer = BlobPointer.to(Place(self.blob, self.size, len(part), checksum))
        self._parts.append(part)
        self._lengths.append(len(part))
        self._checksums.append(checksum)
        self.size += len(part)
        return pointer

    def finish(self) -> BuiltBlob:
        """The blob. Requires: it has at least one value."""
        directory = seal(self._lengths.tobytes() + self._checksums.tobytes(), self._compressor)
        footer = _FOOTER.pack(self.size, VERSION, MAGIC)
        data = Pieces((*self._parts, directory, footer, _CRC.pack(crc32c(footer))))
        return BuiltBlob(data, crc_of(data), self.size)


def open_value(stored: bytes, place: Place) -> bytes:
    """The value that ``place`` speaks of, of which ``stored`` is what lies there, sealed.

    Raises ``CorruptionError`` when it is damaged, or another value.
    """
    name = blob_name(place.blob)
    value = unseal(stored, name=name, offset=place.offset)
    found = crc32c(value)
    if found != place.crc:
        raise ChecksumError(
            "not the value that the table points at",
            name=name,
            offset=place.offset,
            expected=place.crc,
            found=found,
        )
    return value


class Directory:
    """Where each value of a blob lies. Iterates over their places, in order; 16 bytes a value."""

    def __init__(self, blob: BlobId, data: bytes) -> None:
        """``data`` is the whole object.

        Raises ``CorruptionError`` when its tail is damaged or does not fit the rest,
        ``UnsupportedFormatError`` when it is of a version that this release does not know.
        """
        name, offset = blob_name(blob), _directory_offset(data, blob_name(blob))
        payload = unseal(data[offset:-FOOTER_SIZE], name=name, offset=offset)
        half = len(payload) // 2
        if len(payload) % (2 * _CRC.size):
            raise CorruptionError("the directory of a blob is malformed", name=name, offset=offset)
        lengths, checksums = array("I", payload[:half]), array("I", payload[half:])
        if sum(lengths) != offset or min(lengths, default=0) < TRAILER_SIZE:
            raise CorruptionError(
                "the directory does not fit the blob",
                name=name,
                offset=offset,
                expected=offset,
                found=sum(lengths),
            )
        self._blob = blob
        self._starts = array("Q", accumulate(lengths, initial=0))
        self._lengths = lengths
        self._checksums = checksums

    def __iter__(self) -> Iterator[Place]:
        for columns in zip(self._starts, self._lengths, self._checksums, strict=False):
            yield Place(self._blob, *columns)

    def __contains__(self, place: object) -> bool:
        if not isinstance(place, Place):
            return False
        at = bisect_left(self._starts, place.offset)
        return at < len(self._lengths) and place == (
            self._blob,
            self._starts[at],
            self._lengths[at],
            self._checksums[at],
        )


def _directory_offset(data: bytes, name: str) -> int:
    start = len(data) - FOOTER_SIZE
    if start < 0:
        raise TruncatedError(
            "the blob has no footer", name=name, expected=FOOTER_SIZE, found=len(data)
        )
    offset, version, magic = _FOOTER.unpack_from(data, start)
    if magic != MAGIC:
        raise UnsupportedFormatError(
            "not a SeerDB blob", name=name, offset=start, expected=MAGIC, found=magic
        )
    if version not in _KNOWN_VERSIONS:
        raise UnsupportedFormatError(
            "unknown blob version",
            name=name,
            offset=start,
            expected=_KNOWN_VERSIONS,
            found=version,
            hint="a newer release wrote it: upgrade",
        )
    (expected,) = _CRC.unpack_from(data, start + _FOOTER.size)
    found = crc32c(data[start : start + _FOOTER.size])
    if found != expected:
        raise ChecksumError(
            "checksum mismatch", name=name, offset=start, expected=expected, found=found
        )
    if offset + TRAILER_SIZE > start:
        raise CorruptionError(
            "the footer does not fit the blob",
            name=name,
            offset=start,
            expected=start,
            found=offset,
        )
    return int(offset)
