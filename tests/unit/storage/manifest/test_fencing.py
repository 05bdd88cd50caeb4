"""Claims: two writers, many openers, and those who slept."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from seerdb.errors import AlreadyExistsError, ConflictError, FencedError, UnavailableError
from seerdb.ids import SeqNo
from seerdb.storage.manifest.edit import Claim
from seerdb.storage.manifest.fencing import CLAIM_ATTEMPTS, Claimant, check_newest
from seerdb.storage.manifest.store import load, manifest_numbers, read_record
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.names import MANIFEST_PREFIX, table_name
from seerdb.storage.pieces import Body
from seerdb.storage.retention.garbage import GarbageCollector
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.manifest.samples import CAPABILITIES, claimant, open_writer, table


def flush(writer: ManifestWriter, counter: int) -> None:
    """Upload a table, a dummy of the right size, and commit it."""
    meta = table(counter)
    writer._store.put(table_name(meta.id), bytes(meta.size))
    writer.commit(add=[meta], last_seq=SeqNo(counter), reason="flush")


def move_on(store: MemoryObjectStore, clock: FakeClock, *, from_table: int) -> ManifestWriter:
    """Another writer takes over, works, and collects all that it may."""
    writer = open_writer(store, home="home-b", clock=clock, seed=from_table)
    for counter in range(from_table, from_table + 3):
        flush(writer, counter)
        writer.checkpoint()
    clock.advance(1_000)
    collector = GarbageCollector(store, writer, clock=clock, grace_seconds=900)
    report = collector.run(set)
    assert not report.refused
    return writer


def names(store: ObjectStore) -> list[str]:
    return [info.name for info in store.list("")]


@pytest.mark.parametrize("commits", range(3))
def test_a_look_for_a_successor_goes_past_records_of_ones_own(commits: int) -> None:
    """As another lane commits them while a ship is under way, before somebody takes over."""
    store = MemoryObjectStore()
    writer = open_writer(store)
    known = writer.state
    for counter in range(1, 1 + commits):
        flush(writer, counter)
    check_newest(store, known)
    open_writer(store, home="home-b", seed=1)
    with pytest.raises(FencedError, match="took over from epoch 1"):
        check_newest(store, known)


def test_the_first_claim_makes_the_database() -> None:
    store = MemoryObjectStore()
    state = open_writer(store).state
    assert (state.number, state.epoch, state.home) == (1, 1, "home-a")
    assert (state.store, state.capabilities) == ("fp", CAPABILITIES)
    assert load(store) == state


def test_an_opening_costs_one_creation_and_one_listing_to_confirm_it() -> None:
    store = MemoryObjectStore()
    open_writer(store).checkpoint()
    store.calls.clear()
    open_writer(store)
    assert dict(store.calls) == {"list": 2, "get": 1, "put_if_absent": 1}


def test_a_database_keeps_its_id() -> None:
    store = MemoryObjectStore()
    first = open_writer(store)
    stranger = Claimant(database_id="e" * 32, home="home-b", store="other")
    second = ManifestWriter.claim(store, load(store), claimant=stranger, clock=FakeClock())
    assert second.state.database_id == first.state.database_id
    assert (second.state.home, second.state.store, second.epoch) == ("home-b", "other", 2)


def test_who_continues_a_log_does_not_claim_after_another_home() -> None:
    """It would go on with a log that the other one may have gone on without."""
    store = MemoryObjectStore()
    open_writer(store)
    seen = load(store)
    open_writer(store, seed=1)
    again = ManifestWriter.claim(
        store, seen, claimant=replace(claimant(), continues=True), clock=FakeClock()
    )
    assert again.epoch == 3, "after one of the same home"
    open_writer(store, home="home-b", seed=2)
    with pytest.raises(ConflictError, match="another data directory took this database over"):
        ManifestWriter.claim(
            store, seen, claimant=replace(claimant(), continues=True), clock=FakeClock()
        )


def test_the_older_of_two_writers_is_fenced_and_writes_nothing() -> None:
    store = MemoryObjectStore()
    old = open_writer(store)
    flush(old, 1)
    new = open_writer(store, home="home-b", seed=1)
    with pytest.raises(FencedError, match="epoch 2"):
        old.commit(add=[table(2)], last_seq=SeqNo(2), reason="flush")
    assert old.fenced
    assert load(store) == new.state
    assert new.state.version.tables == [table(1)]
    flush(new, 3)


def test_who_is_fenced_stays_fenced_without_asking() -> None:
    store = MemoryObjectStore()
    old = open_writer(store)
    open_writer(store, seed=1)
    with pytest.raises(FencedError):
        flush(old, 1)
    store.calls.clear()
    for _ in range(2):
        with pytest.raises(FencedError):
            old.commit(add=[table(1)], last_seq=SeqNo(1), reason="flush")
        with pytest.raises(FencedError):
            old.checkpoint()
        with pytest.raises(FencedError):
            old.commit(reason="nothing to do")
    assert not store.calls


def test_the_fence_stands_after_the_collector_ran() -> None:
    """PB-01."""
    clock = FakeClock()
    store = MemoryObjectStore(clock)
    old = open_writer(store, clock=clock)
    flush(old, 1)
    new = move_on(store, clock, from_table=10)
    assert manifest_numbers(store)[:2] == [1, 3], "both claims, and only they, are left"
    with pytest.raises(FencedError):
        old.commit(add=[table(2)], last_seq=SeqNo(99), reason="flush")
    assert load(store) == new.state


@pytest.mark.parametrize("listing_fails", [False, True])
def test_an_attempt_retried_after_its_collection_does_not_count(listing_fails: object) -> None:
    """The attempt happened unheard, others went on and collected it: its number is free."""
    clock = FakeClock()
    store = MemoryObjectStore(clock)
    faulty = FaultyObjectStore(store)
    old = open_writer(faulty, clock=clock)
    faulty.time_out_after("put_if_absent", match=MANIFEST_PREFIX)
    with pytest.raises(UnavailableError):
        flush(old, 1)
    new = move_on(store, clock, from_table=10)
    assert 2 not in manifest_numbers(store)
    if listing_fails:
        faulty.fail("list")
        with pytest.raises(UnavailableError):
            old.commit(add=[table(2)], last_seq=SeqNo(2), reason="flush")
    with pytest.raises(FencedError, match="history went on"):
        old.commit(add=[table(2)], last_seq=SeqNo(2), reason="flush")
    assert load(store) == new.state


def test_an_attempt_that_others_already_build_on_counts() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    old = open_writer(store)
    store.time_out_after("put_if_absent", match=MANIFEST_PREFIX)
    with pytest.raises(UnavailableError):
        flush(old, 1)
    new = open_writer(store, home="home-b", seed=1)
    assert new.state.version.tables == [table(1)]
    state = old.commit(add=[table(1)], last_seq=SeqNo(1), reason="flush")
    assert state.version.tables == [table(1)]
    with pytest.raises(FencedError):
        flush(old, 2)


def test_an_opener_that_slept_does_not_claim_the_past() -> None:
    """PB-17. A creation succeeds below what was collected since."""
    clock = FakeClock()
    store = MemoryObjectStore(clock)
    writer = open_writer(store, clock=clock)
    flush(writer, 1)
    seen = load(store)
    assert seen is not None
    for counter in range(2, 6):
        flush(writer, counter)
        writer.checkpoint()
    clock.advance(1_000)
    GarbageCollector(store, writer, clock=clock, grace_seconds=900).run(set)
    assert seen.number + 1 not in manifest_numbers(store)
    late = ManifestWriter.claim(store, seen, claimant=claimant(), clock=clock)
    assert late.state.number == writer.state.number + 1
    assert late.state.version == writer.state.version
    flush(late, 9)
    assert load(store) == late.state


def test_a_claim_that_happened_unheard_hinders_nobody() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    old = open_writer(store)
    store.time_out_after("put_if_absent")
    with pytest.raises(UnavailableError):
        open_writer(store, seed=1)
    with pytest.raises(FencedError):
        flush(old, 1)
    new = open_writer(store, seed=2)
    assert new.epoch == 3
    flush(new, 2)


class HastyRetries(MemoryObjectStore):
    """Creates, does not hear the answer, creates again and reports the second answer."""

    def put_if_absent(self, name: str, data: Body) -> None:
        super().put_if_absent(name, data)
        raise AlreadyExistsError(name)


def test_an_own_object_in_the_way_is_success() -> None:
    store = HastyRetries()
    writer = open_writer(store)
    flush(writer, 1)
    writer.checkpoint()
    assert manifest_numbers(store) == [1, 2, 3]
    assert load(store) == writer.state


def test_of_eight_openers_at_once_only_the_last_may_commit() -> None:
    store = MemoryObjectStore()
    writers: list[ManifestWriter] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        state = load(store)
        start.wait()
        randbytes = random.Random(seed).randbytes
        writers.append(
            ManifestWriter.claim(
                store,
                state,
                claimant=claimant(f"home-{seed}"),
                clock=FakeClock(),
                random_bytes=randbytes,
            )
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writers.sort(key=lambda writer: writer.epoch)
    assert [writer.epoch for writer in writers] == list(range(1, 9))
    for writer in writers[:-1]:
        with pytest.raises(FencedError):
            flush(writer, 1)
    flush(writers[-1], 2)
    assert load(store) == writers[-1].state


class Taken(MemoryObjectStore):
    """Somebody is always faster."""

    def put_if_absent(self, name: str, data: Body) -> None:
        super().put_if_absent(name, b"")
        raise AlreadyExistsError(name)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return []

    def get(self, name: str) -> bytes:
        self.delete([name])
        return super().get(name)


def test_an_opener_gives_up_after_many_faster_ones() -> None:
    store = Taken()
    with pytest.raises(ConflictError, match="opened this database"):
        open_writer(store)
    assert store.calls["put_if_absent"] == CLAIM_ATTEMPTS


def test_claims_name_what_the_opener_found() -> None:
    store = MemoryObjectStore()
    open_writer(store)
    record = read_record(store, 1)
    assert isinstance(record, Claim)
    assert record.capabilities == CAPABILITIES
