"""The disk tier: parts of tables on the local disk, within a byte budget.

One file a table, ``cache/<table id>.parts``, to which parts are appended (``local/parts_file.py``).
It survives a restart: the first use of a table walks its file once. Nothing in it is trusted; what
fails the table format's checksum is for the caller to :meth:`~DiskTier.reject`. Tables of two
databases may have one id, so ``cache/DATABASE`` says whose parts these are.

Most tables are here in parts, as reads brought them; the pinned ones are meant to be whole, and
give way to nothing. A job that has a table's bytes at hand leaves a file with all of them
(:func:`~seerdb.storage.local.parts_file.write_parts`), and the tier adopts it.

A disk that fails or fills only costs hits: the failure is counted, never raised. Before it is so
full that writes would be refused, the tier gives way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from seerdb.errors import DiskError
from seerdb.events import Listener, WorkFailed
from seerdb.ids import TableId
from seerdb.options import Options
from seerdb.storage.local.files import FileSystem, read_whole, size_of
from seerdb.storage.local.parts_file import (
    RECORD_OVERHEAD,
    SUFFIX,
    PartsFile,
    encode_record,
    parts_path,
)

_OWNER = "DATABASE"


class DiskTierStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened, and what is held now."""

    bytes: int
    capacity: int
    tables: int
    pinned_bytes: int
    pinned_tables: int
    hits: int
    misses: int
    rejected: int
    errors: int
    evictions: int


def keep_free_of(options: Options) -> int:
    """What a tier leaves free: writes are slowed down when less than 5/4 of ``min_free_disk`` is
    free, and refused when less than that is."""
    return 2 * options.min_free_disk


def discard(files: FileSystem, directory: str) -> None:
    """Remove what a tier has left in ``directory``, for want of one. Raises: ``DiskError``."""
    for name in files.list(directory):
        if name.endswith(SUFFIX):
            files.remove(f"{directory}/{name}")


def tier_for(
    files: FileSystem,
    directory: str,
    database_id: str,
    options: Options,
    *,
    beside_bucket: bool,
    listener: Listener,
) -> DiskTier | None:
    """The tier of one database, if it is to have one and the disk allows: if that does not, the
    listener is told. ``beside_bucket``: the bucket is on this disk, and copies gain nothing."""
    capacity = 0 if beside_bucket else options.disk_cache_capacity
    try:
        if capacity:
            keep_free = keep_free_of(options)
            return open_tier(files, directory, capacity, database_id, keep_free=keep_free)
        discard(files, directory)
    except DiskError as error:
        work, result = "discard the disk cache", "what is left of it takes space"
        if capacity:
            work, result = "open the disk cache", "there is none until the database is opened anew"
        to_do = f"{directory} has to be a directory to be read and written, and may be deleted"
        listener(WorkFailed(work, f"{error}; {result}; {to_do}", 1, 0.0))
    return None


def open_tier(
    files: FileSystem, directory: str, capacity: int, database_id: str, *, keep_free: int = 0
) -> DiskTier:
    """The tier of one database, as :class:`DiskTier`. What ``directory`` has of another one is
    removed first, as by whoever followed that one from here. Raises: ``DiskError``."""
    path = f"{directory}/{_OWNER}"
    owner = read_whole(files, path) if files.exists(path) else b""
    if owner != database_id.encode():
        discard(files, directory)
        files.sync_directory(directory)
        _write_owner(files, path, database_id)
        files.sync_directory(directory)
    return DiskTier(files, directory, capacity, keep_free=keep_free)


def _write_owner(files: FileSystem, path: str, database_id: str) -> None:
    files.remove(path)
    file = files.open(path, create=True)
    try:
        file.write_at(0, database_id.encode())
        file.sync(metadata=True)
    finally:
        file.close()


class DiskTier:
    """The oldest table that is not pinned goes first, unless something of it was read since its
    turn came last: what a scan passes through it drives out nothing that is read. Thread-safe.

    Neither a lookup nor a read waits for a write: the state's lock is not held during one.

    ``keep_free``: bytes of the disk that it leaves to others; when these have less it gives way.

    Requires: ``directory`` exists, and nobody else uses it.
    """

    def __init__(
        self, files: FileSystem, directory: str, capacity: int, *, keep_free: int = 0
    ) -> None:
        self._files = files
        self._directory = directory
        self.capacity = capacity
        self._keep_free = keep_free
        # Held by whoever writes, closes or removes a file; taken before the state's lock.
        self._changing = threading.Lock()
        # The state's lock guards what follows.
        self._lock = threading.Lock()
        self._tables: OrderedDict[TableId, PartsFile] = OrderedDict()
        self._unwalked: dict[TableId, int] = {}
        self._pinned: frozenset[TableId] = frozenset()
        self._bytes = self._hits = self._misses = 0
        self._rejected = self._errors = self._evictions = 0
        self._closed = False
        self._take_stock()

    def _take_stock(self) -> None:
        for name in self._files.list(self._directory):
            if name.endswith(SUFFIX):
                try:
                    size = size_of(self._files, f"{self._directory}/{name}")
                    self._unwalked[TableId(name.removesuffix(SUFFIX))] = size
                except DiskError:
                    self._errors += 1
        self._bytes = sum(self._unwalked.values())
        while self._bytes > self.capacity:
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
            parts.visited = True
            data = parts.file.read_at(*where)
        except DiskError:
            self._failed()
            return None
        with self._lock:
            # Removed meanwhile, it was perhaps closed meanwhile, and another file was read.
            return data if self._tables.get(table) is parts else None

    def write(self, table: TableId, part: int, data: bytes) -> None:
        """Keep a part, making room when needed. What finds none is not kept."""
        needed = len(data) + RECORD_OVERHEAD
        if needed > self.capacity:
            return
        with self._changing:
            try:
                with self._lock:
                    if self._closed or not self._make_room(table, needed):
                        return
                    parts = self._parts(table, create=True)
                    if parts is None or part in parts.offsets:
                        return
                parts.file.write_at(parts.size, encode_record(table, part, data))
                with self._lock:
                    parts.offsets[part] = (parts.size + RECORD_OVERHEAD, len(data))
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
        """Drop a table that is gone from the bucket, or a file of it that was not adopted."""
        with self._changing, self._lock:
            if not self._remove(table):
                self._unlink(table)

    def retain(self, tables: Collection[TableId]) -> None:
        """Drop all but these."""
        with self._lock:
            gone = [each for each in (*self._tables, *self._unwalked) if each not in tables]
        for table in gone:
            self.drop(table)

    def pin(self, tables: Iterable[TableId]) -> None:
        """From now on these tables, and no others, make room for nothing."""
        with self._lock:
            self._pinned = frozenset(tables)

    @contextmanager
    def room(self, needed: int) -> Iterator[str | None]:
        """For as long as it is used: a directory in which tables of so many bytes may be left by
        :func:`write_parts`, to be adopted; ``None`` where what is pinned leaves no room."""
        with self._changing, self._lock:
            granted = needed if self._make_room(None, needed) else 0
            self._bytes += granted
        try:
            yield self._directory if granted else None
        finally:
            with self._lock:
                self._bytes -= granted

    def adopt(self, table: TableId) -> bool:
        """Take over, and pin, a table that was left here; returns whether one was."""
        path = parts_path(self._directory, table)
        try:
            if not self._files.exists(path):
                return False
            size = size_of(self._files, path)
        except DiskError:
            self._failed()
            return False
        with self._lock:
            self._unwalked[table] = size
            self._bytes += size
            self._pinned |= {table}
        return True

    def lacks(self, table: TableId, parts: Iterable[int]) -> list[int]:
        """Which of the parts are not here."""
        try:
            with self._lock:
                known = self._parts(table, create=False)
                here = known.offsets if known is not None else {}
                return [part for part in parts if part not in here]
        except DiskError:
            self._failed()
            return []

    def statistics(self) -> DiskTierStatistics:
        """A consistent copy of the counters."""
        with self._lock:
            return DiskTierStatistics(
                bytes=self._bytes,
                capacity=self.capacity,
                tables=len(self._tables) + len(self._unwalked),
                pinned_bytes=sum(map(self._size, self._pinned)),
                pinned_tables=sum(self._size(each) > 0 for each in self._pinned),
                hits=self._hits,
                misses=self._misses,
                rejected=self._rejected,
                errors=self._errors,
                evictions=self._evictions,
            )

    def close(self) -> None:
        """Close the files; what they hold stays. Nothing more is kept: reads may be under way."""
        with self._changing, self._lock:
            self._closed = True
            for parts in self._tables.values():
                self._end(parts)
            self._tables.clear()
            self._unwalked.clear()
            self._bytes = 0

    def _parts(self, table: TableId, *, create: bool) -> PartsFile | None:
        parts = self._tables.get(table)
        if parts is not None:
            return parts
        known = self._unwalked.get(table)
        if known is None and not create:
            return None
        parts = PartsFile(
            self._files.open(parts_path(self._directory, table), create=known is None)
        )
        self._tables[table] = parts
        if known is not None:
            del self._unwalked[table]
            try:
                parts.walk(table)
            finally:
                self._bytes += parts.size - known
        return parts

    def _size(self, table: TableId) -> int:
        parts = self._tables.get(table)
        return parts.size if parts is not None else self._unwalked.get(table, 0)

    def _make_room(self, table: TableId | None, needed: int) -> bool:
        """Evict until so much more fits; whether it does. What is written to goes only if no
        other can."""
        while self._bytes + needed > self.capacity or self._is_disk_short(needed):
            victim = self._victim(table)
            if victim is None:
                return False
            self._evictions += 1
            self._remove(victim)
        return True

    def _is_disk_short(self, needed: int) -> bool:
        """Whether others would be left less of the disk than is theirs."""
        if not self._keep_free:
            return False
        try:
            return self._files.free_bytes(self._directory) - needed < self._keep_free
        except DiskError:
            self._errors += 1
            return False

    def _victim(self, written: TableId | None) -> TableId | None:
        spared = self._pinned | {written}
        for table in self._unwalked:
            if table not in spared:
                return table
        for table, parts in list(self._tables.items()):
            if table in spared:
                continue
            if not parts.visited:
                return table
            parts.visited = False
            self._tables.move_to_end(table)
        oldest = next((each for each in self._tables if each not in spared), None)
        is_known = written in self._tables or written in self._unwalked
        return written if oldest is None and is_known and written not in self._pinned else oldest

    def _remove(self, table: TableId) -> bool:
        """Whether it was here."""
        parts = self._tables.pop(table, None)
        size = self._unwalked.pop(table, None)
        if parts is not None:
            self._end(parts)
            size = parts.size
        if size is None:
            return False
        self._bytes -= size
        self._unlink(table)
        return True

    def _end(self, parts: PartsFile) -> None:
        try:
            parts.file.close()
        except DiskError:
            self._errors += 1

    def _unlink(self, table: TableId) -> None:
        try:
            self._files.remove(parts_path(self._directory, table))
        except DiskError:
            self._errors += 1
