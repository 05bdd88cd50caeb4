"""A database that somebody else writes, followed: wiring and life cycle; no format, no policy.

A follower claims nothing and writes nothing to the bucket. Its directory, if it has one, holds a
lock and the disk cache.
"""

from __future__ import annotations

from contextlib import ExitStack

from seerdb.clock import ForwardClock
from seerdb.errors import (
    ClosedError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    UnavailableError,
)
from seerdb.events import WorkFailed
from seerdb.options import Options, without_user
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.engine.patience import Patience
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.stores import Openings, Stores
from seerdb.storage.operators import find_operator
from seerdb.storage.outward import check_may_wait
from seerdb.storage.read.reads import Reads
from seerdb.storage.read.sampling import GetSampler
from seerdb.storage.replication.collected import CollectedStore
from seerdb.storage.replication.contents import Contents, gap
from seerdb.storage.replication.format import Heartbeat, Hello
from seerdb.storage.replication.lag import Lag
from seerdb.storage.replication.looks import Looks
from seerdb.storage.replication.manifest_tail import ManifestTail
from seerdb.storage.replication.running import Mark
from seerdb.storage.replication.shipped import Piece, ShippedLog
from seerdb.storage.replication.tail import Tail
from seerdb.storage.retention.loans import open_for_reading
from seerdb.storage.runtime import Components, Runtime
from seerdb.storage.tiers.disk_tier import DiskTier, tier_for
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.threads import Thread

LOOK_SECONDS, SHORTEST_LOOK_SECONDS = 1.0, 0.1
"""Between two looks into the bucket, while nothing comes or the log comes live: the interval in
which the writer ships, within these bounds."""

SETTLE_SECONDS = 30.0
"""How long a primary that answers waits at most for the look that has to come before."""


class Follower:
    """One followed database. Thread-safe, except that ``close`` is for one thread."""

    def __init__(
        self,
        path: str | None,
        options: Options,
        components: Components,
        primary: str | None,
        openings: Openings | None = None,
    ) -> None:
        """``openings``: where the opening can be given up."""
        if path is not None:
            path = components.files.absolute(path)
        self.options = options
        self._primary = primary
        self.primary = None if primary is None else without_user(primary)
        """Its address, as anybody may be told it."""
        self._components = components
        self._directory = None if path is None else f"{path}/cache"
        self._closed = False
        shipped = options.ship_interval or LOOK_SECONDS
        self._interval = max(SHORTEST_LOOK_SECONDS, min(shipped, LOOK_SECONDS))
        # Of the lane's thread:
        self._looks = Looks(self._interval)
        self._planned: object = None  # the look that comes next
        self._live_thread: Thread | None = None
        self.lanes: list[Lane] = []
        self.disk: DiskTier | None = None
        self.live_error = ""
        """Why the log does not come from the primary; "" while it does."""
        with ExitStack() as parts:
            self._hold(path, parts)
            self._parts = parts.pop_all()
        self.patience = Patience(
            self.stores, self.runtime, components.listener, owns=components.runtime is None
        )
        try:
            if openings is not None:
                openings.began(self.stores)
            self._wire()
            self._start()
        except BaseException:
            self._release()
            raise

    def _hold(self, path: str | None, parts: ExitStack) -> None:
        """Open the store, lock the directory, begin the threads, and have ``parts`` close them,
        whichever of it fails."""
        components, options = self._components, self.options
        self.stores = self._open_store()
        parts.callback(self.stores.close)
        if path is not None:
            components.files.make_directory(f"{path}/cache")
            parts.callback(components.files.lock(f"{path}/LOCK").release)
        self.runtime = components.runtime or Runtime(
            background="inline" if options.background == "inline" else "thread",
            block_cache_capacity=options.block_cache_capacity,
            clock=components.clock,
        )
        if components.runtime is None:
            parts.callback(self.runtime.close)

    def _open_store(self) -> Stores:
        components, options = self._components, self.options
        location = None
        store = components.object_store
        if store is None:
            if options.store is None:
                raise InvalidRequestError(
                    "a replica needs the setting store: where the bucket of its primary is"
                )
            location = StoreLocation(options.store, options.store_options)
            store = location.open()
        return Stores(
            store,
            location,
            clock=components.clock,
            random=components.random,
            open_other=components.open_other,
        )

    def _wire(self) -> None:
        clock = ForwardClock(self._components.clock)
        manifest = ManifestTail(self.stores.of(Purpose.MANIFEST), self._merge_with)
        state = manifest.state
        open_for_reading(self.stores, state)
        operator = find_operator(state.merge_operator) if state.merge_operator else None
        tables = CollectedStore(self.stores.of(Purpose.READ), self._missed)
        fetchers = self.runtime.workers.fetchers
        self.disk = self._open_disk_tier(state.database_id)
        self.tables = TableStore(
            tables, cache=self.runtime.cache, disk=self.disk, fetchers=fetchers
        )
        if self.disk is not None:
            self._parts.callback(self.disk.close)
            self.disk.retain({table.id for table in state.version.tables})
        contents = Contents(state, self.tables, self.runtime.new_row_cache(), clock, operator)
        self.live = contents.live
        blobs = BlobReader(tables, fetchers)
        self.reads = Reads(self.live, self.tables, blobs, clock, operator)
        self.sampler = GetSampler(self.live, self.reads.try_get)
        log = ShippedLog(self.stores.of(Purpose.WAL), state.database_id)
        self.tail = Tail(manifest, log, contents, Lag(clock), self._tell_of_gap)
        self.lane = Lane("follow", self._look, self.runtime.workers, self._failed)
        self.lanes.append(self.lane)

    def _merge_with(self, name: str) -> None:
        operator = find_operator(name)
        self.tail.merge_with(operator)
        self.reads.operator = operator

    def _open_disk_tier(self, database_id: str) -> DiskTier | None:
        directory, location = self._directory, self.stores.location
        if directory is None:
            return None
        return tier_for(
            self._components.files,
            directory,
            database_id,
            self.options,
            beside_bucket=location is not None and location.directory is not None,
            listener=self._components.listener,
        )

    def _start(self) -> None:
        self._look_soon()
        if self._primary is not None:
            # Imports for a while, which nobody needs who follows through the bucket.
            from seerdb.storage.replication.live import LiveTail

            self.live_error = "not connected yet"
            self._live_tail = LiveTail(self._primary, self)
            self._live_thread = self.runtime.workers.start_thread(
                self._live_tail.run, "seerdb-follow"
            )

    def _look(self) -> bool:
        before, now = self.seq, self._components.clock.monotonic
        began = now()
        try:
            return self.tail.look()
        finally:
            found = self.seq > before and not self.tail.is_live
            self._look_again(self._looks.wait(began, now(), found=found))

    def _look_again(self, seconds: float) -> None:
        """Look once more by then, if no other look comes before."""
        workers = self.runtime.workers
        if not workers.is_inline:
            self._planned = planned = object()
            workers.timer.call_later(seconds, lambda: self._look_as(planned))

    def _look_as(self, planned: object) -> None:
        if planned is self._planned:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._closed and not self.runtime.workers.is_inline:
            self.lane.wake()

    def _missed(self) -> None:
        self.tail.reload()
        self._look_soon()

    def _tell_of_gap(self, found: CorruptionError) -> None:
        self._components.listener(WorkFailed("follow", str(found), 1, self._interval))

    def _failed(self, name: str, error: BaseException, attempts: int, seconds: float) -> bool:
        if not self._closed:
            self._components.listener(WorkFailed(name, str(error), attempts, seconds))
        return not self._closed

    def refresh(self) -> None:
        """Look into the bucket now, and show what it holds. Raises: what made that fail."""
        check_may_wait("a look into the bucket")
        self.check_open()
        wanted = self.tail.begun + 1
        if not self.lane.wake_and_wait(lambda: self.tail.completed >= wanted):
            raise self.lane.why(self.lane.last_failure)

    # What the live tail needs: see live.LiveTarget.

    @property
    def seq(self) -> int:
        """The newest commit that is shown."""
        return self.tail.seq

    def now(self) -> float:
        return self._components.clock.monotonic()

    def greet(self, hello: Hello, first: int) -> None:
        tail = self.tail
        state = tail.manifest.state
        if hello.database_id != state.database_id:
            raise ConflictError(
                f"{self.primary} writes database {hello.database_id}, but the store holds "
                f"{state.database_id}; is this its primary?"
            )
        if not tail.is_settled(hello.epoch):
            tail.greet(hello.epoch)
            self.lane.wake_and_wait(lambda: tail.is_settled(hello.epoch), SETTLE_SECONDS)
        if not tail.begin_live(hello.epoch, first):
            raise UnavailableError(
                f"{self.primary} streams epoch {hello.epoch} from seq {first} on, but the bucket "
                f"is at epoch {tail.manifest.state.epoch} and seq {tail.seq}"
            )
        self.live_error = ""

    def take(self, piece: Piece) -> None:
        tail, found = self.tail, self.tail.take(piece)
        if found is None:
            return
        # No log is left of what was flushed, and there is none of bulk data: the manifest has it.
        before = found - 1
        self.lane.wake_and_wait(lambda: tail.seq >= before, SETTLE_SECONDS)
        found = tail.take(piece)
        if found is not None:
            raise gap(tail.seq + 1, found)

    def compare(self, mark: Mark) -> None:
        self.tail.compare(mark)

    def heard(self, heartbeat: Heartbeat) -> None:
        lag = self.tail.lag
        lag.heard(heartbeat.seq, lag.now(), self.seq)

    def lost(self, error: Exception) -> None:
        self.tail.end_live()
        self.live_error = str(error) or type(error).__name__
        self._look_soon()

    def check_open(self) -> None:
        """Raise ``ClosedError`` when it is closed."""
        if self._closed:
            raise ClosedError("the replica is closed; open it again")

    def close(self) -> None:
        """End following and release everything. Idempotent."""
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        self._closed = True
        self.stores.close()  # first: it cuts off a look that waits for the bucket
        if self._live_thread is not None:
            self._live_tail.close()
        for lane in self.lanes:
            lane.close()
        if self._live_thread is not None:
            self._live_thread.join()
        try:
            self._parts.close()
        finally:
            self.patience.end()
