"""What surrounds a JSON body in the bucket, so that no damage of it is taken for the truth. Pure.

Bytes, all integers little-endian::

    offset  width  field
    0       8      magic
    8       4      format version
    12      4      length of the body
    16      4      CRC32C of bytes 0 to 15 and the body
    20      ...    body

Part of the format of everything that uses it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError, UnsupportedFormatError

_PREFIX = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<I")
HEADER_SIZE = _PREFIX.size + _CHECKSUM.size


class Envelope(NamedTuple):
    """A kind of object: what it begins with, and what errors say of it."""

    magic: bytes
    version: int
    what: str
    """For example "a manifest object"."""
    hint: str
    """What to do when it is damaged."""

    def wrap(self, body: bytes) -> bytes:
        """The object's bytes. Deterministic."""
        prefix = _PREFIX.pack(self.magic, self.version, len(body))
        return prefix + _CHECKSUM.pack(crc32c(body, crc32c(prefix))) + body

    def unwrap(self, name: str, data: bytes) -> memoryview:
        """The body in ``data``, which was read from the object ``name``.

        Raises: ``UnsupportedFormatError`` (another kind of object, or from a newer release),
        ``TruncatedError``, ``ChecksumError``, ``CorruptionError``.
        """
        magic, hint = self.magic, self.hint
        if data[: len(magic)] != magic[: len(data)]:
            raise UnsupportedFormatError(
                f"not {self.what}", name=name, offset=0, expected=magic, found=data[: len(magic)]
            )
        if len(data) < HEADER_SIZE:
            raise TruncatedError(
                "cut off in the header", name=name, expected=HEADER_SIZE, found=len(data), hint=hint
            )
        _, version, length = _PREFIX.unpack_from(data)
        if version != self.version:
            raise UnsupportedFormatError(
                f"unknown format version of {self.what}",
                name=name,
                offset=len(magic),
                expected=self.version,
                found=version,
                hint="written by another release of SeerDB: open it with that one",
            )
        self._check_body(name, data, length)
        return memoryview(data)[HEADER_SIZE:]

    def _check_body(self, name: str, data: bytes, length: int) -> None:
        size = HEADER_SIZE + length
        if len(data) != size:
            kind = TruncatedError if len(data) < size else CorruptionError
            raise kind("wrong length", name=name, expected=size, found=len(data), hint=self.hint)
        (expected,) = _CHECKSUM.unpack_from(data, _PREFIX.size)
        found = crc32c(memoryview(data)[HEADER_SIZE:], crc32c(data[: _PREFIX.size]))
        if found != expected:
            raise ChecksumError(
                "checksum mismatch",
                name=name,
                offset=0,
                expected=expected,
                found=found,
                hint=self.hint,
            )
