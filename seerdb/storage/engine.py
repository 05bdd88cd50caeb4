"""An open database: wiring and lifecycle; no format, no policy.

Opening has made a consistent start (``opening.py``); this puts the parts together, starts the
lanes, and takes them down again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import NoReturn

from seerdb.errors import ClosedError, DiskError, FencedError, SeerDBError
from seerdb.events import WorkFailed
from seerdb.options import Options
from seerdb.storage.admission import Admission
from seerdb.storage.background import Background
from seerdb.storage.batch import Batch
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.cluster import MOST_AT_ONCE
from seerdb.storage.commit import Committer
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.compaction.load import OperationCounts, RecentLoad
from seerdb.storage.compaction.planner import Planner
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.compaction.work import Limits
from seerdb.storage.disk_tier import DiskTier, discard, open_tier
from seerdb.storage.flush import TableFormat
from seerdb.storage.flusher import Flusher
from seerdb.storage.garbage import COLLECT_EVERY, GarbageCollector
from seerdb.storage.gauges import Gauges
from seerdb.storage.heat import load_heat, save_heat
from seerdb.storage.ingest import Ingester, IngestReport
from seerdb.storage.jobs import JobRunner, LocalRunner, ProcessRunner
from seerdb.storage.lanes import Lane
from seerdb.storage.layout import Layout
from seerdb.storage.lease.watch import Bid
from seerdb.storage.loans import GivingBack
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.opening import Opened, open_database
from seerdb.storage.outputs import GRACE_SECONDS, TableOutputs
from seerdb.storage.outward import check_may_wait
from seerdb.storage.pace import Pace, at_full_speed
from seerdb.storage.patience import Patience
from seerdb.storage.pinning import Pins
from seerdb.storage.poison import Poison
from seerdb.storage.publish import Publisher
from seerdb.storage.reads import Reads
from seerdb.storage.remote_jobs import DaskRunner, require_shared
from seerdb.storage.request import OBJECT, Sink, Submission, check_expectation
from seerdb.storage.retention import SegmentRetention
from seerdb.storage.runtime import Components, Runtime
from seerdb.storage.sampling import GetSampler
from seerdb.storage.shipping import Shipping
from seerdb.storage.sorting import ScratchDirectory
from seerdb.storage.state import LiveState, State
from seerdb.storage.surroundings import Surroundings
from seerdb.storage.table_store import TableStore
from seerdb.storage.value import SECOND_US
from seerdb.storage.verify import LocalLog, VerifyReport, verify_open
from seerdb.storage.warming import Interest
from seerdb.storage.warmup import WarmUp
from seerdb.storage.workers import Thread

LOOK_SECONDS = 60.0
"""How often it is looked for what reads alone or the time that passes make due, which wake nobody:
by the adaptive policy, and where values expire."""


class Engine:
    """One open database. Thread-safe, except that ``close`` is for one thread."""

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
        self._inbox_thread: Thread | None = None
        self._start_lock = Lock()
        self._closed = False
        self.patience = Patience(
            opened.stores, self.runtime, components.listener, owns=self._owns_runtime
        )
        self.stores, self.manifest, self.log = opened.stores, opened.manifest, opened.log
        try:
            self._wire_reads(opened)
            self._wire_background(opened)
            self._wire_writes(opened)
            components.listener(self.opened.event)
            self._start()
        except BaseException:
            self._give_up(opened)
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

    def _give_up(self, opened: Opened) -> None:
        """Hold nothing after an opening that failed."""
        if opened.keeper is not None:
            opened.keeper.stop()
        opened.log.close()
        if self._owns_runtime:
            self.runtime.close()
        opened.stores.close()
        opened.lock.release()

    def _wire_reads(self, opened: Opened) -> None:
        self._cache_directory = f"{opened.directory}/cache"
        self.disk = self._open_disk_tier(self._cache_directory)
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

    def _open_disk_tier(self, directory: str) -> DiskTier | None:
        files, capacity = self.components.files, self.options.disk_cache_capacity
        try:
            # A bucket on this disk gains nothing from copies beside it.
            if capacity and ((at := self.stores.location) is None or at.directory is None):
                return open_tier(files, directory, capacity, self.manifest.state.database_id)
            discard(files, directory)
        except DiskError as error:
            self.components.listener(WorkFailed("discard the disk cache", str(error), 1, 0.0))
        return None

    def _wire_background(self, opened: Opened) -> None:
        components, options = self.components, self.options
        clock, listener = components.clock, components.listener
        self.outputs = outputs = TableOutputs(self.manifest.epoch, clock)
        self.publisher = publisher = Publisher(
            self.live, self.manifest, self.tables, self.pins, self._pace_for
        )
        self.runner = runner = self._job_runner()
        self._remote = self._remote_runner()
        self.table_format = table_format = self._table_format(opened)
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
        merger = self._remote or self.runner
        return Compactor(
            self.publisher,
            self.outputs,
            merger,
            planner=Planner(
                POLICIES[options.compaction],
                PolicyOptions.of(options, has_merges=opened.operator is not None, loans=loans),
                RecentLoad(self._operations, self.components.clock),
                lambda: opened.clock.now_us() // SECOND_US,
            ),
            limits=Limits(
                at_once=lambda: merger.at_once,
                requests=self.runtime.workers.job_requests,
                rate=options.compaction_rate,
                rates_are_fixed=self._remote is not None,
            ),
            table_format=self.table_format,
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

    def _table_format(self, opened: Opened) -> TableFormat:
        options = self.options
        return TableFormat(
            block_size=options.block_size,
            compression=options.compression,
            filter_bits_per_key=options.filter_bits_per_key,
            filter_prefix=options.filter_prefix,
            index=options.index,
            operator=opened.operator,
            blob_threshold=options.blob_threshold,
        )

    def _wire_writes(self, opened: Opened) -> None:
        components, options = self.components, self.options
        lanes = self.background.flush, self.background.compaction, self.background.ship
        self.gauges = Gauges(
            self.live, lanes, self.retention, components.files, opened.directory, options
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

    def _remote_runner(self) -> DaskRunner | None:
        stores, cluster = self.stores, self.runtime.cluster
        if cluster is None or stores.location is None:
            return None
        return DaskRunner(cluster, stores.location, stores.meter, stores.of)

    def _start(self) -> None:
        self.retention.flushed(self.opened.recovery.release)
        self.background.log.wake()
        self.background.flush.wake()
        self.background.compaction.wake()
        telling = partial(self.background.telling_of_the_fence, "ship")
        self.shipping.attach(self.background.ship, self.committer.position, telling)
        self.background.begin_warm_up()
        if not self.runtime.workers.is_inline:
            self._look_later()

    def _look_later(self) -> None:
        self.runtime.workers.timer.call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if not self._closed:
            if self.options.compaction == "adaptive" or self.publisher.expires:
                self.background.compaction.wake()
            self._look_later()

    # What the handle needs.

    def commit(self, batch: Batch, level: int, expect: tuple[bytes, int] | None = None) -> int:
        """Commit and wait until durable as ``level`` says; see :meth:`Committer.commit`."""
        self.check_open()
        if expect is not None:
            check_expectation(expect)
            # So that the check, for which all other writers wait, finds it in memory.
            self.reads.seq_of(expect[0])
        seq = self.committer.commit(batch, level, expect)
        if level == OBJECT:
            self.shipper.ship(seq)
        return seq

    def submit(
        self, submissions: Iterable[Submission], level: int, sink: Sink
    ) -> list[tuple[object, SeerDBError]]:
        """Commit without waiting; see :meth:`Pipeline.submit`."""
        self.check_open()
        if self._inbox_thread is None:
            self._serve_inbox()
        return self.committer.pipeline.submit(submissions, level, sink)

    def _serve_inbox(self) -> None:
        with self._start_lock:
            self.check_open()
            if self._inbox_thread is None:
                self._inbox_thread = self.runtime.workers.start_loop(
                    self.committer.pipeline.serve, "seerdb-commit"
                )

    def flush(self) -> int:
        """Bring everything committed so far into tables; returns the seq they reach.

        Raises: what made the flush fail, after its first failed attempt.
        """
        check_may_wait("a flush")
        self.check_open()
        self.flushed(self.committer.rotate())
        return self.manifest.state.last_seq

    def flush_and_ship(self) -> None:
        """As :meth:`flush`, and bring the log up to there into the bucket, if it is shipped."""
        self.shipper.finish(self.flush())

    def flushed(self, seq: int) -> None:
        """Wait until tables that reads know hold everything up to ``seq``, which is sealed."""
        self._wait(self.background.flush, lambda: self.flusher.has_reached(seq))

    def ingest(self, pairs: Iterable[tuple[bytes, bytes]]) -> IngestReport:
        """Show all pairs at once, in tables of their own; see :meth:`Ingester.ingest`."""
        check_may_wait("an ingest")
        self.check_open()
        self.poison.check()
        with self.background.telling_of_the_fence("ingest"):
            report = self.ingester.ingest(pairs)
        self.background.compaction.wake()
        self.background.begin_warm_up()
        return report

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> None:
        """Flush, then merge everything that lies in ``[start, end)``, without bounds into one run.

        Raises: what makes it fail, or what it waits for, though it is tried again by itself.
        """
        self.flush()
        request, lane = self.compactor.ask(start, end), self.background.compaction
        lane.wake_and_outwait(lambda: request.is_over, lambda: self.compactor.is_paused)
        if not request.is_done:
            self._raise_for(lane, request.error)

    def verify(self) -> VerifyReport:
        """Check the current version and the log; see ``verify.py``."""
        log = LocalLog(self.components.files, f"{self.opened.directory}/wal")
        store = self.stores.of(Purpose.VERIFY)
        return verify_open(store, self.live, log, self.manifest.state.log_start)

    def _wait(self, lane: Lane, done: Callable[[], bool]) -> None:
        if not lane.wake_and_wait(done):
            self._raise_for(lane, lane.last_failure)

    def _raise_for(self, lane: Lane, failure: BaseException | None) -> NoReturn:
        self.poison.check()
        raise lane.why(failure)

    def check_open(self) -> None:
        """Raise ``ClosedError`` when it is closed."""
        if self._closed:
            raise ClosedError("the database is closed; open it again")

    def begin_closing(self, patience: float | None = None) -> None:
        """See :meth:`seerdb.DB.begin_closing`."""
        if patience is not None:
            self.patience.begin(patience)
        self.background.begin_closing(self.compactor.cancel)
        if self._remote is not None:
            self._remote.close()

    def close(self) -> None:
        """Flush, leave a checkpoint and release everything; merges are cancelled. Idempotent.

        When the bucket cannot be reached the log keeps what is not flushed; nothing is lost.
        """
        if self._closed:
            return
        self.begin_closing()
        try:
            if self.poison.cause is None:
                self._close_cleanly()
        finally:
            with self._start_lock:
                self._closed = True
            self._release()

    def _close_cleanly(self) -> None:
        self.publisher.warms = False
        try:
            self.flush()
            self.shipper.finish()
            self.retention.let_go()
            self.background.flush.close()
            self.background.compaction.close()
            self.manifest.checkpoint()
            if heat := self.warm_up.heat():
                save_heat(self.components.files, self._cache_directory, heat)
        except FencedError as error:
            self.background.failed("close", error, 1, 0)
        except SeerDBError as error:
            self.components.listener(WorkFailed("close", str(error), 1, 0.0))
            self.committer.position()

    def _release(self) -> None:
        self.poison.set(ClosedError("the database is closed; open it again"))
        if self._inbox_thread is not None:
            self.committer.pipeline.stop()
            self._inbox_thread.join()
        self.background.close()
        self.shipper.close()
        self.log.close()
        if self.disk is not None:
            self.disk.close()
        if self._owns_runtime:
            self.runtime.close()
        self.stores.close()
        self.opened.lock.release()
        self.patience.end()
