"""Keeping states: what a hold proves, when it expires, and the collector beside both."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import pytest
from msgspec.structs import replace

from seerdb.errors import (
    BusyError,
    ChecksumError,
    CorruptionError,
    NotFoundError,
    UnavailableError,
)
from seerdb.ids import SeqNo
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.names import HOLD_PREFIX, MANIFEST_PREFIX, table_name
from seerdb.storage.pieces import Body
from seerdb.storage.retention.checkpoints import HOLD_SECONDS, held
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.storage.retention.kept import (
    Kept,
    decode_kept,
    encode_kept,
    has_expired,
    list_kept,
    record_of,
)
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.manifest.samples import open_writer, table

GRACE = 300.0


class Bucket:
    """A bucket with a manifest in which tables come and go, and its collector."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = MemoryObjectStore(self.clock)
        self.random = random.Random(1)
        self.writer: ManifestWriter = open_writer(self.memory, clock=self.clock)
        self.counter = 0
        self.made: list[Kept] = []
        self.blocks: list[AbstractContextManager[Kept]] = []
        self.change()

    def change(self) -> None:
        """Replace all tables by one."""
        before = [each.id for each in self.writer.state.version.tables]
        self.counter += 1
        added = table(self.counter)
        self.memory.put(table_name(added.id), bytes(added.size))
        self.writer.commit(add=[added], remove=before, last_seq=SeqNo(self.counter), reason="flush")

    def collect(self) -> None:
        """As the collector does whose process keeps nothing of its own."""
        collector = GarbageCollector(
            self.memory, self.writer, clock=self.clock, grace_seconds=GRACE
        )
        report = collector.run(set)
        assert not report.refused

    def complete(self, kept: Kept) -> bool:
        names = {info.name for info in self.memory.list("")}
        return kept.objects <= names

    def hold(
        self,
        *,
        lifetime: float = HOLD_SECONDS,
        state: ManifestState | None = None,
        store: ObjectStore | None = None,
    ) -> Kept:
        """A hold whose owner dies at once."""
        block = held(
            store or self.memory,
            clock=self.clock,
            random_bytes=self.random.randbytes,
            state=state,
            lifetime=lifetime,
        )
        self.blocks.append(block)
        self.made.append(block.__enter__())
        return self.made[-1]


class Interrupted:
    """A store before whose ``number``-th request something happens (0: before all that read the
    newest manifest)."""

    def __init__(self, inner: MemoryObjectStore, number: int, act: Callable[[], object]) -> None:
        self._inner = inner
        self._number = number
        self._act = act
        self._requests = 0
        self.came = False

    def _request(self, name: str) -> None:
        self._requests += 1
        if self._number == self._requests or (not self._number and name == MANIFEST_PREFIX):
            self.came = True
            self._act()

    def get(self, name: str) -> bytes:
        self._request(name)
        return self._inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._request(name)
        return self._inner.get_range(name, offset, length)

    def put(self, name: str, data: Body) -> None:
        self._request(name)
        self._inner.put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        self._request(name)
        self._inner.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        self._request(prefix)
        return self._inner.list(prefix)

    def checksum(self, name: str) -> Checksum:
        self._request(name)
        return self._inner.checksum(name)

    def delete(self, names: Iterable[str]) -> None:
        self._request("")
        self._inner.delete(names)

    def close(self) -> None:
        self._inner.close()


def names(store: MemoryObjectStore, prefix: str) -> list[str]:
    return [info.name for info in store.list(prefix)]


def test_what_is_held_stays_until_it_is_let_go_of() -> None:
    bucket = Bucket()
    with held(bucket.memory, clock=bucket.clock, random_bytes=bucket.random.randbytes) as kept:
        bucket.change()
        bucket.clock.advance(GRACE + 1)
        bucket.collect()
        assert bucket.complete(kept)
    assert names(bucket.memory, HOLD_PREFIX) == []
    bucket.collect()
    assert not bucket.complete(kept)


def test_a_state_that_the_manifest_has_left_meanwhile_is_not_held() -> None:
    """The collector may have decided by then to delete what it names."""
    bucket = Bucket()
    stale = bucket.writer.state
    bucket.change()
    with held(
        bucket.memory, clock=bucket.clock, random_bytes=bucket.random.randbytes, state=stale
    ) as kept:
        assert kept.state.write_id == bucket.writer.state.write_id
        assert kept.state.version == bucket.writer.state.version
        assert len(names(bucket.memory, HOLD_PREFIX)) == 1


def test_a_manifest_that_never_rests_is_not_held() -> None:
    bucket = Bucket()
    restless = Interrupted(bucket.memory, 0, bucket.change)
    with pytest.raises(BusyError):
        bucket.hold(store=restless)
    assert names(bucket.memory, HOLD_PREFIX) == []


def test_where_there_is_no_database_nothing_is_held() -> None:
    clock = FakeClock()
    store = MemoryObjectStore(clock)
    with pytest.raises(NotFoundError), held(store, clock=clock, random_bytes=random.randbytes):
        raise AssertionError("unreachable")


def test_a_hold_whose_owner_died_expires_and_then_what_it_kept_goes() -> None:
    bucket = Bucket()
    kept = bucket.hold(lifetime=1000.0)
    bucket.change()
    for seconds, stays in ((GRACE + 1, True), (1000.0, True)):
        bucket.clock.advance(seconds)
        bucket.collect()
        assert bucket.complete(kept) is stays
    bucket.change()  # the store tells how late it is by dating an object
    bucket.collect()
    assert names(bucket.memory, HOLD_PREFIX) == []
    assert bucket.complete(kept), "the record goes first"
    bucket.collect()
    assert not bucket.complete(kept)


def test_no_clock_but_the_stores_makes_anything_expire() -> None:
    bucket = Bucket()
    kept = bucket.hold(lifetime=1000.0)
    [(info, found)] = list_kept(bucket.memory)
    assert found == kept
    wrong = FakeClock(bucket.clock.now() + 1e9)
    GarbageCollector(bucket.memory, bucket.writer, clock=wrong, grace_seconds=GRACE).run(set)
    assert names(bucket.memory, HOLD_PREFIX) == [info.name]
    assert not has_expired(info, kept, info.modified + 1000.0)
    assert has_expired(info, kept, info.modified + 1000.5)
    forever = replace(kept, lifetime=0.0)
    assert not has_expired(ObjectInfo(info.name, 1, 0.0), forever, 1e18)


def test_nothing_is_deleted_while_a_record_is_damaged() -> None:
    bucket = Bucket()
    bucket.hold()
    [name] = names(bucket.memory, HOLD_PREFIX)
    bucket.memory.put(name, bucket.memory.get(name)[:-1] + b"?")
    bucket.change()
    bucket.clock.advance(GRACE + 1)
    collector = GarbageCollector(
        bucket.memory, bucket.writer, clock=bucket.clock, grace_seconds=GRACE
    )
    assert "damaged" in collector.run(set).refused


def hold_and_change(bucket: Bucket, stale: ManifestState) -> None:
    bucket.hold(state=stale)
    bucket.change()


def test_whenever_a_hold_is_made_beside_a_collector_it_names_nothing_that_goes() -> None:
    """All of it at every request of the collector, and with the state it had read before."""
    came = True
    number = 0
    while came:
        number += 1
        bucket = Bucket()
        stale = bucket.writer.state
        bucket.change()
        bucket.clock.advance(GRACE + 1)
        interrupted = Interrupted(bucket.memory, number, partial(hold_and_change, bucket, stale))
        GarbageCollector(interrupted, bucket.writer, clock=bucket.clock, grace_seconds=GRACE).run(
            set
        )
        came = interrupted.came
        assert all(bucket.complete(kept) for kept in bucket.made)
    assert number > 6


def test_whenever_a_collector_runs_beside_a_hold_that_is_made_it_takes_nothing_of_it() -> None:
    """PB-12."""
    came = True
    number = 0
    while came:
        number += 1
        bucket = Bucket()

        def meanwhile(bucket: Bucket = bucket) -> None:
            bucket.change()
            bucket.clock.advance(GRACE + 1)
            bucket.collect()

        interrupted = Interrupted(bucket.memory, number, meanwhile)
        kept = bucket.hold(store=interrupted)
        came = interrupted.came
        bucket.clock.advance(GRACE + 1)
        bucket.collect()
        assert bucket.complete(kept)
    assert number > 3


def test_a_record_survives_its_encoding_and_damage_is_told() -> None:
    bucket = Bucket()
    state = load(bucket.memory)
    assert state is not None
    kept = Kept("0" * 32, "name", 7, 1.5, record_of(state))
    data = encode_kept(kept)
    assert decode_kept("checkpoints/name", data) == kept
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(CorruptionError):
            decode_kept("checkpoints/name", bytes(damaged))
    with pytest.raises(ChecksumError):
        decode_kept("checkpoints/name", data[:-1] + b"]")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, UnavailableError])
@pytest.mark.parametrize("number", range(4))
def test_a_hold_of_which_nobody_hears_goes_at_once(kind: type[BaseException], number: int) -> None:
    """It was left for a day."""

    def end() -> None:
        raise kind

    bucket = Bucket()
    store = Interrupted(bucket.memory, number, end)
    with pytest.raises(kind):
        bucket.hold(state=bucket.writer.state, store=store)
    assert store.came
    assert bucket.memory.list(HOLD_PREFIX) == []
