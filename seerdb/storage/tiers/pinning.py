"""Pinning: tables of the upper levels kept whole on the local disk, whatever else wants room.

What the newest levels hold is read most for what it weighs: every read of a key asks them first.
So whole tables of the first ``pin_levels`` levels are pinned in the disk tier, the newest first, as
far as they fit. A flush or a compaction on this machine leaves a copy of what it made, so that
nothing is downloaded that was just uploaded; what is missing after an opening, or was made on
another machine, is fetched a range at a time (``read/warmup.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from seerdb.errors import DiskError
from seerdb.ids import TableId
from seerdb.storage.local.files import FileSystem
from seerdb.storage.local.parts_file import RECORD_OVERHEAD, write_parts
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.sstable.builder import BuiltTable
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.table_store import TAIL, TableStore

_LEAST_BLOCK = 512
"""Bytes of a block, for a bound of what records add to a table."""


def tables_to_pin(version: Version, levels: int, capacity: int) -> list[TableMeta]:
    """Those of the upper ``levels``, newest runs first, that fit together."""
    chosen = []
    for run in version.runs:
        for table in run.tables if run.level < levels else ():
            needed = size_on_disk(table.size)
            if needed <= capacity:
                capacity -= needed
                chosen.append(table)
    return chosen


def size_on_disk(size: int) -> int:
    """About what tables of ``size`` bytes take in the disk tier."""
    return size + RECORD_OVERHEAD * (2 + size // _LEAST_BLOCK)


def leave_copy(files: FileSystem, directory: str | None, table: TableId, built: BuiltTable) -> None:
    """Of a table that was just built, for the tier of ``directory`` to adopt.

    A disk that fails leaves none: then the table is fetched, and the tier counts what fails.
    """
    if directory is None:
        return
    try:
        write_parts(files, directory, table, [(TAIL, built.tail), *enumerate(built.blocks())])
    except DiskError:
        return


class Pins:
    """Which tables of one database are pinned. Thread-safe. Does nothing without a disk tier."""

    def __init__(self, tables: TableStore, disk: DiskTier | None, levels: int) -> None:
        self._tables = tables
        self._disk = disk
        self._levels = levels
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._wanted: list[TableMeta] = []
        self._adopted: set[TableId] = set()
        self._done: set[TableId] = set()

    @contextmanager
    def room(self, level: int, size: int, outputs: Iterable[TableId]) -> Iterator[str | None]:
        """While a job makes ``outputs``, at most ``size`` bytes, of ``level``: the directory where
        it may leave copies, if there is room. They are removed if this ends in an exception."""
        if self._disk is None or level >= self._levels:
            yield None
            return
        with self._disk.room(size_on_disk(size)) as directory:
            try:
                yield directory
            except BaseException:
                for table in outputs:
                    self._disk.drop(table)
                raise

    def adopt(self, tables: Iterable[TableMeta]) -> None:
        """Take over the copies that a job has left, and pin them."""
        if self._disk is None:
            return
        for table in tables:
            if table.level < self._levels and self._disk.adopt(table.id):
                with self._lock:
                    self._adopted.add(table.id)

    def disown(self, tables: Iterable[TableId]) -> None:
        """Give up adopted copies of tables that nobody is going to publish."""
        if self._disk is None:
            return
        with self._lock:
            given_up = self._adopted.intersection(tables)
            self._adopted -= given_up
        for table in given_up:
            self._disk.drop(table)

    def follow(self, version: Version) -> None:
        """Pin what ``version`` has in the upper levels, what was adopted for the next one, and
        nothing else any more."""
        if self._disk is None:
            return
        wanted = tables_to_pin(version, self._levels, self._disk.capacity)
        with self._lock:
            self._wanted = wanted
            self._done.intersection_update(table.id for table in wanted)
            self._adopted.difference_update(table.id for table in version.tables)
            self._disk.pin({table.id for table in wanted} | self._adopted)

    def bring(self) -> bool:
        """Look at a pinned table, and fetch a range of what it lacks on disk; returns whether
        there was one left to look at."""
        with self._lock:
            table = next((each for each in self._wanted if each.id not in self._done), None)
        if table is None:
            return False
        handle = self._tables.handle(table)
        lacking = self._tables.not_on_disk(handle)
        if lacking:
            self._tables.fetch_to_disk(handle, lacking)
        if not 0 < len(self._tables.not_on_disk(handle)) < len(lacking):
            # It is whole; or there is no room, or a disk that fails.
            with self._lock:
                self._done.add(table.id)
        return True
