"""A standby as the service needs it: what is read while it waits, and how it takes over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
import structlog
from anyio import to_thread

from seerdb import DB, ReadOnly, SeerDBError, Standby, StandbyReplica
from seerdb.events import LogOvertaken
from seerdb_api.port import HealthCheck, Stalls, StoreRequests
from seerdb_api.service import Service

FENCED_LOOK_SECONDS = 1.0
READS_END_SECONDS = 300.0
"""Reads that began before it took over may go on for so long."""

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.standby")


@dataclass(frozen=True)
class _Waiting:
    """The one check of readiness that a standby fails."""

    detail: str
    name: str = "standby"
    ok: bool = False
    is_warning: bool = False


@dataclass(frozen=True)
class _NoStalls:
    reasons: tuple[()] = ()


@dataclass(frozen=True)
class _Numbers:
    """What a standby counts: its requests to the bucket."""

    store_requests: Sequence[StoreRequests]
    stalls: Stalls = _NoStalls()
    levels: tuple[()] = ()
    jobs: tuple[()] = ()

    @property
    def values(self) -> Mapping[str, float]:
        return {}

    @property
    def get_tiers(self) -> Mapping[str, int]:
        return {}

    @property
    def sampled_gets(self) -> Mapping[str, int]:
        return {}


class StandbyDatabase(ReadOnly):
    """How this server waits, is read meanwhile, and takes over; and what stands where the database
    is going to be for as long as there is nothing to be read: it sends everybody to the primary.
    Thread-safe.
    """

    def __init__(self, standby: Standby, max_lag: float) -> None:
        self._standby = standby
        self._max_lag = max_lag
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._replica: StandbyReplica | None = None
        self._db: DB | None = None
        self._closed = False

    @property
    def next_look(self) -> float:
        """Seconds from now until it makes sense to look again."""
        return self._standby.next_look

    def look(self) -> DB | None:
        """Take over if the lease has run out. Raises as :meth:`Standby.look`."""
        return self._become(self._standby.look)

    def find_overtaken(self) -> LogOvertaken | None:
        """What is lost of an own log. Raises as :meth:`Standby.find_overtaken`."""
        return self._standby.find_overtaken()

    def promote(self) -> DB:
        """Take over now. Raises as :meth:`Standby.take_over`."""
        db = self._become(self._standby.take_over)
        assert db is not None
        return db

    def _become(self, how: Callable[[], DB | None]) -> DB | None:
        with self._lock:
            if self._db is None and not self._closed:
                self._db = how()
            return self._db

    def begin_reads(self) -> StandbyReplica | None:
        """What can be read while it waits; ``None`` where it waits no more. Raises as
        :meth:`Standby.follow`."""
        with self._lock:
            if self._db is None and self._replica is None and not self._closed:
                self._replica = self._standby.follow(self._max_lag)
            return self._replica

    def end_reads(self) -> None:
        """Let go of what was read while it waited. Idempotent."""
        with self._lock:
            replica, self._replica = self._replica, None
        if replica is not None:
            replica.close()

    def close(self) -> None:
        """Wait no more, and close the database if it was taken over. What is being opened is given
        up."""
        self._standby.close()
        with self._lock:
            self._closed = True
            if self._db is not None:
                self._db.close()
        self.end_reads()

    # What it answers as long as there is nothing to be read.

    def refuse(self) -> NoReturn:
        """Raises ``ReadOnlyError``, which names the primary if it is known."""
        self._standby.refuse()

    def _not_here(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Raises as :meth:`refuse`."""
        self.refuse()

    check_commit = try_get_entry = get_entry = multi_get_entries = scan_entries = _not_here

    @property
    def visible_seq(self) -> int:
        """0: it shows nothing."""
        return 0

    @property
    def epoch(self) -> int:
        """0: it commits nothing."""
        return 0

    def stats(self) -> Any:
        return {
            "standby": self._standby.state,
            "primary": self._standby.primary,
            "store_requests": [
                {name: getattr(row, name) for name in row.__struct_fields__}
                for row in self._standby.store_requests()
            ],
        }

    def health(self) -> Sequence[HealthCheck]:
        return [_Waiting(self._standby.state)]

    def statistics(self) -> _Numbers:
        return _Numbers(self._standby.store_requests())


async def watch(service: Service, standby: StandbyDatabase, give_up: Callable[[], None]) -> None:
    """Look at the lease until it has run out, serving reads meanwhile; then serve the database that
    was taken over, until another one takes over from it: then ``give_up`` is called."""
    logger.info("standing by")
    is_told = False
    while isinstance(service.db, ReadOnly):
        try:
            await _look(service, standby)
            is_told = is_told or await _tell_overtaken(standby)
        except SeerDBError as error:
            logger.warning("standby cannot look, follow, or take over", error=str(error))
        except Exception:
            logger.exception("the standby has stopped watching")
            raise
        await asyncio.sleep(standby.next_look)
    now = asyncio.get_running_loop().time
    reads_end = now() + READS_END_SECONDS
    while not service.db.is_fenced:
        await asyncio.sleep(FENCED_LOOK_SECONDS)
        if now() >= reads_end:
            await to_thread.run_sync(standby.end_reads)
    logger.error("another writer took over; stopping, to be started again as its standby")
    give_up()


async def _tell_overtaken(standby: StandbyDatabase) -> bool:
    """Say once what was lost by a failover from here; it is put apart when this takes over."""
    own_log = await to_thread.run_sync(standby.find_overtaken)
    if own_log is not None:
        log = logger.info if own_log.nothing_lost else logger.warning
        lost = msgspec.to_builtins(own_log.lost)
        log("another writer has overtaken the log here", lost=lost, whole=own_log.whole)
    return True


async def _look(service: Service, standby: StandbyDatabase) -> None:
    db = await to_thread.run_sync(standby.look)
    if db is not None:
        become_primary(service, db)
    elif service.db is standby:
        replica = await to_thread.run_sync(standby.begin_reads)
        if service.db is standby and replica is not None:  # nobody has promoted it meanwhile
            service.serve(replica)


def become_primary(service: Service, db: DB) -> None:
    """Serve ``db`` from now on. Belongs to the event loop."""
    if service.db is db:
        return
    service.serve(db)
    report = db.takeover
    log = logger.warning if report.lost else logger.info
    lost = (report.lost.first, report.lost.last) if report.lost else None
    log("took over", epoch=report.epoch, seq=report.seq, lost=lost)
