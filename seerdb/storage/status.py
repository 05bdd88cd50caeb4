"""Numbers, status and health of an open database, gathered on request from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from seerdb.storage.admission import StallStatistics
from seerdb.storage.commit import CommitStatistics
from seerdb.storage.compaction.compactor import CompactionStatistics
from seerdb.storage.disk_tier import DiskTierStatistics
from seerdb.storage.flusher import FlushStatistics
from seerdb.storage.object_store.meter import Prices

if TYPE_CHECKING:
    from seerdb.storage.engine import Engine


class FlushReport(msgspec.Struct, frozen=True):
    """What a flush brought about: the seq the tables reach, and the tables that came."""

    last_seq: int
    tables: list[str]


class CompactionReport(msgspec.Struct, frozen=True):
    """The tables that went and those that came."""

    removed: list[str]
    added: list[str]


class HealthCheck(msgspec.Struct, frozen=True):
    """One condition that a working database fulfils."""

    name: str
    ok: bool
    detail: str


class MemtableStatistics(msgspec.Struct, frozen=True):
    """Memory in bytes, overheads counted."""

    active_bytes: int
    active_entries: int
    sealed: int
    sealed_bytes: int


class WalStatistics(msgspec.Struct, frozen=True):
    """The local log. ``bytes``: preallocated for what is not flushed yet."""

    bytes: int
    active_segment: int
    appends: int
    appended_bytes: int
    syncs: int
    sync_seconds: float
    kept_segments: int
    shipped_seq: int


class LevelStatistics(msgspec.Struct, frozen=True, array_like=True):
    """The tables of a level."""

    level: int
    tables: int
    bytes: int


class StoreStatistics(msgspec.Struct, frozen=True, array_like=True):
    """Requests of one purpose and operation since the open."""

    purpose: str
    operation: str
    requests: int
    errors: int
    bytes_in: int
    bytes_out: int
    seconds: float


class CacheStatistics(msgspec.Struct, frozen=True):
    """The block cache; it may be shared by several databases."""

    bytes: int
    capacity: int
    blocks: int
    admissions: int
    evictions: int


class RecoveryStatistics(msgspec.Struct, frozen=True):
    """What the last open found."""

    seconds: float
    segments: int
    records: int
    torn_bytes: int
    shipped_records: int
    damaged: list[str]
    quarantined: list[str]


class WorkerStatistics(msgspec.Struct, frozen=True):
    """A lane: its failed attempts in a row, all failures, and the last error."""

    name: str
    attempts: int
    failures: int
    error: str


class Statistics(msgspec.Struct, frozen=True):
    """Everything there is to know, at one moment."""

    database_id: str
    epoch: int
    visible_seq: int
    flushed_seq: int
    manifest_number: int
    runs: int
    tables: int
    table_bytes: int
    table_entries: int
    levels: list[LevelStatistics]
    memtables: MemtableStatistics
    wal: WalStatistics
    commits: CommitStatistics
    flushes: FlushStatistics
    compactions: CompactionStatistics
    deleted_objects: int
    stalls: StallStatistics
    block_cache: CacheStatistics
    disk_cache: DiskTierStatistics | None
    store_requests: list[StoreStatistics]
    store_dollars: float
    """Price of the requests since the open, at S3 Standard's prices."""
    store_breaker_open: bool
    recovery: RecoveryStatistics
    workers: list[WorkerStatistics]

    def to_builtins(self) -> dict[str, Any]:
        """Plain nested data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["levels"] = [_named(level) for level in self.levels]
        plain["store_requests"] = [_named(row) for row in self.store_requests]
        return plain

    @property
    def values(self) -> dict[str, float]:
        """Single numbers by name, for metrics."""
        disk = self.disk_cache
        failures = {worker.name: worker.failures for worker in self.workers}
        return {
            "visible_seq": self.visible_seq,
            "memtable_bytes": self.memtables.active_bytes,
            "sealed_memtables": self.memtables.sealed,
            "sealed_memtable_bytes": self.memtables.sealed_bytes,
            "wal_bytes": self.wal.bytes,
            "wal_syncs": self.wal.syncs,
            "wal_appended_bytes": self.wal.appended_bytes,
            "wal_sync_seconds": self.wal.sync_seconds,
            "commits": self.commits.commits,
            "commit_groups": self.commits.groups,
            "operations": self.commits.operations,
            "tables": self.tables,
            "table_bytes": self.table_bytes,
            "block_cache_admissions": self.block_cache.admissions,
            "block_cache_evictions": self.block_cache.evictions,
            "block_cache_bytes": self.block_cache.bytes,
            "disk_cache_hits": disk.hits if disk else 0,
            "disk_cache_misses": disk.misses if disk else 0,
            "disk_cache_rejected": disk.rejected if disk else 0,
            "disk_cache_bytes": disk.bytes if disk else 0,
            "flushes": self.flushes.flushes,
            "flush_failures": failures["flush"],
            "compactions": self.compactions.compactions,
            "compaction_failures": failures["compaction"],
            "stalls": self.stalls.stalls,
            "stall_seconds": self.stalls.stalled_seconds,
            "refused_writes": self.stalls.refused,
            "slowdowns": self.stalls.slowdowns,
            "slowed_seconds": self.stalls.slowed_seconds,
            "breaker_open": self.store_breaker_open,
            "store_dollars": self.store_dollars,
            "recovery_seconds": self.recovery.seconds,
            "recovered_batches": self.recovery.records,
            "recovery_truncated_bytes": self.recovery.torn_bytes,
        }


def _named(row: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def gather(engine: Engine) -> Statistics:
    """The statistics of this moment. Never waits for disk or bucket."""
    state, live = engine.manifest.state, engine.live.current
    tables = state.version.tables
    meter = engine.stores.meter
    recovered = engine.opened.event
    return Statistics(
        database_id=state.database_id,
        epoch=state.epoch,
        visible_seq=engine.live.visible_seq,
        flushed_seq=state.last_seq,
        manifest_number=state.number,
        runs=len(state.version.runs),
        tables=len(tables),
        table_bytes=sum(table.size for table in tables),
        table_entries=sum(table.entries for table in tables),
        levels=_levels(engine),
        memtables=MemtableStatistics(
            active_bytes=live.active.size,
            active_entries=len(live.active.entries),
            sealed=len(live.sealed),
            sealed_bytes=sum(memtable.size for memtable in live.sealed),
        ),
        wal=_wal(engine),
        commits=engine.committer.statistics(),
        flushes=engine.flusher.statistics,
        compactions=engine.compactor.statistics,
        deleted_objects=engine.background.deleted_objects,
        stalls=engine.admission.statistics(),
        block_cache=_cache(engine),
        disk_cache=engine.disk.statistics() if engine.disk else None,
        store_requests=[
            StoreStatistics(
                row.purpose.value,
                row.operation.value,
                row.requests,
                row.errors,
                row.bytes_in,
                row.bytes_out,
                row.seconds,
            )
            for row in meter.statistics()
        ],
        store_dollars=meter.dollars(Prices()),
        store_breaker_open=engine.stores.breaker.is_open,
        recovery=RecoveryStatistics(
            seconds=recovered.seconds,
            segments=recovered.segments,
            records=recovered.records,
            torn_bytes=recovered.torn_bytes,
            shipped_records=recovered.shipped_records,
            damaged=recovered.damaged,
            quarantined=recovered.quarantined,
        ),
        workers=[
            WorkerStatistics(
                lane.name, lane.attempts, lane.failures, str(lane.error) if lane.error else ""
            )
            for lane in engine.background.lanes
        ],
    )


def _levels(engine: Engine) -> list[LevelStatistics]:
    levels: dict[int, list[int]] = {}
    for table in engine.manifest.state.version.tables:
        levels.setdefault(table.level, []).append(table.size)
    return [LevelStatistics(level, len(s), sum(s)) for level, s in sorted(levels.items())]


def _wal(engine: Engine) -> WalStatistics:
    log = engine.log.statistics()
    return WalStatistics(
        bytes=engine.gauges.wal_bytes,
        active_segment=engine.log.segment,
        appends=log.appends,
        appended_bytes=log.bytes,
        syncs=log.syncs,
        sync_seconds=log.sync_seconds,
        kept_segments=engine.retention.kept,
        shipped_seq=engine.shipper.shipped_seq,
    )


def _cache(engine: Engine) -> CacheStatistics:
    cache = engine.runtime.cache.statistics()
    return CacheStatistics(
        bytes=cache.bytes,
        capacity=cache.capacity,
        blocks=cache.entries,
        admissions=cache.admissions,
        evictions=cache.evictions,
    )


def health(engine: Engine) -> list[HealthCheck]:
    """What a working database fulfils. Never waits for disk or bucket."""
    cause, stalls = engine.poison.cause, engine.admission.statistics()
    checks = [
        HealthCheck("writes", cause is None, str(engine.poison.error()) if cause else "taken"),
        HealthCheck(
            "backpressure", ok=not stalls.reason, detail=stalls.reason or stalls.slowed or "none"
        ),
        _store_health(engine),
    ]
    for lane in engine.background.lanes:
        detail = f"attempt {lane.attempts} failed: {lane.error}" if lane.error else "working"
        checks.append(HealthCheck(lane.name, lane.error is None, detail))
    return checks


def _store_health(engine: Engine) -> HealthCheck:
    breaker = engine.stores.breaker
    if not breaker.is_open:
        return HealthCheck("bucket", ok=True, detail="reachable")
    left = engine.options.wal_budget - engine.gauges.wal_bytes
    return HealthCheck(
        "bucket",
        ok=False,
        detail=f"degraded: {breaker.last_error}; writes go on for {max(left, 0):,} bytes more",
    )
