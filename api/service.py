"""The database as the routes need it, and the service that the routes share.

The protocols are the part of ``seerdb.DB`` that HTTP uses; tests implement them over a dict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from seerdb import Batch, Entry, KeyVersion, NeedsIO, Replica, Transfer
from seerdb_api.arrivals import Arrivals
from seerdb_api.reply import Header, seq_header
from seerdb_api.settings import ServiceSettings

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 32
"""Reads that may wait for disk or bucket at once. They wait rather than compute, so far more
than there are cores."""
ADMIN_THREADS = 4
"""Flushes, compactions and status requests at once, apart from reads so that they never starve
each other."""

Outcome = int | Exception
Sink = Callable[[Iterable[tuple[Any, Outcome]]], None]
Ticket = Callable[[Outcome], None]
"""Told what a commit ended in, on the event loop."""
Submission = tuple[Batch, str | None, tuple[bytes, int] | None, Ticket]
"""A batch, its durability, the key and seq (0 means absent) it expects, and whom to tell."""


class LevelSize(Protocol):
    """The tables of one level."""

    @property
    def level(self) -> int: ...
    @property
    def tables(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def runs(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def deletes(self) -> int: ...
    @property
    def range_deletes(self) -> int: ...


class HeldBack(Protocol):
    """How writes were held back for one reason since the database was opened."""

    @property
    def reason(self) -> str: ...
    @property
    def slowdowns(self) -> int: ...
    @property
    def slowed_seconds(self) -> float: ...
    @property
    def stops(self) -> int: ...
    @property
    def stopped_seconds(self) -> float: ...
    @property
    def refused(self) -> int: ...


class Stalls(Protocol):
    """How writes were held back since the database was opened."""

    @property
    def reasons(self) -> Sequence[HeldBack]:
        """One row for each reason there may be."""


class Job(Protocol):
    """A merge of tables that runs."""

    @property
    def kind(self) -> str: ...
    @property
    def input_bytes(self) -> int: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...


class StoreRequests(Protocol):
    """What one purpose and operation asked of the object store since the database was opened."""

    @property
    def purpose(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def dollars(self) -> float: ...
    @property
    def dollars_per_month(self) -> float: ...


class Statistics(Protocol):
    """Numbers of the engine at one moment."""

    @property
    def values(self) -> Mapping[str, float]:
        """Single numbers by name; the names are the rows of ``metrics.ENGINE``."""

    @property
    def levels(self) -> Sequence[LevelSize]:
        """Each level that has tables."""

    @property
    def stalls(self) -> Stalls: ...
    @property
    def jobs(self) -> Sequence[Job]:
        """Those that run now."""

    @property
    def get_tiers(self) -> Mapping[str, int]:
        """Gets that reached the tables, by the tier that had what they needed."""

    @property
    def sampled_gets(self) -> Mapping[str, int]:
        """Gets of the sample, by the tier that answered."""

    @property
    def store_requests(self) -> Sequence[StoreRequests]:
        """One row for each purpose and operation."""


class HealthCheck(Protocol):
    """One named condition of readiness."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def is_warning(self) -> bool:
        """Whether the database serves all the same when it does not hold."""


class Lag(Protocol):
    """How far a replica is behind."""

    @property
    def seq(self) -> int: ...
    @property
    def seconds(self) -> float | None: ...


class LogCursor(Protocol):
    """A follower's place in the log. One thread at a time."""

    @property
    def has_news(self) -> bool:
        """Whether to call :meth:`read`. Never blocks."""

    def greeting(self) -> bytes:
        """The first message."""

    def heartbeat(self) -> bytes:
        """The messages of each second. Takes a while after many writes."""

    def read(self) -> bytes:
        """The next message, if there is one. May wait for the disk."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class Database(Protocol):
    """The part of ``seerdb.DB`` that the service uses. Thread-safe."""

    @property
    def visible_seq(self) -> int:
        """The newest sequence number that reads see. Never blocks."""

    @property
    def epoch(self) -> int:
        """Of the writer; 0 where there is none here."""

    @property
    def is_fenced(self) -> bool:
        """Whether another writer took over."""

    def check_commit(self, epoch: int, seq: int) -> None:
        """Raise ``LostError`` if that commit was lost. May wait."""

    @property
    def takeover(self) -> Any:
        """What its opening took over from the writer before; a report, ready for JSON."""

    def try_get_entry(self, key: bytes) -> Entry | NeedsIO | None:
        """The entry if memory alone can tell, else ``NEEDS_IO``. Never blocks."""

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
        """The entry or ``None``. May wait for disk or bucket; what it loads for that is kept in
        the caches if ``fill_cache``, here and below."""

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: int | datetime | None = None
    ) -> list[Entry | None]:
        """The entries in the order of ``keys``, now or at an instant, here and below. May wait."""

    def seq_at(self, as_of: int | datetime) -> int:
        """The newest commit that counts at an instant. May wait."""

    def history(self, key: bytes) -> Sequence[KeyVersion]:
        """The versions of a key, oldest first. May wait long."""

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
        """Entries of ``[start, end)`` as of now, or of an instant; each step may wait."""

    def submit_all(
        self, submissions: Sequence[Submission], sink: Sink
    ) -> Sequence[tuple[Any, Exception]]:
        """Hand batches to the committer and return at once, with the tickets of those that are
        refused and why.

        Later ``sink`` is called on the committer's thread, with the ticket and the seq or the
        error of each of some others. It runs through them once, soon, on any thread: by that they
        become visible. All writers wait while a key that is expected to have some seq is fetched,
        so have it in memory.
        """

    def flush(self) -> Any:
        """Move all memtables into tables; a report. Blocks."""

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> Any:
        """Merge all in ``[start, end)`` that can be merged; a report. Blocks."""

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> Any:
        """Keep what is there now under a name; what was made. Blocks."""

    def checkpoints(self) -> Sequence[Any]:
        """What is kept. Blocks."""

    def drop_checkpoint(self, name: str) -> None:
        """Keep it no longer. Blocks."""

    def restore_in_place(
        self,
        as_of: int | datetime | None = None,
        *,
        checkpoint: str | None = None,
        dry_run: bool = False,
    ) -> Any:
        """Have all be again what it was; a report. Blocks."""

    def start_backup(
        self, to: str, *, label: str, keep: bool, full: bool, transfer: Transfer
    ) -> Any:
        """Begin a backup in the background; its status. May wait."""

    def backups(self) -> Sequence[Any]:
        """The status of each backup in the background, which has an ``id``. Never blocks."""

    def cancel_backup(self, backup: str) -> None:
        """Have one end soon. Never blocks."""

    def recovery_points(self, repository: str | None = None) -> Any:
        """What can be restored. Blocks."""

    def stats(self) -> Any:
        """Everything an operator asks about, ready for JSON. May take a moment."""

    def health(self) -> Sequence[HealthCheck]:
        """What readiness consists of. Never waits for disk or bucket."""

    def statistics(self) -> Statistics:
        """Numbers for metrics. Never waits for disk or bucket."""

    def follow(self, seq: int) -> LogCursor:
        """The durable log from ``seq`` on."""

    def begin_closing(self) -> None:
        """End what may take hours. Never blocks."""

    def close(self) -> None:
        """Flush and release everything. Blocks."""


class Service:
    """One open database, written from coroutines and read from memory or in threads.

    All methods belong to the event loop that :meth:`start` ran in.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.db: Database
        self._loop: asyncio.AbstractEventLoop
        self._sink: Sink = self._deliver
        self._submissions: list[Submission] = []
        self._readers: CapacityLimiter
        self._operators: CapacityLimiter
        self._replica: Replica | None = None
        self.seqs = Arrivals(lambda: self.db.visible_seq)
        self.epochs = Arrivals(lambda: self.db.epoch)
        self.epoch = 0
        """Of the writer; 0 where there is none here."""
        self.is_replica = False
        """Whether replies tell how far this node is behind."""
        self.is_stopping = False
        """Whether the server stops: what would go on for ever has to end."""

    def start(self, db: Database) -> None:
        """Serve ``db`` from the running event loop."""
        self.serve(db)
        self._loop = asyncio.get_running_loop()
        self._readers = CapacityLimiter(READ_THREADS)
        self._operators = CapacityLimiter(ADMIN_THREADS)

    def serve(self, db: Database) -> None:
        """Answer requests that come from now on with ``db``; others go on with what they have."""
        self.db = db
        self.epoch = db.epoch
        self._replica = db if isinstance(db, Replica) else None
        self.is_replica = self._replica is not None

    def stop(self) -> None:
        """The server stops: who would go on for ever, or for hours, ends."""
        self.is_stopping = True
        self.seqs.end()
        self.epochs.end()
        self.db.begin_closing()

    async def commit(
        self,
        batch: Batch,
        durability: str | None = None,
        expect: tuple[bytes, int] | None = None,
    ) -> int:
        """The seq of ``batch``, once it is as durable as asked. Raises what the commit ended in.

        A cancelled caller does not cancel the commit once it is submitted. A key that is
        expected to have some seq is fetched before, where only this caller waits for it.
        """
        if expect is not None and isinstance(self.db.try_get_entry(expect[0]), NeedsIO):
            await self.read(self.db.get_entry, expect[0])
        done: asyncio.Future[Outcome] = self._loop.create_future()
        self.submit(batch, durability, expect, partial(_settle, done))
        outcome = await done
        if isinstance(outcome, Exception):
            # One error may answer a whole group: each waiter starts its own trace.
            raise outcome.with_traceback(None)
        return outcome

    def submit(
        self,
        batch: Batch,
        durability: str | None,
        expect: tuple[bytes, int] | None,
        ticket: Ticket,
    ) -> None:
        """Commit ``batch`` and tell ``ticket`` what it ended in, never before this returns.

        What the loop's present turn submits is handed over together, to share a sync.
        """
        if not self._submissions:
            self._loop.call_soon(self._hand_over)
        self._submissions.append((batch, durability, expect, ticket))

    def _hand_over(self) -> None:
        submissions, self._submissions = self._submissions, []
        try:
            refused = self.db.submit_all(submissions, self._sink)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            refused = [(ticket, error) for *_, ticket in submissions]
        for ticket, reason in refused:
            self._loop.call_soon(ticket, reason)

    @property
    def lag(self) -> Lag | None:
        """How far this node is behind; ``None`` where it is the one that writes."""
        return None if self._replica is None else self._replica.lag

    def lag_headers(self) -> list[Header]:
        """What every reply of a replica carries."""
        lag = self.lag
        if lag is None:
            return []
        headers = [(b"seerdb-lag-seq", b"%d" % lag.seq)]
        if lag.seconds is not None:
            headers.append((b"seerdb-lag-seconds", b"%.3f" % lag.seconds))
        return headers

    def written(self, durability: str | None) -> list[Header]:
        """The headers of a reply to a write that asked for ``durability`` and was committed."""
        level = durability or self.settings.options.durability
        epoch = b"%d" % self.epoch
        return [
            (b"seerdb-durability", level.encode()),
            (b"seerdb-epoch", epoch),
            seq_header(self.db.visible_seq),
        ]

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read that may wait in a thread. Waits for the thread even when cancelled."""
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._readers)

    async def operate(self, call: Callable[[], T]) -> T:
        """Run an operator's request in a thread."""
        return await to_thread.run_sync(call, limiter=self._operators)

    def _deliver(self, results: Iterable[tuple[Ticket, Outcome]]) -> None:
        """On the committer's thread: one wake-up of the loop for the whole group."""
        try:
            self._loop.call_soon_threadsafe(self._tell, iter(results))
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _tell(self, results: Iterator[tuple[Ticket, Outcome]]) -> None:
        try:
            for ticket, outcome in results:
                ticket(outcome)
        except Exception:
            self._loop.call_soon(self._tell, results)  # the others must not wait for ever
            raise


def _settle(done: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not done.done():  # a cancelled waiter is gone
        done.set_result(outcome)


def service_of(request: Request) -> Service:
    """The service behind a documented route."""
    service: Service = request.app.state.service
    return service
