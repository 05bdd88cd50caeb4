"""The parts of an open database, put together: which stands on which, with what settings.

No format and no policy; the engine starts the parts, and ends them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn

from seerdb.options import Options
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.compaction.load import OperationCounts, RecentLoad
from seerdb.storage.compaction.parts import PartMerger
from seerdb.storage.compaction.planner import Planner
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.compaction.work import Limits
from seerdb.storage.engine.background import Background
from seerdb.storage.engine.patience import Patience
from seerdb.storage.engine.shipping import Shipping
from seerdb.storage.engine.surroundings import Surroundings
from seerdb.storage.flush.flusher import Flusher
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import TableFormat
from seerdb.storage.ingest.run import Ingester
from seerdb.storage.ingest.sorting import ScratchDirectory
from seerdb.storage.jobs.remote import DaskRunner, require_shared
from seerdb.storage.jobs.runners import JobRunner, LocalRunner, ProcessRunner
from seerdb.storage.lease.watch import Bid
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.opening.steps import Opened, open_database
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.reads import Reads
from seerdb.storage.read.sampling import GetSampler
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.read.warmup import WarmUp
from seerdb.storage.retention.garbage import COLLECT_EVERY, GarbageCollector
from seerdb.storage.retention.loans import GivingBack
from seerdb.storage.retention.outputs import GRACE_SECONDS, TableOutputs
from seerdb.storage.retention.segments import SegmentRetention
from seerdb.storage.runtime import Components, Runtime
from seerdb.storage.tiers.disk_tier import DiskTier, tier_for
from seerdb.storage.tiers.heat import load_heat
from seerdb.storage.tiers.pinning import Pins
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.tiers.warming import Interest
from seerdb.storage.value import SECOND_US
from seerdb.storage.workers.cluster import MOST_AT_ONCE
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.pace import Pace, at_full_speed
from seerdb.storage.write.admission import Admission
from seerdb.storage.write.commit import Committer
from seerdb.storage.write.gauges import Gauges
from seerdb.storage.write.poison import Poison


class Assembly:
    """What an open database is made of."""

    def __init__(
        self, path: str, options: Options, components: Components, bid: Bid | None = None
    ) -> None:
        self.options = options
        self.components = components
        self._owns_runtime = components.runtime is None
        self.runtime = components.runtime or Runtime(
            background=options.background,
            block_cache_capacity=options.block_cache_capacity,
            clock=components.clock,
        )
        self.opened = opened = self._open(components.files.absolute(path), bid or Bid())
        self.poison = Poison()
        self.patience = Patience(
            opened.stores, self.runtime, components.listener, owns=self._owns_runtime
        )
        self.stores, self.manifest, self.log = opened.stores, opened.manifest, opened.log
        self.disk: DiskTier | None = None
        try:
            self._wire_reads(opened)
            self._wire_background(opened)
            self._wire_writes(opened)
        except BaseException:
            self._give_up()
            raise

    def _open(self, path: str, bid: Bid) -> Opened:
        try:
            if self.runtime.cluster is not None:
                require_shared(self.options.store, self.components.object_store)
            return open_database(path, self.options, self.components, self.runtime.workers, bid)
        except BaseException:
            if self._owns_runtime:
                self.runtime.close()
            raise

    def _give_up(self) -> None:
        """Hold nothing after an opening that failed. Requires: no lane is at work."""
        if self.opened.keeper is not None:
            self.opened.keeper.stop()
        self._let_go()

    def _let_go(self) -> None:
        """Release everything, also what is left when one of its parts raises. Requires: no lane is
        at work."""
        with ExitStack() as held:  # what was taken last goes first
            held.callback(self.patience.end)
            held.callback(self.opened.lock.release)
            held.callback(self.opened.stores.close)
            if self._owns_runtime:
                held.callback(self.runtime.close)
            if self.disk is not None:
                held.callback(self.disk.close)
            held.callback(self.opened.log.close)

    def _wire_reads(self, opened: Opened) -> None:
        self._cache_directory = f"{opened.directory}/cache"
        location = self.stores.location
        self.disk = tier_for(
            self.components.files,
            self._cache_directory,
            self.manifest.state.database_id,
            self.options,
            beside_bucket=location is not None and location.directory is not None,
            listener=self.components.listener,
        )
        self.tables = TableStore(
            self.stores.of(Purpose.READ),
            cache=self.runtime.cache,
            disk=self.disk,
            fetchers=self.runtime.workers.fetchers,
        )
        self.pins = Pins(self.tables, self.disk, self.options.pin_levels)
        version = self.manifest.state.version
        if self.disk is not None:
            self.disk.retain({table.id for table in version.tables})
        self.pins.follow(version)
        rows = self.runtime.new_row_cache()
        layout = Layout(version, self.tables, rows)
        sealed = tuple(reversed(opened.recovery.memtables))
        self.live = LiveState(
            State(Memtable([opened.next_segment], opened.operator), sealed, layout),
            opened.recovery.last_seq,
        )
        blobs = BlobReader(self.stores.of(Purpose.READ), self.runtime.workers.fetchers)
        self.reads = Reads(self.live, self.tables, blobs, opened.clock, opened.operator)
        self.sampler = GetSampler(self.live, self.reads.try_get)
        heat = load_heat(self.components.files, self._cache_directory)
        self.warm_up = WarmUp(
            self.live, self.tables, self.pins, heat, memory=self.runtime.cache.capacity
        )

    def _wire_background(self, opened: Opened) -> None:
        components, options = self.components, self.options
        clock, listener = components.clock, components.listener
        self.outputs = outputs = TableOutputs(self.manifest.epoch, clock)
        self.publisher = publisher = Publisher(
            self.live, self.manifest, self.tables, self.pins, self._pace_for
        )
        self.runner = runner = self._job_runner()
        self._remote = self._remote_runner()
        self.table_format = table_format = TableFormat.of(options, opened.operator)
        interest = Interest(lambda: self.reads.table_gets + self.reads.scans)
        self.flusher = Flusher(
            self.live,
            publisher,
            outputs,
            runner,
            wal_directory=f"{opened.directory}/wal",
            table_format=table_format,
            clock=clock,
            listener=listener,
            # In a hurry only if somebody reads.
            is_worth_warming=lambda: interest.is_fresh() or not self.gauges.flush_is_behind(),
        )
        self.compactor = self._compactor(opened)
        self.collector = collector = GarbageCollector(
            self.stores.own(Purpose.GARBAGE),
            self.manifest,
            clock=clock,
            grace_seconds=GRACE_SECONDS,
            retention=options.history_retention,
            give_back=GivingBack(self.stores, self.manifest.state),
            first_new=outputs.first_new,
        )
        self.background = Background(self.runtime.workers, self.poison, listener)
        self._wire_log(opened)
        self.background.add_flush(self.flusher, self.retention)
        slots = MOST_AT_ONCE if self._remote is not None else runner.at_once
        self.background.add_compaction(self.compactor, slots)
        at_once = self.manifest.epoch % COLLECT_EVERY == 0
        kept_for = options.history_retention + GRACE_SECONDS
        self.background.add_garbage(collector, outputs, self.tables, kept_for, at_once=at_once)
        self.background.add_warm_up(self.warm_up)

    def _compactor(self, opened: Opened) -> Compactor:
        options, loans = self.options, self.manifest.state.loans
        runner = self._merges_in()
        merger = PartMerger(
            self.publisher,
            self.outputs,
            runner,
            table_format=self.table_format,
            requests=self.runtime.workers.job_requests,
            clock=opened.clock,
        )
        return Compactor(
            self.publisher,
            self.outputs,
            merger,
            planner=Planner(
                POLICIES[options.compaction],
                PolicyOptions.of(options, has_merges=opened.operator is not None, loans=loans),
                RecentLoad(self._operations, self.components.clock),
                lambda: opened.clock.now_us() // SECOND_US,
                self.tables.known_reader,
            ),
            limits=Limits(
                at_once=lambda: runner.at_once,
                rate=options.compaction_rate,
                rates_are_fixed=self._remote is not None,
            ),
            clock=opened.clock,
            listener=self.components.listener,
        )

    def _wire_log(self, opened: Opened) -> None:
        files, options = self.components.files, self.options
        store, workers = self.stores.of(Purpose.WAL), self.runtime.workers
        self.shipping = Shipping(store, files, opened, workers, options.ship_interval)
        self.shipper, backlog = self.shipping.shipper, self.shipping.backlog
        self.retention = SegmentRetention(
            self.log.pool, options.wal_retention, self.components.clock, backlog
        )
        self.background.add_ship(self.shipper, self.retention)

    def _wire_writes(self, opened: Opened) -> None:
        components, options = self.components, self.options
        lanes = self.background.flush, self.background.compaction, self.background.ship
        self.gauges = Gauges(
            self.live,
            lanes,
            self.retention,
            components.files,
            opened.directory,
            options,
            merging_elsewhere=(None if self._merges_in().shares_memory else self.compactor.merging),
        )
        self.admission = Admission(
            self.gauges,
            memtable_capacity=options.memtable_capacity,
            clock=components.clock,
            listener=components.listener,
            is_closing=lambda: self.background.is_closing,
        )
        self.committer = Committer(
            self.live,
            self.log,
            Surroundings(
                self.live,
                self.reads,
                self.admission,
                self.shipping,
                self.background,
                self.runtime.workers,
                components.listener,
            ),
            clock=opened.clock,
            poison=self.poison,
            memtable_capacity=options.memtable_capacity,
            sync_interval=options.sync_interval,
            lease=opened.keeper,
        )
        self.background.add_log(self.committer.head.prepare_next, self.committer.syncs.ahead)
        self.background.add_lease(opened.keeper, self.live, self.shipper)
        self.ingester = Ingester(
            self.committer,
            self.publisher,
            self.outputs,
            self.runner,
            ScratchDirectory(components.files, f"{opened.directory}/ingest"),
            table_format=self.table_format,
            requests=self.runtime.workers.job_requests,
            flushed=self.flushed,
            check_disk=self.admission.check_disk,
        )

    def _operations(self) -> OperationCounts:
        return OperationCounts(
            self.flusher.statistics.entries, self.reads.table_gets, self.reads.scans
        )

    def _job_runner(self) -> JobRunner:
        components, workers = self.components, self.runtime.workers
        location, meter = self.stores.location, self.stores.meter
        here = LocalRunner(
            components.files, self.stores.of, self._pace_for, components.clock, workers.flushes
        )
        if workers.background == "process" and location is not None:
            return ProcessRunner(workers, location, meter, self._is_urgent, here)
        return here

    def _is_urgent(self, purpose: Purpose) -> bool:
        return self.gauges.is_urgent(purpose)

    def _pace_for(self, purpose: Purpose) -> Pace:
        if self.runtime.workers.is_inline or purpose is Purpose.INGEST:
            return at_full_speed
        return self.gauges.pace_for(purpose, self.components.clock)

    def _merges_in(self) -> JobRunner:
        return self._remote or self.runner

    def _remote_runner(self) -> DaskRunner | None:
        stores, cluster = self.stores, self.runtime.cluster
        if cluster is None or stores.location is None:
            return None
        return DaskRunner(cluster, stores.location, stores.meter, stores.of)

    def flushed(self, seq: int) -> None:
        """Wait until tables that reads know hold everything up to ``seq``, which is sealed."""
        self._wait(self.background.flush, lambda: self.flusher.has_reached(seq))

    def _wait(self, lane: Lane, done: Callable[[], bool]) -> None:
        if not lane.wake_and_wait(done):
            self._raise_for(lane, lane.last_failure)

    def _raise_for(self, lane: Lane, failure: BaseException | None) -> NoReturn:
        self.poison.check()
        raise lane.why(failure)
