"""The tiers a get goes through, and what the caches among them hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from seerdb.storage.read.sampling import GetSample
from seerdb.storage.tiers.disk_tier import DiskTierStatistics

if TYPE_CHECKING:
    from seerdb.storage.read.read_side import ReadSide


class ReadStatistics(msgspec.Struct, frozen=True):
    """Reads since the open. Racing readers may lose a count.

    ``table_gets`` are the keys looked for in tables, which neither a memtable nor the row cache
    had; several keys at once and gets of snapshots count here whoever answers. Each counts once, as
    it is told: ``block_cache_hits`` found what they needed in memory, for the others blocks were
    loaded, ``blocks_from_disk`` from the disk tier, ``blocks_from_bucket`` from there; a get may
    need several. Of several keys at once, each block that is loaded is for one.
    ``values_from_bucket``: of large values, which scans fetch, too. ``sample``: who answers the
    gets of single keys.
    """

    table_gets: int
    block_cache_hits: int
    blocks_from_disk: int
    blocks_from_bucket: int
    values_from_bucket: int
    scans: int
    sample: GetSample

    @property
    def tiers(self) -> dict[str, int]:
        """Gets that reached the tables, by the tier that had what they needed."""
        return {
            "block_cache": self.block_cache_hits,
            "disk_cache": self.blocks_from_disk,
            "bucket": self.blocks_from_bucket,
        }


class CacheStatistics(msgspec.Struct, frozen=True):
    """The block cache; it may be shared by several databases."""

    bytes: int
    capacity: int
    blocks: int
    admissions: int
    evictions: int


class RowCacheStatistics(msgspec.Struct, frozen=True):
    """The row cache. It takes what the blocks leave free, and a share of its own."""

    bytes: int
    rows: int


class TailStatistics(msgspec.Struct, frozen=True):
    """What is kept of each table that was opened: indexes, filters, range deletes. No budget bounds
    it; ``bytes`` counts overheads."""

    tables: int
    bytes: int


def reads(engine: ReadSide) -> ReadStatistics:
    """The reads so far. Begins another sample."""
    sample = engine.sampler.statistics()
    engine.sampler.begin()
    tables = engine.tables
    return ReadStatistics(
        table_gets=engine.reads.table_gets,
        block_cache_hits=engine.reads.gets_in_memory,
        blocks_from_disk=tables.blocks_from_disk,
        blocks_from_bucket=tables.blocks_fetched,
        values_from_bucket=engine.reads.values_fetched,
        scans=engine.reads.scans,
        sample=sample,
    )


def block_cache(engine: ReadSide) -> CacheStatistics:
    """The block cache now."""
    cache = engine.runtime.cache.statistics()
    return CacheStatistics(
        bytes=cache.bytes,
        capacity=cache.capacity,
        blocks=cache.entries,
        admissions=cache.admissions,
        evictions=cache.evictions,
    )


def tails(engine: ReadSide) -> TailStatistics:
    """The open tables now."""
    readers = engine.tables.readers()
    ranges = engine.live.current.layout.known.tombstones
    return TailStatistics(
        tables=len(readers), bytes=sum(reader.memory for reader in readers) + ranges.memory
    )


def row_cache(engine: ReadSide) -> RowCacheStatistics:
    """The row cache now."""
    rows = engine.live.current.layout.rows
    return RowCacheStatistics(bytes=rows.bytes, rows=len(rows))


def disk_cache(engine: ReadSide) -> DiskTierStatistics | None:
    """The disk tier now; ``None`` where there is none."""
    return engine.disk.statistics() if engine.disk else None


def disk_values(disk: DiskTierStatistics | None) -> dict[str, float]:
    """Single numbers by name, for metrics; all 0 where there is no disk tier."""
    return {
        "disk_cache_hits": disk.hits if disk else 0,
        "disk_cache_misses": disk.misses if disk else 0,
        "disk_cache_rejected": disk.rejected if disk else 0,
        "disk_cache_bytes": disk.bytes if disk else 0,
    }
