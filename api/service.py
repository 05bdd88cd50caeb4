"""The service that the routes share: the database beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from seerdb import Batch, NeedsIO, Replica
from seerdb.errors import ClosedError
from seerdb_api.arrivals import Arrivals
from seerdb_api.port import Database, Lag, Outcome, Sink, Submission, Ticket
from seerdb_api.reply import Header, seq_header
from seerdb_api.settings import ServiceSettings

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 32
"""Reads that may wait for disk or bucket at once. They wait rather than compute, so far more
than there are cores."""
ADMIN_THREADS = 4
"""Flushes, compactions and what else operators ask for at once, apart from reads so that they never
starve each other."""

WRITE_THREADS = 2
"""Large writes that are decoded or made ready at once. They compute rather than wait, apart from
reads, which may all wait for a bucket that is away: writes go on then."""

MANY_OPERATIONS = 1024
LARGE_BYTES = 1 << 20
"""Batches with more are made ready in a thread, so that other requests get their turn."""

PATIENCE_SECONDS = 40.0
"""After which a stop does not wait for a bucket that does not answer: 60 are promised for all."""


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
        self._writers: CapacityLimiter
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
        self._writers = CapacityLimiter(WRITE_THREADS)

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
        self.db.begin_closing(PATIENCE_SECONDS)

    @contextmanager
    def given_up_when_stopping(self) -> Iterator[None]:
        """Around a request: when the server stops and waits for it no longer, which cancels it,
        this raises ``ClosedError``, as the database does where it gives up by itself."""
        try:
            yield
        except asyncio.CancelledError as error:
            if not self.is_stopping:
                raise
            raise stopped() from error

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
        ticket = partial(_settle, done)
        if len(batch) > MANY_OPERATIONS or batch.size > LARGE_BYTES:
            submission = batch, durability, expect, ticket
            for _, refusal in await self.compute(self.db.submit_all, [submission], self._sink):
                raise refusal
        else:
            self.submit(batch, durability, expect, ticket)
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

    async def compute(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a part of a large write that waits for nothing in a thread."""
        return await to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._writers)

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


def stopped() -> ClosedError:
    """What a request ends in for which a server that stops waits no longer."""
    return ClosedError("the server stopped before the request was done")


def _settle(done: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not done.done():  # a cancelled waiter is gone
        done.set_result(outcome)


def service_of(request: Request) -> Service:
    """The service behind a documented route."""
    service: Service = request.app.state.service
    return service
