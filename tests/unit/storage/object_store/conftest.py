"""A bucket in memory, the faults before it, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.object_store.s3_server import ScriptedServer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def bucket() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def faulty(bucket: MemoryObjectStore, clock: FakeClock) -> FaultyObjectStore:
    return FaultyObjectStore(bucket, clock)


@pytest.fixture(scope="module")
def running_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def server(running_server: ScriptedServer) -> ScriptedServer:
    running_server.replies.clear()
    running_server.requests.clear()
    return running_server
