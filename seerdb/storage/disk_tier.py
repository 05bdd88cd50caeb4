"""The disk tier: parts of tables on the local disk, within a byte budget.

One file a table, ``cache/<table id>.parts``, to which parts are appended. It survives a
restart: the first use of a table walks its file once. Nothing in it is trusted: a record whose
header does not check out ends the walk (what follows is cut off), and the bytes of a part carry
the table format's own checksum, which the caller verifies; see :meth:`DiskTier.reject`.

Record, little-endian::

    part    i32   number of a data block, or -1 for the tail
    length  u32   of the bytes that follow
    crc     u32   CRC32C of the two fields above, starting from the CRC32C of the table id
    bytes

A disk that fails or fills only costs hits: the failure is counted, never raised.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from itertools import chain

import msgspec
from crc32c import crc32c

from seerdb.errors import DiskError
from seerdb.ids import TableId
from seerdb.storage.files import File, FileSystem

_HEADER = struct.Struct("<iII")
_SUFFIX = ".parts"


class DiskTierStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened, and what is held now."""

    bytes: int
    capacity: int
    tables: int
    hits: int
    misses: int
    rejected: int
    errors: int
    evictions: int


def discard(files: FileSystem, directory: str) -> None:
    """Remove what a tier has left in ``directory``, for want of one. Raises: ``DiskError``."""
    for name in files.list(directory):
        if name.endswith(_SUFFIX):
            files.remove(f"{directory}/{name}")


class _Parts:
    """One table's file: where each part lies in it."""

    __slots__ = ("file", "offsets", "size")

    def __init__(self, file: File) -> None:
        self.file = file
        self.offsets: dict[int, tuple[int, int]] = {}
        self.size = 0

    def walk(self, table: TableId) -> None:
        """Find the parts; cut off what is not a whole record."""
        end = self.file.size()
        while self.size + _HEADER.size <= end:
            header = self.file.read_at(self.size, _HEADER.size)
            part, length, crc = _HEADER.unpack(header)
            after = self.size + _HEADER.size + length
            if crc != _header_crc(table, header) or after > end:
                break
            self.offsets[part] = (self.size + _HEADER.size, length)
            self.size = after
        if self.size < end:
            self.file.truncate(self.size)


def _header_crc(table: TableId, header: bytes) -> int:
    return int(crc32c(header[:8], crc32c(table.encode())))


def _record(table: TableId, part: int, data: bytes) -> bytes:
    fields = struct.pack("<iI", part, len(data))
    return fields + struct.pack("<I", _header_crc(table, fields)) + data


class DiskTier:
    """Least recently used tables go first. Thread-safe.

    Neither a lookup nor a read waits for a write: the state's lock is not held during one.

    Requires: ``directory`` exists, and nobody else uses it.
    """

    def __init__(self, files: FileSystem, directory: str, capacity: int) -> None:
        self._files = files
        self._directory = directory
        self._capacity = capacity
        # Held by whoever writes, closes or removes a file; taken before the state's lock.
        self._changing = threading.Lock()
        # The state's lock guards what follows.
        self._lock = threading.Lock()
        self._tables: OrderedDict[TableId, _Parts] = OrderedDict()
        self._unwalked: dict[TableId, int] = {}
        self._bytes = self._hits = self._misses = 0
        self._rejected = self._errors = self._evictions = 0
        self._take_stock()

    def _take_stock(self) -> None:
        for name in self._files.list(self._directory):
            if name.endswith(_SUFFIX):
                try:
                    file = self._files.open_read(f"{self._directory}/{name}")
                    self._unwalked[TableId(name.removesuffix(_SUFFIX))] = file.size()
                    file.close()
                except DiskError:
                    self._errors += 1
        self._bytes = sum(self._unwalked.values())
        while self._bytes > self._capacity:
            self._remove(next(iter(self._unwalked)))

    def read(self, table: TableId, part: int) -> bytes | None:
        """The bytes once written for a part, unverified; ``None`` when they are not here."""
        data = self._read(table, part)
        with self._lock:
            if data is None:
                self._misses += 1
            else:
                self._hits += 1
        return data

    def _read(self, table: TableId, part: int) -> bytes | None:
        try:
            with self._lock:
                parts = self._parts(table, create=False)
                where = parts.offsets.get(part) if parts is not None else None
            if parts is None or where is None:
                return None
            data = parts.file.read_at(*where)
        except DiskError:
            self._failed()
            return None
        with self._lock:
            # Removed meanwhile, it was perhaps closed meanwhile, and another file was read.
            return data if self._tables.get(table) is parts else None

    def write(self, table: TableId, part: int, data: bytes) -> None:
        """Keep a part, making room when needed. Too large ones are not kept."""
        needed = len(data) + _HEADER.size
        if needed > self._capacity:
            return
        with self._changing:
            try:
                with self._lock:
                    self._make_room(table, needed)
                    parts = self._parts(table, create=True)
                    if parts is None or part in parts.offsets:
                        return
                parts.file.write_at(parts.size, _record(table, part, data))
                with self._lock:
                    parts.offsets[part] = (parts.size + _HEADER.size, len(data))
                    parts.size += needed
                    self._bytes += needed
            except DiskError:
                self._failed()
                with self._lock:
                    self._remove(table)

    def _failed(self) -> None:
        with self._lock:
            self._errors += 1

    def reject(self, table: TableId) -> None:
        """Drop a table whose bytes failed their checksum; they will be fetched again."""
        with self._changing, self._lock:
            self._rejected += 1
            self._remove(table)

    def drop(self, table: TableId) -> None:
        """Drop a table that is gone from the bucket."""
        with self._changing, self._lock:
            self._remove(table)

    def statistics(self) -> DiskTierStatistics:
        """A consistent copy of the counters."""
        with self._lock:
            return DiskTierStatistics(
                bytes=self._bytes,
                capacity=self._capacity,
                tables=len(self._tables) + len(self._unwalked),
                hits=self._hits,
                misses=self._misses,
                rejected=self._rejected,
                errors=self._errors,
                evictions=self._evictions,
            )

    def close(self) -> None:
        """Close the files; what they hold stays."""
        with self._changing, self._lock:
            for parts in self._tables.values():
                parts.file.close()
            self._tables.clear()
            self._unwalked.clear()
            self._bytes = 0

    def _path(self, table: TableId) -> str:
        return f"{self._directory}/{table}{_SUFFIX}"

    def _parts(self, table: TableId, *, create: bool) -> _Parts | None:
        parts = self._tables.get(table)
        if parts is not None:
            self._tables.move_to_end(table)
            return parts
        known = self._unwalked.get(table)
        if known is None and not create:
            return None
        parts = _Parts(self._files.open(self._path(table), create=known is None))
        self._tables[table] = parts
        if known is not None:
            del self._unwalked[table]
            try:
                parts.walk(table)
            finally:
                self._bytes += parts.size - known
        return parts

    def _make_room(self, table: TableId, needed: int) -> None:
        while self._bytes + needed > self._capacity:
            self._evictions += 1
            # The table that needs the room goes only if it is alone.
            by_age = chain(self._unwalked, self._tables)
            self._remove(next((each for each in by_age if each != table), table))

    def _remove(self, table: TableId) -> None:
        parts = self._tables.pop(table, None)
        size = self._unwalked.pop(table, None)
        if parts is not None:
            parts.file.close()
            size = parts.size
        if size is not None:
            self._bytes -= size
            try:
                self._files.remove(self._path(table))
            except DiskError:
                self._errors += 1
