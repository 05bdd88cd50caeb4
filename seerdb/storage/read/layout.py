"""A version made ready for reading: its runs as sorted columns of handles.

Immutable but for ``tombstones``, which is ``None`` until every table with range tombstones has
been opened. ``special`` says that some table has values that expire or are merged, ``pointed``
that some has values in blobs, ``plain`` that none has any of those or range tombstones. ``rows``
is the row cache, which layouts share that only flushes and merges lie between; ``generation``
tells it what a row comes from. A layout keeps the handles of its tables alive, which keeps the
garbage collector away from them; a snapshot lives on the layout it was taken with.
"""

from __future__ import annotations

from bisect import bisect_left

from seerdb.storage.entry import NO_TOMBSTONES, RangeTombstones
from seerdb.storage.manifest.version import Run, Version
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableHandle, TableStore


class TableRun:
    """The tables of a run in columns, for one bisect a lookup."""

    __slots__ = ("count", "handles", "largest", "smallest")

    def __init__(self, run: Run, tables: TableStore) -> None:
        self.handles = [tables.handle(meta) for meta in run.tables]
        self.smallest = [meta.smallest for meta in run.tables]
        self.largest = [meta.largest for meta in run.tables]
        self.count = len(self.handles)

    def overlapping(self, start: bytes | None, end: bytes | None) -> list[TableHandle]:
        """The tables that may hold keys in ``[start, end)``, in key order."""
        low = 0 if start is None else bisect_left(self.largest, start)
        high = self.count if end is None else bisect_left(self.smallest, end)
        return self.handles[low:high]


class Layout:
    """The runs of a version, newest first."""

    __slots__ = (
        "generation",
        "plain",
        "pointed",
        "ranged",
        "rows",
        "runs",
        "special",
        "tombstones",
        "version",
    )

    def __init__(self, version: Version, tables: TableStore, rows: RowCache) -> None:
        self.version = version
        self.rows = rows
        self.generation = rows.generation
        self.runs = tuple(TableRun(run, tables) for run in version.runs)
        self.ranged = [
            handle for run in self.runs for handle in run.handles if handle.meta.range_deletes
        ]
        self.special = any(table.special for table in version.tables)
        self.pointed = any(table.pointers for table in version.tables)
        self.plain = not (self.ranged or self.special or self.pointed)
        self.tombstones: RangeTombstones | None = None if self.ranged else NO_TOMBSTONES

    def load_tombstones(self, tables: TableStore) -> RangeTombstones:
        """Every range tombstone of every table; opens the tables the first time."""
        tombstones = self.tombstones
        if tombstones is None:
            readers = tables.open_many(self.ranged)
            tombstones = RangeTombstones(
                tombstone for reader in readers for tombstone in reader.tombstones.tombstones
            )
            self.tombstones = tombstones
        return tombstones
