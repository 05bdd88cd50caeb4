"""A bucket in memory, the faults before it, and a clock that stands still."""

from __future__ import annotations

import pytest

from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def faulty(bucket: MemoryObjectStore, clock: FakeClock) -> FaultyObjectStore:
    return FaultyObjectStore(bucket, clock)
