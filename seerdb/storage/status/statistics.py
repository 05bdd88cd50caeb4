"""Everything an open database counts, gathered on request from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from seerdb.storage.compaction.work import CompactionStatistics, JobStatistics
from seerdb.storage.drill.schedule import DrillStatistics
from seerdb.storage.flush.flusher import FlushStatistics
from seerdb.storage.ingest.run import IngestStatistics
from seerdb.storage.lease.takeover import Takeover
from seerdb.storage.object_store.meter import Prices
from seerdb.storage.replication.running import Mark
from seerdb.storage.shipping.shipper import ShipStatistics
from seerdb.storage.status import caches, costs, tree
from seerdb.storage.tiers.disk_tier import DiskTierStatistics
from seerdb.storage.write.admission import StallStatistics
from seerdb.storage.write.request import CommitStatistics

if TYPE_CHECKING:
    from seerdb.storage.engine.engine import Engine


class MemtableStatistics(msgspec.Struct, frozen=True):
    """Memory in bytes, overheads counted."""

    active_bytes: int
    active_entries: int
    sealed: int
    sealed_bytes: int


class WalStatistics(msgspec.Struct, frozen=True):
    """The local log. ``bytes``: preallocated for what is not flushed yet; ``appends``: groups of
    commits that were written."""

    bytes: int
    active_segment: int
    appends: int
    appended_bytes: int
    syncs: int
    sync_seconds: float
    kept_segments: int
    unshipped_segments: int
    """Of the kept: those that are flushed and still to be shipped."""


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
    levels: list[tree.LevelStatistics]
    blobs: tree.BlobStatistics
    amplifications: tree.AmplificationStatistics
    memtables: MemtableStatistics
    wal: WalStatistics
    log_digest: Mark | None
    """The digest of the newest segment of the log that some replica was told last, live; ``None``
    where none follows."""
    shipping: ShipStatistics
    commits: CommitStatistics
    flushes: FlushStatistics
    compactions: CompactionStatistics
    compaction_shape: str
    jobs: list[JobStatistics]
    ingests: IngestStatistics
    deleted_objects: int
    drills: DrillStatistics
    stalls: StallStatistics
    reads: caches.ReadStatistics
    tails: caches.TailStatistics
    row_cache: caches.RowCacheStatistics
    block_cache: caches.CacheStatistics
    disk_cache: DiskTierStatistics | None
    store_requests: list[costs.StoreStatistics]
    costs: costs.CostStatistics
    store_breaker_open: bool
    recovery: RecoveryStatistics
    takeover: Takeover
    workers: list[WorkerStatistics]

    def to_builtins(self) -> dict[str, Any]:
        """Plain nested data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["levels"] = [_named(level) for level in self.levels]
        plain["store_requests"] = [_named(row) for row in self.store_requests]
        return plain

    @property
    def get_tiers(self) -> dict[str, int]:
        """Gets that reached the tables, by the tier that had what they needed."""
        return self.reads.tiers

    @property
    def sampled_gets(self) -> dict[str, int]:
        """Gets of the sample, by the tier that answered."""
        return self.reads.sample.tiers

    @property
    def values(self) -> dict[str, float]:
        """Single numbers by name, for metrics."""
        failures = {worker.name: worker.failures for worker in self.workers}
        return {
            "visible_seq": self.visible_seq,
            "user_bytes": self.amplifications.user_bytes,
            "written_bytes": self.amplifications.written_bytes,
            "live_bytes": self.amplifications.live_bytes,
            "write_amplification": self.amplifications.write,
            "space_amplification": self.amplifications.space,
            "runs": self.runs,
            "scans": self.reads.scans,
            "blocks_per_get": self.amplifications.blocks_per_get,
            "tail_bytes": self.tails.bytes,
            "row_cache_bytes": self.row_cache.bytes,
            "memtable_bytes": self.memtables.active_bytes,
            "sealed_memtables": self.memtables.sealed,
            "sealed_memtable_bytes": self.memtables.sealed_bytes,
            "wal_bytes": self.wal.bytes,
            "wal_syncs": self.wal.syncs,
            "wal_appended_bytes": self.wal.appended_bytes,
            "wal_sync_seconds": self.wal.sync_seconds,
            "shipped_seq": self.shipping.shipped_seq,
            "shipped_objects": self.shipping.objects,
            "shipped_bytes": self.shipping.bytes,
            "ship_failures": failures["ship"],
            "unshipped_seq": self.shipping.unshipped_seq,
            "unshipped_seconds": self.shipping.unshipped_seconds,
            "commits": self.commits.commits,
            "commit_groups": self.commits.groups,
            "operations": self.commits.operations,
            "tables": self.tables,
            "table_bytes": self.table_bytes,
            "blobs": self.blobs.blobs,
            "blob_bytes": self.blobs.bytes,
            "blob_live_bytes": self.blobs.live_bytes,
            "block_cache_admissions": self.block_cache.admissions,
            "block_cache_evictions": self.block_cache.evictions,
            "block_cache_bytes": self.block_cache.bytes,
            **caches.disk_values(self.disk_cache),
            "flushes": self.flushes.flushes,
            "unproved_flushes": self.flushes.unproved,
            "flush_failures": failures["flush"],
            "compactions": self.compactions.compactions,
            "ingests": self.ingests.ingests,
            "compaction_failures": failures["compaction"],
            "stalls": self.stalls.stalls,
            "stall_seconds": self.stalls.stalled_seconds,
            "refused_writes": self.stalls.refused,
            "slowdowns": self.stalls.slowdowns,
            "slowed_seconds": self.stalls.slowed_seconds,
            "breaker_open": self.store_breaker_open,
            "store_dollars": self.costs.requests,
            "store_dollars_per_month": self.costs.requests_per_month,
            "storage_dollars_per_month": self.costs.storage_per_month,
            "recovery_seconds": self.recovery.seconds,
            "recovered_batches": self.recovery.records,
            "recovery_truncated_bytes": self.recovery.torn_bytes,
        } | self.drills.values


def _named(row: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def gather(engine: Engine) -> Statistics:
    """The statistics of this moment. Never waits for disk or bucket."""
    state, live = engine.manifest.state, engine.live.current
    tables = state.version.tables
    table_bytes = sum(table.size for table in tables)
    blobs = tree.blobs(state.version)
    prices = Prices(**engine.options.prices)
    requests = costs.store_requests(engine.stores.meter, prices)
    return Statistics(
        database_id=state.database_id,
        epoch=state.epoch,
        visible_seq=engine.live.visible_seq,
        flushed_seq=state.last_seq,
        manifest_number=state.number,
        runs=len(state.version.runs),
        tables=len(tables),
        table_bytes=table_bytes,
        table_entries=sum(table.entries for table in tables),
        levels=tree.levels(state.version),
        blobs=blobs,
        amplifications=_amplifications(engine, table_bytes + blobs.bytes),
        memtables=MemtableStatistics(
            active_bytes=live.active.size,
            active_entries=len(live.active.newest),
            sealed=len(live.sealed),
            sealed_bytes=sum(memtable.size for memtable in live.sealed),
        ),
        wal=_wal(engine),
        log_digest=None,
        shipping=engine.shipper.statistics(engine.live.visible_seq),
        commits=engine.committer.statistics(),
        flushes=engine.flusher.statistics,
        compactions=engine.compactor.statistics,
        compaction_shape=_shape(engine),
        jobs=engine.compactor.jobs(),
        ingests=engine.ingester.statistics,
        deleted_objects=engine.background.deleted_objects,
        drills=DrillStatistics(),
        stalls=engine.admission.statistics(),
        reads=caches.reads(engine),
        tails=caches.tails(engine),
        row_cache=caches.row_cache(engine),
        block_cache=caches.block_cache(engine),
        disk_cache=caches.disk_cache(engine),
        store_requests=requests,
        costs=costs.costs(requests, table_bytes + blobs.bytes, prices),
        store_breaker_open=engine.stores.broken is not None,
        recovery=_recovery(engine),
        takeover=engine.opened.takeover,
        workers=[
            WorkerStatistics(
                lane.name, lane.attempts, lane.failures, str(lane.error) if lane.error else ""
            )
            for lane in engine.background.lanes
        ],
    )


def _recovery(engine: Engine) -> RecoveryStatistics:
    recovered = engine.opened.event
    return RecoveryStatistics(
        seconds=recovered.seconds,
        segments=recovered.segments,
        records=recovered.records,
        torn_bytes=recovered.torn_bytes,
        shipped_records=recovered.shipped_records,
        damaged=recovered.damaged,
        quarantined=recovered.quarantined,
    )


def _shape(engine: Engine) -> str:
    setting = engine.options.compaction
    return engine.compactor.shape if setting == "adaptive" else setting


def _amplifications(engine: Engine, kept_bytes: int) -> tree.AmplificationStatistics:
    version, ingests = engine.manifest.state.version, engine.ingester.statistics
    user = engine.committer.statistics().user_bytes + ingests.user_bytes
    compacted = engine.compactor.statistics.bytes_written
    written = engine.flusher.statistics.bytes + compacted + ingests.bytes
    live = tree.live_bytes(version)
    return tree.AmplificationStatistics(
        user_bytes=user,
        written_bytes=written,
        write=tree.ratio(written, user),
        live_bytes=live,
        space=tree.ratio(kept_bytes, live),
        runs=len(version.runs),
        blocks_per_get=tree.ratio(engine.tables.blocks_fetched, engine.reads.table_gets),
    )


def _wal(engine: Engine) -> WalStatistics:
    log = engine.log.statistics()
    return WalStatistics(
        bytes=engine.gauges.wal_bytes,
        active_segment=engine.log.segment,
        appends=engine.committer.statistics().groups,
        appended_bytes=log.bytes,
        syncs=log.syncs,
        sync_seconds=log.sync_seconds,
        kept_segments=engine.retention.kept,
        unshipped_segments=engine.retention.count_unshipped(),
    )
