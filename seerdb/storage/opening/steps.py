"""Opening a database for writing, step by step; what each step makes true, the next relies on.

1. lock the data directory: one process
2. probe the store once: it can do what safety needs
3. load the manifest, make sure that what a clone borrows is kept for it, and claim the next epoch:
   no other writer commits any more (I6); wait until no other one acknowledges anything either, and
   keep a lease of our own, if leases are in use
4. recover the local log, and what the bucket has of it beyond; or, in a data directory that
   does not continue the manifest, the shipped one
5. write what was saved of damaged or shipped logs to a new segment, only then declare void what
   it replaces in the bucket, and put the damaged away
6. start a segment for new writes, above every seq ever seen (I3)

Only then does any background work begin. A failure undoes nothing and loses nothing: the next
open starts again at 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from msgspec.structs import replace

from seerdb.clock import ForwardClock
from seerdb.errors import ConflictError, CorruptionError, InvalidRequestError
from seerdb.events import Recovered
from seerdb.options import Options
from seerdb.storage.lease.keeper import RENEWED, LeaseKeeper
from seerdb.storage.lease.record import LeaseRecord
from seerdb.storage.lease.takeover import Takeover, takeover_of
from seerdb.storage.lease.watch import Bid, outwait
from seerdb.storage.local.files import FileLock
from seerdb.storage.manifest.fencing import Claimant
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import TABLE_PREFIX, WAL_PREFIX
from seerdb.storage.object_store.probe import probe, require
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.opening.lineage import Lineage
from seerdb.storage.opening.log import OpeningLog
from seerdb.storage.opening.recovery import Recovery
from seerdb.storage.operators import MergeOperator, check_portable, find_operator
from seerdb.storage.retention.loans import open_for_writing
from seerdb.storage.runtime import Components
from seerdb.storage.shipping.shipped import begin_branch
from seerdb.storage.wal.home import Home, has_home, load_home, save_home
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.workers.threads import Workers


@dataclass
class Opened:
    """Everything the engine starts from."""

    directory: str
    lock: FileLock
    stores: Stores
    clock: ForwardClock
    """Of this database: what its commits, its manifest and expiry go by."""
    operator: MergeOperator | None
    manifest: ManifestWriter
    log: LogWriter
    recovery: Recovery
    next_segment: int
    shipped_seq: int
    """Up to here the log was shipped before; 0: nothing of it."""
    event: Recovered
    keeper: LeaseKeeper | None
    takeover: Takeover
    lineage: Lineage


def open_database(
    path: str, options: Options, components: Components, workers: Workers, bid: Bid
) -> Opened:
    """Do the steps of the module docstring. Raises: any error of the tree; holds no lock then."""
    options.check_together()
    files = components.files
    is_known = has_home(files, f"{path}/wal")
    for directory in (f"{path}/wal", f"{path}/cache", f"{path}/quarantine"):
        if not is_known or not files.exists(directory):
            files.make_directory(directory)
    lock = files.lock(f"{path}/LOCK")
    try:
        return _Opening(path, options, components, workers, lock).run(bid)
    except BaseException:
        lock.release()
        raise


class _Opening:
    def __init__(
        self,
        path: str,
        options: Options,
        components: Components,
        workers: Workers,
        lock: FileLock,
    ) -> None:
        self._path = path
        self._wal = f"{path}/wal"
        self._options = options
        self._components = components
        self._files = components.files
        self._workers = workers
        self._clock = ForwardClock(components.clock)
        self._lock = lock
        self._started = components.clock.monotonic()
        self._keeper: LeaseKeeper | None = None
        self._former: LeaseRecord | None = None

    def run(self, bid: Bid) -> Opened:
        stores = self._open_store()
        try:
            if bid.openings is not None:
                bid.openings.began(stores)
            return self._open(stores, bid)
        except BaseException:
            if self._keeper is not None:
                self._keeper.stop()
            stores.close()
            raise

    def _open_store(self) -> Stores:
        components, options = self._components, self._options
        location = None
        store = components.object_store
        if store is None:
            location = StoreLocation(options.store or f"{self._path}/bucket", options.store_options)
            store = location.open()
        return Stores(
            store,
            location,
            clock=self._clock,
            random=components.random,
            open_other=components.open_other,
        )

    def _open(self, stores: Stores, bid: Bid) -> Opened:
        state = load(stores.of(Purpose.MANIFEST))
        if state is not None:
            open_for_writing(stores, state)
        log = OpeningLog(
            self._path,
            self._options,
            self._components,
            self._workers,
            stores.of(Purpose.WAL),
        )
        home = load_home(self._files, self._wal)
        self._check_belongs(stores, state, home)
        self._find_operator(state)
        capabilities = self._capabilities(stores, state)
        continues = state is None or (
            home is not None and home.complete and home.home == state.home
        )
        needs_all = self._options.recovery == "strict" and not bid.takes_over
        if needs_all and not continues:
            log.check_lost(state)
        unfinished = None
        if home is None or not home.complete or not continues:
            database = state.database_id if state else self._components.random_bytes(16).hex()
            home = Home(self._components.random_bytes(16).hex(), database, complete=False)
            unfinished = home
        options = self._options
        manifest = ManifestWriter.claim(
            stores.of(Purpose.MANIFEST),
            state,
            claimant=Claimant(
                database_id=home.database_id,
                home=home.home,
                store=self._fingerprint(stores),
                capabilities=capabilities,
                merge_operator=options.merge_operator or "",
                continues=continues,
                lease=options.lease,
                after=bid.after,
            ),
            clock=self._clock,
            random_bytes=self._components.random_bytes,
        )
        operator = self._find_operator(manifest.state)
        self._take_lease(stores, manifest, home.home, bid)
        manifest.checkpoint_if_due()
        if continues:
            if home.contested_seq is not None:
                unfinished = home
            recovery = log.continued(
                manifest.state, operator, contested_seq=home.contested_seq, is_new=state is None
            )
        else:
            recovery = log.adopted(manifest.state, home, needs_all=needs_all)
        return self._finish(stores, manifest, log, recovery, unfinished, operator)

    def _take_lease(self, stores: Stores, manifest: ManifestWriter, home: str, bid: Bid) -> None:
        """Nobody else acknowledges writes when it returns; nor does anybody take over from us
        while we recover, however long that takes."""
        store, seconds = stores.of(Purpose.LEASE), self._options.lease
        self._former = outwait(store, self._clock, manifest.before, home, bid)
        if not seconds:
            return
        self._keeper = LeaseKeeper(
            stores.heartbeat(seconds * RENEWED),
            manifest,
            self._clock,
            seconds=seconds,
            address=self._components.address,
        )
        self._keeper.renew()
        if not self._workers.is_inline:
            self._keeper.start(self._workers)

    def _find_operator(self, state: ManifestState | None) -> MergeOperator | None:
        """The merge operator of the database; what the setting says must not differ from it."""
        stored = state.merge_operator if state else ""
        wanted = self._options.merge_operator or stored
        if stored and wanted != stored:
            raise InvalidRequestError(
                f"the database merges with {stored!r}, for good; the setting merge_operator says "
                f"{wanted!r}: leave it out"
            )
        operator = find_operator(wanted) if wanted else None
        if operator is not None and self._options.background not in ("inline", "thread"):
            check_portable(wanted, operator)
        return operator

    def _check_belongs(
        self, stores: Stores, state: ManifestState | None, home: Home | None
    ) -> None:
        if state is None:
            if home is not None:
                raise CorruptionError(
                    "the bucket holds no manifest, but this data directory belongs to database "
                    f"{home.database_id}; nothing was changed",
                    name=str(stores.location or "the given store"),
                    hint="is the store setting right? restore the bucket, or use another directory",
                )
            store = stores.of(Purpose.MANIFEST)
            if store.list(TABLE_PREFIX) or store.list(WAL_PREFIX):
                raise CorruptionError(
                    "the bucket holds tables or a log but no manifest; nothing was changed",
                    name=str(stores.location or "the given store"),
                    hint="restore the manifest/ objects, or use another prefix",
                )
        elif home is not None and home.database_id != state.database_id:
            raise ConflictError(
                f"the data directory {self._path} belongs to database {home.database_id}, the "
                f"bucket to {state.database_id}; use the directory or the store that fits"
            )

    def _fingerprint(self, stores: Stores) -> str:
        return hashlib.sha256(str(stores.location or "given").encode()).hexdigest()[:16]

    def _capabilities(self, stores: Stores, state: ManifestState | None) -> dict[str, bool]:
        """What the store can do: asked once for each store a database is opened on."""
        if state is not None and state.store == self._fingerprint(stores) and state.capabilities:
            return state.capabilities
        found = probe(stores.of(Purpose.PROBE), self._components.random_bytes(8).hex())
        require(found, str(stores.location or "given"))
        return asdict(found)

    def _finish(
        self,
        stores: Stores,
        manifest: ManifestWriter,
        log: OpeningLog,
        recovery: Recovery,
        unfinished: Home | None,
        operator: MergeOperator | None,
    ) -> Opened:
        options, state = self._options, manifest.state
        self._clock.committed_us = max(recovery.last_timestamp_us, state.time_us)
        writer = LogWriter(
            self._files,
            self._wal,
            database_id=bytes.fromhex(state.database_id),
            epoch=manifest.epoch,
            segment_size=options.wal_segment_size,
            sync=options.sync,
            compression=options.wal_compression,
            direct=options.wal_direct_io,
            random=self._components.random,
            clock=self._clock,
        )
        following = max(recovery.last_segment + 1, state.log_start, 1)
        if recovery.relog:
            log.rewrite(writer, following, recovery, state.last_seq, operator)
            following += 1
        if unfinished is not None and not unfinished.complete:
            # Until now the next opening takes all log from the bucket again, so nothing there may
            # be void yet. From now on it has it here, and still knows where it branches off.
            unfinished = replace(unfinished, complete=True, contested_seq=recovery.branch_seq)
            save_home(self._files, self._wal, unfinished)
        if recovery.branch_seq is not None:
            begin_branch(stores.of(Purpose.WAL), state.epoch, recovery.branch_seq)
        log.put_apart(recovery.quarantine)
        if unfinished is not None and unfinished.contested_seq is not None:
            save_home(self._files, self._wal, replace(unfinished, contested_seq=None))
        return Opened(
            directory=self._path,
            lock=self._lock,
            stores=stores,
            clock=self._clock,
            operator=operator,
            manifest=manifest,
            log=writer,
            recovery=recovery,
            next_segment=following,
            shipped_seq=log.shipped_seq,
            event=self._event(log, recovery),
            keeper=self._keeper,
            lineage=Lineage(stores.of(Purpose.WAL), state.epoch),
            takeover=takeover_of(
                state,
                self._former,
                seq=recovery.last_seq,
                shipped_seq=max(state.last_seq, log.shipped_seq),
                own_log=log.overtaken,
            ),
        )

    def _event(self, log: OpeningLog, recovery: Recovery) -> Recovered:
        return Recovered(
            segments=recovery.segments,
            records=recovery.records,
            torn_bytes=recovery.torn_bytes,
            damaged=recovery.damages,
            quarantined=log.quarantined,
            shipped_records=log.shipped_records,
            last_seq=recovery.last_seq,
            seconds=self._clock.monotonic() - self._started,
        )
