"""The bucket of one database: one connection, one meter and breaker, a stack per purpose."""

from __future__ import annotations

from random import Random

from seerdb.clock import Clock
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.breaker import CircuitBreaker
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose, RequestMeter
from seerdb.storage.object_store.stack import stack


class Stores:
    """Hands out the store for each purpose. ``location`` is ``None`` for a given store."""

    def __init__(
        self, inner: ObjectStore, location: StoreLocation | None, *, clock: Clock, random: Random
    ) -> None:
        self.location = location
        self.meter = RequestMeter(clock)
        self.breaker = CircuitBreaker(clock)
        self._inner = inner
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

    def of(self, purpose: Purpose) -> ObjectStore:
        """The store whose requests are counted under ``purpose``."""
        return self._stacks[purpose]

    def close(self) -> None:
        """Release connections."""
        self._inner.close()
