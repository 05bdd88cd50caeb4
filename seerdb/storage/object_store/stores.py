"""The bucket of one database: one connection, one meter, a stack per purpose; and those of the
buckets that a clone borrows from.

What people read has a breaker of its own: a bucket that is full takes nothing more, but gives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from random import Random

from seerdb.clock import Clock
from seerdb.errors import ClosedError, NotFoundError, TruncatedError, UnavailableError
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import BorrowingObjectStore, KeptNames
from seerdb.storage.object_store.breaker import CircuitBreaker
from seerdb.storage.object_store.lender import Debt, Lender
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import MeteredObjectStore, Purpose, RequestMeter
from seerdb.storage.object_store.names import LEASE_NAME
from seerdb.storage.object_store.stack import stack

ANSWER_SECONDS = 5.0
"""After which a bucket that is asked whether it answers does not."""

OpenStore = Callable[[str], ObjectStore]
"""Opens the bucket at a URL."""


class Stores:
    """Hands out the store for each purpose. ``location`` is ``None`` for a given store, with which
    ``open_other`` opens what it borrows from."""

    def __init__(
        self,
        inner: ObjectStore,
        location: StoreLocation | None,
        *,
        clock: Clock,
        random: Random,
        open_other: OpenStore | None = None,
    ) -> None:
        self.location = location
        self.meter = RequestMeter(clock)
        self._breaker, self._read_breaker = CircuitBreaker(clock), CircuitBreaker(clock)
        self._inner = self._heartbeat = inner
        self._clock = clock
        self._random = random
        self._open_other = open_other or self._at
        self._own = self._over(inner, self._breaker, self._read_breaker)
        self._stacks = self._own
        self._lent: dict[Lender, tuple[ObjectStore, dict[Purpose, ObjectStore]]] = {}

    def _over(
        self, inner: ObjectStore, breaker: CircuitBreaker, read_breaker: CircuitBreaker
    ) -> dict[Purpose, ObjectStore]:
        return {
            purpose: stack(
                inner,
                meter=self.meter,
                purpose=purpose,
                breaker=read_breaker if purpose is Purpose.READ else breaker,
                clock=self._clock,
                random=self._random,
            )
            for purpose in Purpose
        }

    def _at(self, url: str) -> ObjectStore:
        return (self.location or StoreLocation(url)).other(url).open()

    def borrow(self, debt: Debt, kept: KeptNames) -> None:
        """From now on, hand out stores that read also what is borrowed. A lender that does not
        answer trips no breaker but its own. Does nothing without lenders, and no request."""
        lenders = debt.loans.lenders
        if not lenders:
            return
        for lender in lenders:
            inner, breaker = self._open_other(lender.url), CircuitBreaker(self._clock)
            self._lent[lender] = inner, self._over(inner, breaker, breaker)
        self._stacks = {
            purpose: BorrowingObjectStore(
                own, debt, [stacks[purpose] for _, stacks in self._lent.values()], kept
            )
            for purpose, own in self._own.items()
        }
        if self.location is not None:
            self.location = replace(self.location, debt=debt)

    def heartbeat(self, patience: float) -> ObjectStore:
        """The store for renewing a lease. Its next renewal is its retry, no breaker may keep it
        from that, and a request that gets no answer within ``patience`` seconds fails; nor does it
        share connections with requests that take long. Closed with the rest."""
        location = self.location
        if location is not None and location.directory is None:
            self._heartbeat = location.open(patience)
        return MeteredObjectStore(self._heartbeat, self.meter, Purpose.LEASE, self._clock)

    @property
    def broken(self) -> CircuitBreaker | None:
        """The breaker that is open, if one is."""
        breakers = self._breaker, self._read_breaker
        return next((breaker for breaker in breakers if breaker.is_open), None)

    def of(self, purpose: Purpose) -> ObjectStore:
        """The store whose requests are counted under ``purpose``."""
        return self._stacks[purpose]

    def own(self, purpose: Purpose) -> ObjectStore:
        """The same, with nothing in it that is borrowed."""
        return self._own[purpose]

    def lent(self, purpose: Purpose) -> list[tuple[Lender, ObjectStore]]:
        """The stores of those from whom something is borrowed, or was."""
        return [(lender, stacks[purpose]) for lender, (_, stacks) in self._lent.items()]

    def answers(self) -> bool:
        """Whether the bucket answers a request of its own, within :data:`ANSWER_SECONDS`."""
        if self.location is None:
            return True
        try:
            with closing(self.location.open(ANSWER_SECONDS)) as asked:
                asked.get(LEASE_NAME)
        except NotFoundError:
            return True
        except (UnavailableError, TruncatedError):
            return False
        return True

    def close(self) -> None:
        """Release connections."""
        self._inner.close()
        if self._heartbeat is not self._inner:
            self._heartbeat.close()
        for inner, _ in self._lent.values():
            inner.close()


class Openings:
    """What one thread is opening, for another one to have it given up. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._stores: list[Stores] = []
        self._are_over = False

    def began(self, stores: Stores) -> None:
        """An opening goes by these: :meth:`give_up` closes them, at once if it was called."""
        with self._lock:
            self._stores.append(stores)
            if self._are_over:
                stores.close()

    def ended(self) -> None:
        """No opening is under way; the stores are whoever's who was opened."""
        with self._lock:
            self._stores.clear()

    def check(self) -> None:
        """Raise ``ClosedError`` if it was given up."""
        if self._are_over:
            raise ClosedError("the database was closed while it was being opened")

    def give_up(self) -> None:
        """Have the opening that is under way, and all to come, fail at their next request; one
        that waits for its answer is cut off. Idempotent."""
        with self._lock:
            self._are_over = True
            for stores in self._stores:
                stores.close()
