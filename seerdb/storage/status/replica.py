"""What a replica counts, and whether it works: its part of what a writer's status tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from seerdb.storage.compaction.work import JobStatistics
from seerdb.storage.object_store.meter import Prices
from seerdb.storage.replication.lag import LagStatistics
from seerdb.storage.replication.running import Mark
from seerdb.storage.status import caches, costs, tree
from seerdb.storage.status.health import HealthCheck
from seerdb.storage.tiers.disk_tier import DiskTierStatistics
from seerdb.storage.write.admission import StallStatistics

if TYPE_CHECKING:
    from seerdb.storage.replication.follower import Follower


class ReplicaStatistics(msgspec.Struct, frozen=True):
    """Everything there is to know, at one moment."""

    database_id: str
    epoch: int
    visible_seq: int
    flushed_seq: int
    compared_seq: int
    """The newest commit of those that were found to be what the writer has; 0: none were."""
    log_digest: Mark | None
    """The newest digest of the log that was taken, of its segment; ``None``: none is known."""
    manifest_number: int
    primary: str
    """Its address; "" where none is known."""
    is_live: bool
    """Whether the log comes from the primary now, and not through the bucket."""
    lag: LagStatistics
    restarts: int
    """How often what was shown turned out void, and was taken back."""
    runs: int
    tables: int
    table_bytes: int
    table_entries: int
    levels: list[tree.LevelStatistics]
    memtables: int
    memtable_bytes: int
    reads: caches.ReadStatistics
    tails: caches.TailStatistics
    row_cache: caches.RowCacheStatistics
    block_cache: caches.CacheStatistics
    disk_cache: DiskTierStatistics | None
    store_requests: list[costs.StoreStatistics]
    costs: costs.CostStatistics
    store_breaker_open: bool

    def to_builtins(self) -> dict[str, Any]:
        """Plain nested data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        for name, rows in (("levels", self.levels), ("store_requests", self.store_requests)):
            plain[name] = [
                {column: getattr(row, column) for column in row.__struct_fields__} for row in rows
            ]
        return plain

    @property
    def values(self) -> dict[str, float]:
        """Single numbers by name, for metrics."""
        seconds = self.lag.seconds
        return {
            "visible_seq": self.visible_seq,
            "compared_seq": self.compared_seq,
            "lag_seq": self.lag.seq,
            "lag_seconds": float("inf") if seconds is None else seconds,
            "live": self.is_live,
            "restarts": self.restarts,
            "runs": self.runs,
            "tables": self.tables,
            "table_bytes": self.table_bytes,
            "memtable_bytes": self.memtable_bytes,
            "scans": self.reads.scans,
            "tail_bytes": self.tails.bytes,
            "row_cache_bytes": self.row_cache.bytes,
            "block_cache_admissions": self.block_cache.admissions,
            "block_cache_evictions": self.block_cache.evictions,
            "block_cache_bytes": self.block_cache.bytes,
            **caches.disk_values(self.disk_cache),
            "breaker_open": self.store_breaker_open,
            "store_dollars": self.costs.requests,
            "store_dollars_per_month": self.costs.requests_per_month,
        }

    @property
    def get_tiers(self) -> dict[str, int]:
        """As for a writer."""
        return self.reads.tiers

    @property
    def sampled_gets(self) -> dict[str, int]:
        """As for a writer."""
        return self.reads.sample.tiers

    @property
    def stalls(self) -> StallStatistics:
        """Nothing: a replica holds no writes back."""
        return StallStatistics(0, 0.0, 0, "", 0, 0.0, "", [])

    @property
    def jobs(self) -> list[JobStatistics]:
        """None: a replica merges nothing."""
        return []


def gather(follower: Follower) -> ReplicaStatistics:
    """The statistics of this moment. Never waits for disk or bucket."""
    state, live = follower.tail.manifest.state, follower.live.current
    tables = state.version.tables
    table_bytes = sum(table.size for table in tables)
    prices = Prices(**follower.options.prices)
    requests = costs.store_requests(follower.stores.meter, prices)
    return ReplicaStatistics(
        database_id=state.database_id,
        epoch=state.epoch,
        visible_seq=follower.seq,
        flushed_seq=state.last_seq,
        compared_seq=follower.tail.compared_seq,
        log_digest=follower.tail.mark,
        manifest_number=state.number,
        primary=follower.primary or "",
        is_live=follower.tail.is_live,
        lag=follower.tail.lag.measure(follower.seq),
        restarts=follower.tail.restarts,
        runs=len(state.version.runs),
        tables=len(tables),
        table_bytes=table_bytes,
        table_entries=sum(table.entries for table in tables),
        levels=tree.levels(state.version),
        memtables=len(live.memtables),
        memtable_bytes=sum(memtable.size for memtable in live.memtables),
        reads=caches.reads(follower),
        tails=caches.tails(follower),
        row_cache=caches.row_cache(follower),
        block_cache=caches.block_cache(follower),
        disk_cache=caches.disk_cache(follower),
        store_requests=requests,
        costs=costs.costs(requests, 0, prices),
        store_breaker_open=follower.stores.broken is not None,
    )


def health(follower: Follower, max_lag: float) -> list[HealthCheck]:
    """What a working replica fulfils. Never waits for disk or bucket."""
    tail, broken, lane = follower.tail, follower.stores.broken, follower.lane
    lag = tail.lag.measure(follower.seq)
    behind = "catching up" if lag.seconds is None else f"{lag.seconds:.1f} seconds"
    checks = [
        HealthCheck(
            "bucket",
            ok=broken is None,
            detail=f"unreachable: {broken.last_error}" if broken else "reachable",
        ),
        HealthCheck(
            "follow",
            ok=lane.error is None,
            detail=f"attempt {lane.attempts} failed: {lane.error}" if lane.error else "working",
        ),
        HealthCheck("log", ok=tail.gap is None, detail=str(tail.gap or "without a gap")),
        HealthCheck(
            "lag",
            ok=lag.seconds is not None and lag.seconds <= max_lag,
            detail=f"{behind}, {lag.seq:,} commits; at most {max_lag:g} seconds are allowed",
        ),
    ]
    if follower.primary is not None:
        # No failure: a replica is there to be asked while its primary is away.
        error = follower.live_error
        detail = f"away ({error}): the log comes through the bucket" if error else "live"
        checks.append(HealthCheck("primary", ok=True, detail=detail))
    return checks
