"""The file of a table on the local disk: parts of it, appended as they come.

Nothing in it is trusted: a record whose header does not check out ends the walk (what follows is
cut off), and the bytes of a part carry the table format's own checksum, which the reader verifies.

Record, little-endian::

    part    i32   number of a data block, or -1 for the tail
    length  u32   of the bytes that follow
    crc     u32   CRC32C of the two fields above, starting from the CRC32C of the table id
    bytes
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from crc32c import crc32c

from seerdb.ids import TableId
from seerdb.storage.local.files import File, FileSystem

SUFFIX = ".parts"
_HEADER = struct.Struct("<iII")
RECORD_OVERHEAD = _HEADER.size
"""Bytes that a record adds to its part."""


def parts_path(directory: str, table: TableId) -> str:
    """Where the file of a table is."""
    return f"{directory}/{table}{SUFFIX}"


class PartsFile:
    """Where each part lies in the file of a table. ``visited`` is for whoever evicts."""

    __slots__ = ("file", "offsets", "size", "visited")

    def __init__(self, file: File) -> None:
        self.file = file
        self.offsets: dict[int, tuple[int, int]] = {}
        self.size = 0
        self.visited = False

    def walk(self, table: TableId) -> None:
        """Find the parts; cut off what is not a whole record."""
        end = self.file.size()
        while self.size + RECORD_OVERHEAD <= end:
            header = self.file.read_at(self.size, RECORD_OVERHEAD)
            if len(header) < RECORD_OVERHEAD:  # it became shorter meanwhile
                break
            part, length, crc = _HEADER.unpack(header)
            after = self.size + RECORD_OVERHEAD + length
            if crc != _header_crc(table, header) or after > end:
                break
            self.offsets[part] = (self.size + RECORD_OVERHEAD, length)
            self.size = after
        if self.size < end:
            self.file.truncate(self.size)


def _header_crc(table: TableId, header: bytes) -> int:
    return int(crc32c(header[:8], crc32c(table.encode())))


def encode_record(table: TableId, part: int, data: bytes | memoryview) -> bytes:
    """The record of a part."""
    fields = struct.pack("<iI", part, len(data))
    return fields + struct.pack("<I", _header_crc(table, fields)) + data


def write_parts(
    files: FileSystem,
    directory: str,
    table: TableId,
    parts: Iterable[tuple[int, bytes | memoryview]],
) -> None:
    """Leave the file of a table that no tier knows yet. Raises: ``DiskError``."""
    file = files.open(parts_path(directory, table), create=True)
    try:
        offset = 0
        for part, data in parts:
            record = encode_record(table, part, data)
            file.write_at(offset, record)
            offset += len(record)
    finally:
        file.close()
