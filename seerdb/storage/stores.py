"""The bucket of one database: one connection, one meter and breaker, a stack per purpose."""

from __future__ import annotations

from random import Random

from seerdb.clock import Clock
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.breaker import CircuitBreaker
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import MeteredObjectStore, Purpose, RequestMeter
from seerdb.storage.object_store.stack import stack


class Stores:
    """Hands out the store for each purpose. ``location`` is ``None`` for a given store."""

    def __init__(
        self, inner: ObjectStore, location: StoreLocation | None, *, clock: Clock, random: Random
    ) -> None:
        self.location = location
        self.meter = RequestMeter(clock)
        self.breaker = CircuitBreaker(clock)
        self._inner = self._heartbeat = inner
        self._clock = clock
        self._stacks = {
            purpose: stack(
                inner,
                meter=self.meter,
                purpose=purpose,
                breaker=self.breaker,
                clock=clock,
                random=random,
            )
            for purpose in Purpose
        }

    def heartbeat(self, patience: float) -> ObjectStore:
        """The store for renewing a lease. Its next renewal is its retry, no breaker may keep it
        from that, and a request that gets no answer within ``patience`` seconds fails; nor does it
        share connections with requests that take long. Closed with the rest."""
        location = self.location
        if location is not None and location.directory is None:
            self._heartbeat = location.open(patience)
        return MeteredObjectStore(self._heartbeat, self.meter, Purpose.LEASE, self._clock)

    def of(self, purpose: Purpose) -> ObjectStore:
        """The store whose requests are counted under ``purpose``."""
        return self._stacks[purpose]

    def close(self) -> None:
        """Release connections."""
        self._inner.close()
        if self._heartbeat is not self._inner:
            self._heartbeat.close()
