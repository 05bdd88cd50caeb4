"""Opening a database for writing, step by step; what each step makes true, the next relies on.

1. lock the data directory: one process
2. probe the store once: it can do what safety needs
3. load the manifest, make sure that what a clone borrows is kept for it, and claim the next epoch:
   no other writer commits any more (I6); wait until no other one acknowledges anything either, and
   keep a lease of our own, if leases are in use
4. recover the local log, and what the bucket has of it beyond; or, in a data directory that
   does not continue the manifest, the shipped one
5. write what was saved of damaged or shipped logs to a new segment, then put the damaged away
6. start a segment for new writes, above every seq ever seen (I3)

Only then does any background work begin. A failure undoes nothing and loses nothing: the next
open starts again at 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import partial

from msgspec.structs import replace

from seerdb.clock import ForwardClock
from seerdb.errors import ConflictError, CorruptionError, InvalidRequestError
from seerdb.events import LogOvertaken, Recovered
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
from seerdb.storage.opening.overtaken import find_overtaken, in_words
from seerdb.storage.opening.recovery import Recovery, quarantine, recover
from seerdb.storage.operators import MergeOperator, check_portable, find_operator
from seerdb.storage.retention.loans import open_for_writing
from seerdb.storage.runtime import Components
from seerdb.storage.shipping.shipped import begin_branch, list_shipped, newest_shipped, read_shipped
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.home import Home, has_home, load_home, save_home
from seerdb.storage.wal.repair import frame_bodies
from seerdb.storage.wal.replay import Replay
from seerdb.storage.wal.segments import list_segments
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
        self._quarantined: list[str] = []
        self._shipped_records = 0
        self._shipped_seq = 0
        self._started = components.clock.monotonic()
        self._keeper: LeaseKeeper | None = None
        self._former: LeaseRecord | None = None
        self._overtaken: LogOvertaken | None = None

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
        home = load_home(self._files, self._wal)
        self._check_belongs(stores, state, home)
        self._find_operator(state)
        capabilities = self._capabilities(stores, state)
        continues = state is None or (
            home is not None and home.complete and home.home == state.home
        )
        needs_all = self._options.recovery == "strict" and not bid.takes_over
        if needs_all and not continues:
            self._check_lost(self._find_overtaken(stores, state))
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
        if continues:
            recovery = self._recover(manifest.state, operator)
            if home.contested_seq is not None:
                recovery.branch_seq = home.contested_seq
                unfinished = replace(home, contested_seq=None)
            if state is not None:
                self._complete(stores, manifest.state, recovery)
        else:
            recovery = self._adopt(stores, manifest.state, home, needs_all=needs_all)
        return self._finish(stores, manifest, recovery, unfinished, operator)

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
            if home is not None and list_segments(self._files, self._wal):
                raise CorruptionError(
                    "the bucket holds no manifest, but this data directory has the log of a "
                    "database",
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
        location = str(stores.location) if stores.location else type(stores).__name__
        return hashlib.sha256(location.encode()).hexdigest()[:16]

    def _capabilities(self, stores: Stores, state: ManifestState | None) -> dict[str, bool]:
        """What the store can do: asked once for each store a database is opened on."""
        if state is not None and state.store == self._fingerprint(stores) and state.capabilities:
            return state.capabilities
        found = probe(stores.of(Purpose.PROBE), self._components.random_bytes(8).hex())
        require(found, str(stores.location or "given"))
        return asdict(found)

    def _recover(self, state: ManifestState, operator: MergeOperator | None) -> Recovery:
        options = self._options
        return recover(
            self._files,
            self._wal,
            database_id=state.database_id,
            mode=options.recovery,
            log_start=state.log_start,
            flushed_seq=state.last_seq,
            memtable_capacity=options.memtable_capacity,
            operator=operator,
        )

    def _complete(self, stores: Stores, state: ManifestState, recovery: Recovery) -> None:
        """Take from the bucket what was shipped of this home's log and its disk has lost."""
        store = stores.of(Purpose.WAL)
        listed = list_shipped(store)
        newest = newest_shipped(listed)
        if recovery.branch_seq is None and newest > recovery.last_seq:
            lost = read_shipped(
                store,
                state.database_id,
                recovery.last_seq,
                strict=self._options.recovery == "strict",
                listed=listed,
            )
            self._take_shipped(recovery, lost)
            if recovery.last_seq < newest:
                recovery.branch_seq = recovery.last_seq
        branch = recovery.branch_seq
        self._shipped_seq = min(newest, recovery.last_seq if branch is None else branch)

    def _take_shipped(self, recovery: Recovery, records: list[Record]) -> None:
        self._shipped_records = len(records)
        if records:
            recovery.relog += records
            recovery.last_seq, recovery.last_timestamp_us, _ = records[-1]

    def _find_overtaken(
        self, stores: Stores, state: ManifestState | None, reach: int | None = None
    ) -> LogOvertaken | None:
        store = stores.of(Purpose.WAL)
        return find_overtaken(self._files, self._wal, store, state, reach)

    def _check_lost(self, log: LogOvertaken | None) -> None:
        """Refuse to go on without writes of a log that another writer has overtaken."""
        if log is None or log.nothing_lost:
            return
        raise ConflictError(
            f"another data directory has taken this database over; {in_words(log)}; "
            "`seerdb inspect wal` shows what was written; open with recovery='salvage', or as a "
            "standby, to move that log to quarantine/ and go on without it"
        )

    def _adopt(
        self, stores: Stores, state: ManifestState, home: Home, *, needs_all: bool
    ) -> Recovery:
        """Begin a home with the log in the bucket; a log that was here before is put apart.

        The home is complete only when that log is durable here: until then the next opening
        begins anew.
        """
        store = stores.of(Purpose.WAL)
        shipped = read_shipped(
            store,
            state.database_id,
            state.last_seq,
            strict=self._options.recovery == "strict",
            fetch=partial(self._workers.fetchers.map, store.get),
        )
        segments = list_segments(self._files, self._wal)
        recovery = Recovery(last_seq=state.last_seq, last_segment=max(segments, default=0))
        self._take_shipped(recovery, shipped)
        recovery.branch_seq = self._shipped_seq = recovery.last_seq
        overtaken = self._find_overtaken(stores, state, recovery.last_seq)
        if needs_all:
            self._check_lost(overtaken)  # once more: others may have claimed in between
        if overtaken is not None:
            self._overtaken = replace(overtaken, directory=f"{self._path}/quarantine")
            self._components.listener(self._overtaken)
        self._put_apart(segments)
        save_home(self._files, self._wal, home)
        return recovery

    def _put_apart(self, segments: list[int]) -> None:
        target = f"{self._path}/quarantine"
        self._quarantined += quarantine(self._files, self._wal, target, segments)

    def _finish(
        self,
        stores: Stores,
        manifest: ManifestWriter,
        recovery: Recovery,
        unfinished: Home | None,
        operator: MergeOperator | None,
    ) -> Opened:
        options, state = self._options, manifest.state
        self._clock.committed_us = max(recovery.last_timestamp_us, state.time_us)
        log = LogWriter(
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
        if recovery.branch_seq is not None:
            begin_branch(stores.of(Purpose.WAL), state.epoch, recovery.branch_seq)
        following = max(recovery.last_segment + 1, state.log_start, 1)
        if recovery.relog:
            self._relog(log, following, recovery, state.last_seq, operator)
            following += 1
        self._put_apart(recovery.quarantine)
        if unfinished is not None:
            save_home(self._files, self._wal, replace(unfinished, complete=True))
        return Opened(
            directory=self._path,
            lock=self._lock,
            stores=stores,
            clock=self._clock,
            operator=operator,
            manifest=manifest,
            log=log,
            recovery=recovery,
            next_segment=following,
            shipped_seq=self._shipped_seq,
            event=self._event(recovery),
            keeper=self._keeper,
            lineage=Lineage(stores.of(Purpose.WAL), state.epoch),
            takeover=takeover_of(
                state,
                self._former,
                seq=recovery.last_seq,
                shipped_seq=max(state.last_seq, self._shipped_seq),
                own_log=self._overtaken,
            ),
        )

    def _event(self, recovery: Recovery) -> Recovered:
        return Recovered(
            segments=recovery.segments,
            records=recovery.records,
            torn_bytes=recovery.torn_bytes,
            damaged=recovery.damages,
            quarantined=self._quarantined,
            shipped_records=self._shipped_records,
            last_seq=recovery.last_seq,
            seconds=self._clock.monotonic() - self._started,
        )

    def _relog(
        self,
        log: LogWriter,
        segment: int,
        recovery: Recovery,
        flushed_seq: int,
        operator: MergeOperator | None,
    ) -> None:
        """Write recovered records to a segment of their own, which replaces where they were."""
        records = recovery.relog
        before = recovery.memtables[-1].last_seq if recovery.memtables else flushed_seq
        # No later than what came before: what was lost in between is no gap in the log.
        first = before + 1
        log.start(segment, first)
        for body in frame_bodies(log.salt, records):
            log.append(body)
        log.seal(records[-1][0], len(records))
        replay = Replay(operator=operator)
        replay.take(records)
        recovery.memtables.append(replay.memtable([segment]))
