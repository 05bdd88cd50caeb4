"""A standby as the service needs it: what it answers while it waits, and how it takes over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import structlog
from anyio import to_thread

from seerdb import DB, Batch, Entry, SeerDBError, Standby, Transfer
from seerdb.errors import ReadOnlyError
from seerdb_api.service import HealthCheck, Service, Sink, Stalls, StoreRequests

FENCED_LOOK_SECONDS = 1.0

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.standby")


@dataclass(frozen=True)
class _Waiting:
    """The one check of readiness that a standby fails."""

    detail: str
    name: str = "standby"
    ok: bool = False


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


class StandbyDatabase:
    """Stands where the database is going to be. Requests for data are sent to the primary.

    Thread-safe. Until it has taken over nothing of the database is open here.
    """

    def __init__(self, standby: Standby) -> None:
        self._standby = standby
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._db: DB | None = None
        self._closed = False

    @property
    def visible_seq(self) -> int:
        """0: it shows nothing."""
        return 0

    @property
    def epoch(self) -> int:
        """0: it commits nothing."""
        return 0

    @property
    def is_fenced(self) -> bool:
        """Never: it writes nothing."""
        return False

    def check_commit(self, epoch: int, seq: int) -> NoReturn:
        self._refuse()

    @property
    def takeover(self) -> None:
        """Nothing yet."""

    @property
    def next_look(self) -> float:
        """Seconds from now until it makes sense to look again."""
        return self._standby.next_look

    def look(self) -> DB | None:
        """Take over if the lease has run out. Raises as :meth:`Standby.look`."""
        return self._become(self._standby.look)

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

    def close(self) -> None:
        """Wait no more, and close the database if it was taken over."""
        with self._lock:
            self._closed = True
            if self._db is not None:
                self._db.close()
            self._standby.close()

    def _refuse(self) -> NoReturn:
        where = self._standby.primary
        raise ReadOnlyError(
            f"this is a standby, which serves nothing while {self._standby.state}"
            + (f"; go to {where}" if where else ""),
            primary=where,
        )

    def try_get_entry(self, key: bytes) -> NoReturn:
        self._refuse()

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> NoReturn:
        self._refuse()

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: int | datetime | None = None
    ) -> NoReturn:
        self._refuse()

    def start_backup(
        self, to: str, *, label: str, keep: bool, full: bool, transfer: Transfer
    ) -> NoReturn:
        self._refuse()

    def backups(self) -> NoReturn:
        self._refuse()

    def cancel_backup(self, backup: str) -> NoReturn:
        self._refuse()

    def recovery_points(self, repository: str | None = None) -> NoReturn:
        self._refuse()

    def seq_at(self, as_of: int | datetime) -> NoReturn:
        self._refuse()

    def history(self, key: bytes) -> NoReturn:
        self._refuse()

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> NoReturn:
        self._refuse()

    def checkpoints(self) -> NoReturn:
        self._refuse()

    def drop_checkpoint(self, name: str) -> NoReturn:
        self._refuse()

    def scan_entries(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: int | datetime | None = None,
    ) -> Iterator[Entry]:
        self._refuse()

    def submit(
        self,
        batch: Batch,
        *,
        durability: str | None = None,
        expect: tuple[bytes, int] | None = None,
        ticket: object,
        sink: Sink,
    ) -> None:
        self._refuse()

    def flush(self) -> NoReturn:
        self._refuse()

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> NoReturn:
        self._refuse()

    def restore_in_place(
        self,
        as_of: int | datetime | None = None,
        *,
        checkpoint: str | None = None,
        dry_run: bool = False,
    ) -> NoReturn:
        self._refuse()

    def follow(self, seq: int) -> NoReturn:
        self._refuse()

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
    """Look at the lease until it has run out, then serve the database that was taken over, until
    another one takes over from it: then ``give_up`` is called."""
    logger.info("standing by")
    while service.db is standby:
        try:
            db = await to_thread.run_sync(standby.look)
        except SeerDBError as error:
            logger.warning("standby cannot look, or take over", error=str(error))
        except Exception:
            logger.exception("the standby has stopped watching")
            raise
        else:
            if db is not None:
                become_primary(service, db)
        await asyncio.sleep(standby.next_look)
    while not service.db.is_fenced:  # noqa: ASYNC110 - the engine knows of no event loop
        await asyncio.sleep(FENCED_LOOK_SECONDS)
    logger.error("another writer took over; stopping, to be started again as its standby")
    give_up()


def become_primary(service: Service, db: DB) -> None:
    """Serve ``db`` from now on. Belongs to the event loop."""
    if service.db is db:
        return
    service.db = db
    report = db.takeover
    log = logger.warning if report.lost else logger.info
    lost = (report.lost.first, report.lost.last) if report.lost else None
    log("took over", epoch=report.epoch, seq=report.seq, lost=lost)
