"""A process that dies at every store operation of a short life."""

from __future__ import annotations

import pytest

from seerdb.errors import FencedError
from seerdb.ids import SeqNo
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.version import Version
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.testing.clock import FakeClock
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table

pytestmark = pytest.mark.crash


def flush(store: ObjectStore, writer: ManifestWriter, counter: int) -> None:
    meta = table(counter)
    store.put(table_name(meta.id), bytes(meta.size))
    writer.commit(add=[meta], last_seq=SeqNo(counter), reason="flush")


class Life:
    """Open, work, collect, close and open again, noting what was promised and what was tried."""

    def __init__(self, store: FaultyObjectStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.promised = Version()
        self.tried = Version()
        self.writer: ManifestWriter | None = None

    def live(self) -> None:
        for seed in (1, 2):
            self.writer = open_writer(self.store, clock=self.clock, seed=seed)
            self.commit(add=10 * seed + 1)
            self.commit(add=10 * seed + 2)
            self.writer.checkpoint()
            self.commit(add=10 * seed + 3, remove=10 * seed + 1)
            self.collect()
            self.writer.checkpoint()
            self.clock.advance(1_000)
            self.collect()

    def commit(self, *, add: int, remove: int | None = None) -> None:
        assert self.writer is not None
        gone = [table(remove).id] if remove else []
        self.tried = self.promised.changed(add=[table(add)], remove=gone)
        self.store.put(table_name(table(add).id), bytes(table(add).size))
        self.writer.commit(add=[table(add)], remove=gone, last_seq=SeqNo(add), reason="flush")
        self.promised = self.tried

    def collect(self) -> None:
        assert self.writer is not None
        collector = GarbageCollector(self.store, self.writer, clock=self.clock, grace_seconds=900)
        report = collector.run(set)
        assert not report.refused


def life() -> tuple[Life, MemoryObjectStore]:
    clock = FakeClock()
    memory = MemoryObjectStore(clock)
    return Life(FaultyObjectStore(memory, clock), clock), memory


def operations() -> int:
    """How many store operations the whole life takes."""
    whole, _ = life()
    whole.live()
    return len(whole.store.trace)


def version_of(state: ManifestState | None) -> Version:
    return state.version if state else Version()


@pytest.mark.parametrize("when", ["crash_at", "crash_after"])
@pytest.mark.parametrize("number", range(1, operations() + 1))
def test_what_was_promised_is_there_and_the_next_process_goes_on(when: str, number: int) -> None:
    whole, memory = life()
    setattr(whole.store, when, number)
    with pytest.raises(CrashError):
        whole.live()
    state = load(memory)
    assert version_of(state) in (whole.promised, whole.tried)
    there = {info.name: info.size for info in memory.list("tables/")}
    for each in version_of(state).tables:
        assert there[table_name(each.id)] == each.size

    heir = open_writer(memory, home="home-b", clock=whole.clock, seed=99)
    assert heir.state.version == version_of(state)
    flush(memory, heir, 50)
    assert load(memory) == heir.state


@pytest.mark.parametrize("number", range(1, operations() + 1))
def test_a_process_that_only_seemed_dead_does_no_harm(number: int) -> None:
    """It stalls where the other test crashes, and wakes up when an heir has taken over."""
    whole, memory = life()
    whole.store.crash_at = number
    with pytest.raises(CrashError):
        whole.live()
    heir = open_writer(memory, home="home-b", clock=whole.clock, seed=99)
    for counter in (50, 51, 52):
        flush(memory, heir, counter)
        heir.checkpoint()
    whole.clock.advance(1_000)
    collector = GarbageCollector(memory, heir, clock=whole.clock, grace_seconds=900)
    assert not collector.run(set).refused
    sleeper = whole.writer
    if sleeper is not None:
        sleeper._store = memory
        with pytest.raises(FencedError):
            sleeper.commit(add=[table(60)], last_seq=SeqNo(60), reason="flush")
    assert load(memory) == heir.state
