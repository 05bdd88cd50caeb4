"""The wrappers together, in the order the engine uses them."""

from __future__ import annotations

from random import Random

import pytest

from seerdb.errors import UnavailableError
from seerdb.storage.object_store.breaker import CircuitBreaker
from seerdb.storage.object_store.meter import Purpose, RequestMeter
from seerdb.storage.object_store.stack import stack
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore


def test_every_attempt_is_counted_and_an_open_breaker_ends_the_attempts() -> None:
    clock, meter = FakeClock(), RequestMeter()
    breaker = CircuitBreaker(clock)
    faulty = FaultyObjectStore(MemoryObjectStore(), clock)
    readers, writers = (
        stack(faulty, meter=meter, purpose=purpose, breaker=breaker, clock=clock, random=Random(1))
        for purpose in (Purpose.READ, Purpose.FLUSH)
    )
    faulty.fail("put", times=2)
    writers.put("a", b"abc")
    assert [(each.purpose, each.requests, each.errors) for each in meter.statistics()] == [
        (Purpose.FLUSH, 3, 2)
    ]

    faulty.outage = True
    with pytest.raises(UnavailableError, match="outage"):
        readers.get("a")
    assert breaker.is_open
    sent, slept = meter.statistics(), clock.slept
    with pytest.raises(UnavailableError, match="not tried"):
        writers.put("b", b"abc")  # the breaker is shared
    assert (meter.statistics(), clock.slept) == (sent, slept)

    faulty.outage = False
    clock.advance(1.0)
    assert readers.get("a") == b"abc"
    assert not breaker.is_open
