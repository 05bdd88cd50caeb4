"""The tables by level, and what the tree costs: its amplifications. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import groupby
from operator import attrgetter

import msgspec

from seerdb.storage.manifest.version import Run, TableMeta, Version


class LevelStatistics(msgspec.Struct, frozen=True, array_like=True):
    """The tables of a level. ``entries`` are versions of keys, ``deletes`` those of them that are
    tombstones; ``range_deletes`` are counted apart."""

    level: int
    runs: int
    tables: int
    bytes: int
    entries: int
    deletes: int
    range_deletes: int


class BlobStatistics(msgspec.Struct, frozen=True):
    """The blobs that tables point into: how many, at how many values, bytes of the objects, and of
    them those of the values. The rest is dead, until the blob is rewritten."""

    blobs: int
    values: int
    bytes: int
    live_bytes: int


class AmplificationStatistics(msgspec.Struct, frozen=True):
    """How much more is written, kept and read than was asked for; 0 where nothing was.

    ``user_bytes`` are the keys and values of all writes and ingests since the open, overwritten
    ones too; ``written_bytes`` the tables and blobs that flush, compaction and ingest have written
    since then. ``write`` is written over user bytes: compression makes it smaller, and what is
    still in memtables is not written yet.

    ``live_bytes`` estimates the tables, and the values they point at, without what nobody can see:
    :func:`live_bytes`. ``space`` is the bytes of tables and blobs over it.

    ``runs`` is how many a get may ask, and a scan does. ``blocks_per_get``: blocks fetched from the
    bucket for each get that reached the tables, since the open.
    """

    user_bytes: int
    written_bytes: int
    write: float
    live_bytes: int
    space: float
    runs: int
    blocks_per_get: float


def blobs(version: Version) -> BlobStatistics:
    """Those of a version."""
    used = version.blobs
    return BlobStatistics(
        blobs=len(used),
        values=sum(blob.live_values for blob in used),
        bytes=sum(blob.size for blob in used),
        live_bytes=sum(blob.live_bytes for blob in used),
    )


def levels(version: Version) -> list[LevelStatistics]:
    """Each level that has tables, the newest first."""
    return [
        _level(level, list(runs)) for level, runs in groupby(version.runs, lambda run: run.level)
    ]


def _level(level: int, runs: list[Run]) -> LevelStatistics:
    tables = [table for run in runs for table in run.tables]
    return LevelStatistics(
        level=level,
        runs=len(runs),
        tables=len(tables),
        bytes=sum(table.size for table in tables),
        entries=sum(table.entries for table in tables),
        deletes=sum(table.deletes for table in tables),
        range_deletes=sum(table.range_deletes for table in tables),
    )


def live_bytes(version: Version) -> int:
    """An estimate of the bytes, of tables and values in blobs, that a merge of everything would
    leave.

    From the oldest run to the newest, a table counts if its keys do not overlap those of tables
    that count already: what overlaps is taken for overwrites. Of a table that counts, tombstones
    are left out by their share of the entries. Exact for one run, and while each key is rewritten
    about as often as others; too low, so that the space amplification comes out too high, while
    new keys arrive among the old. (RocksDB's ``estimate-live-data-size`` goes by the same idea.)
    """
    counted: list[TableMeta] = []  # sorted, as they do not overlap
    for run in reversed(version.runs):
        apart = [table for table in run.tables if not _overlaps(table, counted)]
        for table in apart:
            insort(counted, table, key=attrgetter("largest"))
    return sum(map(_without_tombstones, counted))


def _overlaps(table: TableMeta, tables: list[TableMeta]) -> bool:
    position = bisect_left(tables, table.smallest, key=attrgetter("largest"))
    return position < len(tables) and tables[position].smallest <= table.largest


def _without_tombstones(table: TableMeta) -> int:
    if not table.entries:
        return 0
    values = table.weight - table.size
    return table.size * (table.entries - table.deletes) // table.entries + values


def ratio(part: float, whole: float) -> float:
    """``part`` over ``whole``; 0 where there is nothing to divide by."""
    return part / whole if whole else 0.0
