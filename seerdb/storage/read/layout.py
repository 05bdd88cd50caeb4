"""A version made ready for reading: its runs as sorted columns of handles.

Immutable but for ``tombstones``, which is ``None`` until every table with range tombstones has
been opened, and ``known``, which is what of them is at hand: the layout that follows goes on from
there. ``special`` says that some table has values that expire or are merged, ``pointed`` that some
has values in blobs, ``plain`` that none has any of those or range tombstones. ``rows`` is the row
cache, which layouts share that only flushes and merges lie between; ``generation`` tells it what a
row comes from. A layout keeps the handles of its tables alive, which keeps the garbage collector
away from them; a snapshot lives on the layout it was taken with.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain
from typing import NamedTuple

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


class _Known(NamedTuple):
    """All range tombstones of some tables."""

    handles: frozenset[TableHandle]
    tombstones: RangeTombstones


_NOTHING_KNOWN = _Known(frozenset(), NO_TOMBSTONES)


class Layout:
    """The runs of a version, newest first."""

    __slots__ = (
        "generation",
        "known",
        "plain",
        "pointed",
        "ranged",
        "rows",
        "runs",
        "special",
        "tombstones",
        "version",
    )

    def __init__(
        self,
        version: Version,
        tables: TableStore,
        rows: RowCache,
        *,
        former: Layout | None = None,
    ) -> None:
        """``former``: the layout that this one follows, by the same ``tables``."""
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
        known = former.known if former is not None else _NOTHING_KNOWN
        self.known: _Known = known if known.handles.issubset(self.ranged) else _NOTHING_KNOWN
        is_known = len(self.known.handles) == len(self.ranged)
        self.tombstones: RangeTombstones | None = self.known.tombstones if is_known else None

    def load_tombstones(self, tables: TableStore) -> RangeTombstones:
        """Every range tombstone of every table; opens the tables the first time."""
        tombstones = self.tombstones
        if tombstones is None:
            handles, known = self.known
            readers = tables.open_many([each for each in self.ranged if each not in handles])
            tombstones = known.under(
                RangeTombstones(chain.from_iterable(reader.tombstones for reader in readers))
            )
            self.known = _Known(frozenset(self.ranged), tombstones)
            self.tombstones = tombstones
        return tombstones
