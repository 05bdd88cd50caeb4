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
- V4  a table's smallest key is not above its largest, nor its lowest seq above its highest;
- V5  all tables say the same of a blob, and together point at no more than all of it.
"""

from __future__ import annotations

import msgspec

from seerdb.errors import InternalError
from seerdb.ids import BlobId, StoredNumber, StoredSize, TableId, maker_of
from seerdb.storage.digest import Digest
from seerdb.storage.object_store.names import blob_name, table_name


class BlobRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a table points into a blob: what the blob is, and how much of it the table needs.

    It tells the same of the blob in every table, so that the manifest need not list blobs: they
    come with the first table that points into them and go with the last.
    """

    id: BlobId
    size: StoredSize
    """Bytes of the object."""
    checksum: StoredNumber
    """CRC32C of the whole object."""
    total: StoredSize
    """Bytes of all values that were put into it, sealed."""
    values: StoredNumber
    """At how many of them the table points,"""
    bytes: StoredSize
    """and how many bytes those are."""


class BlobUse(msgspec.Struct, frozen=True):
    """A blob as a version sees it. The fields are those of :class:`BlobRef`, of all tables."""

    id: BlobId
    size: int
    checksum: int
    total: int
    live_values: int
    live_bytes: int


class TableMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the manifest knows of a table: enough to decide whether it can hold a key."""

    id: TableId
    level: StoredNumber
    run: StoredNumber
    """Number of the run it belongs to; a higher run in the same level is newer."""
    size: StoredSize
    """Bytes of the object; a GET that returns another length is an error."""
    checksum: StoredNumber
    """CRC32C of the whole object."""
    entries: StoredNumber
    """Versions of keys, tombstones included; range tombstones not."""
    deletes: StoredNumber
    range_deletes: StoredNumber
    smallest: bytes
    largest: bytes
    """First and last key it has anything to say about, both inclusive except that the end of
    a range tombstone, being exclusive, widens ``largest`` although it holds nothing there."""
    min_seq: StoredNumber
    max_seq: StoredNumber
    tail_offset: StoredSize
    """Where the data blocks end: one GET from here to ``size`` opens the table."""
    expiring: StoredNumber = 0
    """Entries that expire, or whose base does."""
    merges: StoredNumber = 0
    """Entries that hold operands."""
    first_expiry: int = 0
    """The second in which the first of those that expire does; 0 where that was not noted yet."""
    half_expired: int = 0
    """The second by which half of all entries have expired; 0: never, or not noted."""
    pointers: StoredNumber = 0
    """Entries whose values lie in blobs."""
    blobs: tuple[BlobRef, ...] = ()
    """Those blobs, sorted by id."""
    digest: str = ""
    """Of its entries, see ``storage/digest.py``; "" where that was not noted yet."""

    @property
    def special(self) -> bool:
        """Whether some entry alone does not tell what its key holds."""
        return self.expiring > 0 or self.merges > 0

    @property
    def sums(self) -> Digest | None:
        """The digest of its entries; ``None`` where that is not known."""
        return Digest.read(self.entries, self.digest) if self.digest else None

    @property
    def objects(self) -> list[str]:
        """Names of what is needed to read it: the table and the blobs it points into."""
        return [table_name(self.id), *(blob_name(ref.id) for ref in self.blobs)]

    @property
    def weight(self) -> int:
        """Bytes of the table and of the values it points at."""
        return self.size + sum(ref.bytes for ref in self.blobs)

    @property
    def bytes_made(self) -> int:
        """Bytes of the table and of the blobs that were made with it and that it points into."""
        return self.size + sum(ref.size for ref in self.blobs if maker_of(ref.id) == self.id)


class Run(msgspec.Struct, frozen=True):
    """Tables of one level and run number, sorted by key, not overlapping."""

    level: int
    number: int
    tables: tuple[TableMeta, ...]

    @property
    def size(self) -> int:
        """Bytes of all its tables."""
        return sum(table.size for table in self.tables)

    @property
    def weight(self) -> int:
        """Bytes of all its tables and of the values they point at."""
        return sum(table.weight for table in self.tables)


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

    @property
    def blobs(self) -> list[BlobUse]:
        """Every blob that some table points into, sorted by id."""
        live: dict[BlobId, tuple[BlobRef, int, int]] = {}
        for table in self.tables:
            for ref in table.blobs:
                _, values, size = live.get(ref.id, (ref, 0, 0))
                live[ref.id] = ref, values + ref.values, size + ref.bytes
        return [
            BlobUse(blob, ref.size, ref.checksum, ref.total, values, size)
            for blob, (ref, values, size) in sorted(live.items())
        ]

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
    _check_blobs(version)


def _check_blobs(version: Version) -> None:
    known: dict[BlobId, tuple[int, int, int]] = {}
    for table in version.tables:
        if table.pointers != sum(ref.values for ref in table.blobs):
            raise InternalError(f"table {table.id} does not say where all its pointers lead")
        for ref in table.blobs:
            same = ref.size, ref.checksum, ref.total
            if known.setdefault(ref.id, same) != same:
                raise InternalError(f"tables disagree on what blob {ref.id} is")
    for blob in version.blobs:
        if blob.live_bytes > blob.total:
            raise InternalError(
                f"tables point at {blob.live_bytes} bytes of blob {blob.id}, of {blob.total}"
            )


def _touch_by_range_end(left: TableMeta, right: TableMeta) -> bool:
    return left.range_deletes > 0 and left.largest == right.smallest
