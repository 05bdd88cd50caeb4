"""The order of the wrappers: retry( break( meter( store ) ) ).

Metering is innermost, so that what is counted is what was sent; the breaker sees every
attempt; and a retry stops as soon as the breaker is open.
"""

from __future__ import annotations

from random import Random

from seerdb.clock import Clock
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.breaker import BreakingObjectStore, CircuitBreaker
from seerdb.storage.object_store.meter import MeteredObjectStore, Purpose, RequestMeter
from seerdb.storage.object_store.retrying import RetryingObjectStore


def stack(
    inner: ObjectStore,
    *,
    meter: RequestMeter,
    purpose: Purpose,
    breaker: CircuitBreaker,
    clock: Clock,
    random: Random,
) -> ObjectStore:
    """``inner`` as the engine uses it for one purpose. Costs a few µs per request.

    ``meter`` and ``breaker`` are shared by all stacks over one store. Closing any of the
    stacks closes ``inner``.
    """
    metered = MeteredObjectStore(inner, meter, purpose, clock)
    breaking = BreakingObjectStore(metered, breaker)
    return RetryingObjectStore(
        breaking, clock=clock, random=random, give_up=lambda: breaker.is_open
    )
