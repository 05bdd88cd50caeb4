"""Which blobs are worth rewriting. Pure.

A value dies when the last entry that points at it goes, which a compaction decides without looking
at blobs. So a blob is left with ever fewer values that anybody can reach. Once those are less than
:data:`LIVE_SHARE` of it, whatever compaction reads an entry that points into it takes the value
along into a blob of its own (as WiscKey's collector does, Lu et al., FAST 2016, though that one
looks each value up in the tree; here the manifest knows). When nobody points into the blob any
more, it is garbage.

So a byte is moved at most once for each byte that dies, and blobs take at most 1/LIVE_SHARE times
what is live in them, once :func:`most_wasteful` has nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterable

from seerdb.ids import BlobId
from seerdb.storage.manifest.version import Run, TableMeta, Version

LIVE_SHARE = 0.5
"""A blob of which less is live is rewritten."""


def mostly_dead(version: Version) -> dict[BlobId, float]:
    """The blobs that are to be rewritten, and how many dead bytes each has for a live one."""
    return {
        blob.id: (blob.total - blob.live_bytes) / blob.live_bytes
        for blob in version.blobs
        if blob.live_bytes < LIVE_SHARE * blob.total
    }


def find_dying(version: Version, tables: Iterable[TableMeta]) -> frozenset[BlobId]:
    """Of the blobs that are mostly dead, those that ``tables`` point into."""
    dying = mostly_dead(version)
    return frozenset(ref.id for table in tables for ref in table.blobs if ref.id in dying)


def most_wasteful(version: Version) -> Run | None:
    """The table whose rewriting sets free the most, as a run without the others.

    ``None`` when no blob is mostly dead, or the dead bytes are less than the tables to be
    rewritten for them.
    """
    dying = mostly_dead(version)
    wasted = [
        (sum(ref.bytes * dying.get(ref.id, 0.0) for ref in table.blobs), table)
        for table in version.tables
        if table.pointers
    ]
    waste, table = max(wasted, key=_waste, default=(0.0, None))
    if table is None or waste <= table.size:
        return None
    return Run(table.level, table.run, (table,))


def _waste(wasted: tuple[float, TableMeta]) -> float:
    return wasted[0]
