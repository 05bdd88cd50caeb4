"""Commits that nobody waits for, as an event loop needs them: three hands for three steps.

The thread that submits appends to the log itself, when it need not wait for that. One thread
syncs what is in flight, while more is appended. The sink is told then, and what it is told of
becomes visible by running through it, on a thread of its choice. So the event loop does all that
takes the interpreter, and hands nothing but the waiting to another thread.

What has to wait for something (a full memtable, an expectation, the bucket) is queued, and the
thread that syncs commits it as any other leader would.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from seerdb.errors import InvalidRequestError, SeerDBError
from seerdb.storage.batch import Batch, check_batch
from seerdb.storage.outward import call_out
from seerdb.storage.write.inbox import Inbox
from seerdb.storage.write.request import (
    Outcome,
    Request,
    Sink,
    Submission,
    check_expectation,
    level_of,
)


class Leader(Protocol):
    """The write path, as the pipeline needs it."""

    def check(self) -> None:
        """Raise what poisoned the database."""

    def ready(self, batch: Batch) -> Batch:
        """The batch as it is logged. Raises ``InvalidRequestError``."""

    def append_at_once(self, requests: list[Request]) -> bool:
        """Append what asks for a sync and no more, if it need not wait for that."""

    def enqueue(self, requests: list[Request]) -> None:
        """Have requests committed by whoever leads next."""

    def append_queued(self) -> bool:
        """Append what is queued, as far as that need not wait; whether something else is next."""

    def lead(self) -> None:
        """Commit the group that is next, with all that it waits for."""

    def sync_beside(self) -> int:
        """Sync what is in flight while others write; up to which seq."""

    def publish(self, upto: int) -> None:
        """Show what is in flight up to the seq ``upto``, which is synced."""


class Pipeline:
    """Thread-safe; one thread serves."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._inbox = Inbox()
        self._serving = threading.RLock()  # a sink may submit
        # In the order of the log; appended to under the commit mutex, taken by the serving thread.
        self._untold: deque[tuple[Sink, list[Request]]] = deque()

    def submit(
        self, submissions: Iterable[Submission], level: int, sink: Sink
    ) -> list[tuple[object, SeerDBError]]:
        """Commit batches without waiting, at ``level`` where they name none; ``sink`` hears of
        them on the serving thread, or at once on this one if that has ended meanwhile.

        Returns the tickets of those that are refused and why (``BusyError`` when too much waits
        already, ``InvalidRequestError``). The batches of the others may not be used any more.
        Raises what poisoned the database.
        """
        self._leader.check()
        requests: list[Request] = []
        refused: list[tuple[object, SeerDBError]] = []
        for batch, durability, expect, ticket in submissions:
            try:
                check_batch(batch)
                asked = level if durability is None else level_of(durability)
                if expect is not None:
                    check_expectation(expect)
                ready = batch if batch.is_plain else self._ready(batch)
            except SeerDBError as error:
                refused.append((ticket, error))
            else:
                requests.append(Request(ready, asked, expect, ticket, sink))
        taken = self._inbox.reserve([len(request.payload) for request in requests])
        if taken < len(requests):
            refused += [(request.ticket, self._inbox.refusal()) for request in requests[taken:]]
            del requests[taken:]
        if requests:
            if not self._leader.append_at_once(requests):
                self._leader.enqueue(requests)
            self._inbox.ring()
            if self._inbox.has_ended:
                self.serve()
        return refused

    def _ready(self, batch: Batch) -> Batch:
        if not batch.kinds:
            raise InvalidRequestError("an empty batch cannot be submitted")
        return self._leader.ready(batch)

    def will_tell(self, requests: list[Request]) -> None:
        """What of these was submitted is told, once it is synced or done. Requires: the commit
        mutex; they are in the log, or done."""
        sinks: dict[Sink, list[Request]] = {}
        for request in requests:
            if request.sink is not None:
                sinks.setdefault(request.sink, []).append(request)
        self._untold.extend(sinks.items())

    def hand_over(self) -> None:
        """Have those told whose commits the calling thread has led, though it does not serve: who
        serves may have looked when they were taken and not done yet. Requires: it leads no more."""
        if self._untold:
            self._inbox.ring()
            if self._inbox.has_ended:
                self.serve()

    def let_go(self, requests: list[Request]) -> None:
        """These are told now, or by somebody else: others may be submitted in their place."""
        self._inbox.finish(len(requests), sum([len(request.payload) for request in requests]))

    def serve(self) -> None:
        """Finish what is submitted, until :meth:`stop`. Raises what a sink raises; called again
        it goes on with what is left."""
        leader, untold, wait = self._leader, self._untold, self._inbox.wait
        with self._serving:
            while True:
                has_to_wait = leader.append_queued()
                synced = leader.sync_beside()
                while untold and (untold[0][1][-1].seq <= synced or untold[0][1][-1].done):
                    self._tell(synced)
                if has_to_wait:
                    leader.lead()
                elif not wait() and not untold:
                    break
            leader.publish(synced)

    def stop(self) -> None:
        """Let :meth:`serve` return once it has served what was submitted."""
        self._inbox.stop()

    def _tell(self, synced: int) -> None:
        """Tell the next sink of what is synced, in one call. Requires: something is, or done.

        Holds nothing of it in the end: the event loop waits for the interpreter meanwhile.
        """
        untold = self._untold
        sink, due = untold.popleft()
        while untold and untold[0][1][-1].seq <= synced and untold[0][0] == sink:
            due += untold.popleft()[1]
        call_out(sink, self._outcomes(due))

    def _outcomes(self, requests: list[Request]) -> Iterator[Outcome]:
        """What becomes of requests that are due, which are published by this if they are not."""
        self.let_go(requests)
        for request in reversed(requests):
            if not request.done:
                self._leader.publish(request.seq)
                break
        for request in requests:
            yield request.ticket, request.error or request.seq
