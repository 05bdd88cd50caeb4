"""What the database consists of at one moment: immutable runs of immutable tables.

A :class:`Run` is a sequence of tables whose key ranges do not overlap, sorted by key. A
:class:`Version` is a sequence of runs from newest to oldest: for one key, everything in an
earlier run has a higher seq than everything in a later one. Levelled layouts have one run a
level, tiered ones several. A run is no more than its level and number: an edit may take some
of its tables and give it others.

Invariants (checked by :func:`check_version`):

- V1  table ids are unique in a version;
- V2  inside a run, tables are sorted and do not overlap;
- V3  runs are sorted by level ascending, then by run number descending (newest first);
- V4  a table's smallest key is not above its largest, nor its lowest seq above its highest.
"""

from __future__ import annotations

import msgspec

from seerdb.errors import InternalError
from seerdb.ids import TableId


class TableMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the manifest knows of a table: enough to decide whether it can hold a key."""

    id: TableId
    level: int
    run: int
    """Number of the run it belongs to; a higher run in the same level is newer."""
    size: int
    """Bytes of the object; a GET that returns another length is an error."""
    checksum: int
    """CRC32C of the whole object."""
    entries: int
    """Versions of keys, tombstones included; range tombstones not."""
    deletes: int
    range_deletes: int
    smallest: bytes
    largest: bytes
    """First and last key it has anything to say about, both inclusive except that the end of
    a range tombstone, being exclusive, widens ``largest`` although it holds nothing there."""
    min_seq: int
    max_seq: int
    tail_offset: int
    """Where the data blocks end: one GET from here to ``size`` opens the table."""
    expiring: int = 0
    """Entries that expire, or whose base does."""
    merges: int = 0
    """Entries that hold operands."""
    first_expiry: int = 0
    """The second in which the first of those that expire does; 0 where that was not noted yet."""
    half_expired: int = 0
    """The second by which half of all entries have expired; 0: never, or not noted."""

    @property
    def special(self) -> bool:
        """Whether some entry alone does not tell what its key holds."""
        return self.expiring > 0 or self.merges > 0


class Run(msgspec.Struct, frozen=True):
    """Tables of one level and run number, sorted by key, not overlapping."""

    level: int
    number: int
    tables: tuple[TableMeta, ...]

    @property
    def size(self) -> int:
        """Bytes of all its tables."""
        return sum(table.size for table in self.tables)


class Version(msgspec.Struct, frozen=True):
    """The runs of the database, newest first. Build one with :meth:`of` or :meth:`changed`."""

    runs: tuple[Run, ...] = ()

    @classmethod
    def of(cls, tables: list[TableMeta]) -> Version:
        """The version that consists of ``tables``."""
        grouped: dict[tuple[int, int], list[TableMeta]] = {}
        for table in tables:
            grouped.setdefault((table.level, -table.run), []).append(table)
        return cls(
            tuple(
                Run(level, -run, tuple(sorted(members, key=lambda table: table.smallest)))
                for (level, run), members in sorted(grouped.items())
            )
        )

    @property
    def tables(self) -> list[TableMeta]:
        """Every table, run by run."""
        return [table for run in self.runs for table in run.tables]

    def changed(self, *, add: list[TableMeta], remove: list[TableId]) -> Version:
        """The version after an edit. Raises ``InternalError`` if the edit does not fit."""
        gone = set(remove)
        kept = [table for table in self.tables if table.id not in gone]
        if len(kept) + len(gone) != len(self.tables):
            raise InternalError(f"an edit removes tables that are not there: {sorted(gone)}")
        version = Version.of(kept + add)
        check_version(version)
        return version


def check_version(version: Version) -> None:
    """Raise ``InternalError`` when an invariant of the module docstring does not hold."""
    seen: set[TableId] = set()
    for run in version.runs:
        for table in run.tables:
            if table.id in seen:
                raise InternalError(f"table {table.id} is in the version twice")
            seen.add(table.id)
            if table.smallest > table.largest or table.min_seq > table.max_seq:
                raise InternalError(f"table {table.id} ends before it starts")
        for left, right in zip(run.tables, run.tables[1:], strict=False):
            if left.largest >= right.smallest and not _touch_by_range_end(left, right):
                raise InternalError(
                    f"tables {left.id} and {right.id} of level {run.level} overlap: "
                    f"{left.largest!r} is not before {right.smallest!r}"
                )


def _touch_by_range_end(left: TableMeta, right: TableMeta) -> bool:
    return left.range_deletes > 0 and left.largest == right.smallest
