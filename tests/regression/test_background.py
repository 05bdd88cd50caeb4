"""Background work that waited for itself, or raced with other background work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB, Batch, BusyError, InternalError, UnavailableError
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import TABLE_PREFIX, table_name
from seerdb.storage.pieces import Pieces
from seerdb.storage.wal.backlog import Stretch
from seerdb.storage.write.request import Outcome
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import World, collect_garbage, fill


def test_an_inline_flush_that_fails_is_told_and_does_not_wait_for_ever() -> None:
    """PB-04."""
    world = World()
    db = world.open()
    fill(db, 3)
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.flush()
    db.close()
    world.store.outage = False
    assert world.open().get(b"k0001") == b"v" * 200


def test_what_no_flush_should_raise_is_a_bug_and_says_so() -> None:
    """It counted as a database that was closed meanwhile."""
    db = World().open()
    db.put(b"k", b"v")
    mistake = TypeError("by mistake")
    flush_one = db._engine.flusher.flush_one

    def work() -> list[int]:
        raise mistake

    db._engine.flusher.flush_one = work  # type: ignore[method-assign]
    with pytest.raises(InternalError, match=r"flush failed.*by mistake") as caught:
        db.flush()
    assert caught.value.__cause__ is mistake
    db._engine.flusher.flush_one = flush_one  # type: ignore[method-assign]
    db.close()


def test_an_inline_write_over_the_budget_is_refused_at_once() -> None:
    """It once slept for the whole stall, though nobody else could end it."""
    world = World(wal_budget=64 << 10)
    db = world.open()
    world.store.outage = True
    with pytest.raises(BusyError):
        fill(db, 1000)
    with pytest.raises(BusyError):
        db.put(b"k", b"v")


def test_an_interrupt_in_inline_work_does_not_hang_the_close() -> None:
    world = World()
    db = world.open()
    db.put(b"k", b"v")
    interrupt(db)
    with pytest.raises(KeyboardInterrupt):
        db.flush()
    with pytest.raises(KeyboardInterrupt):
        raise_again(db)
    assert world.kill().open().get(b"k") == b"v"


def interrupt(db: DB) -> None:
    def work() -> list[int]:
        raise KeyboardInterrupt

    db._engine.flusher.flush_one = work  # type: ignore[method-assign]


def raise_again(db: DB) -> None:
    db.close()
    raise KeyboardInterrupt


def test_writes_of_level_object_can_be_submitted_without_background_threads() -> None:
    """The commit thread shipped while it held the mutex that shipping takes."""
    world = World()
    db = world.open()
    told = threading.Event()
    outcomes: list[object] = []

    def sink(group: list[tuple[object, int | Exception]]) -> None:
        outcomes.extend(group)
        told.set()

    batch = Batch()
    batch.put(b"k", b"v")
    db.submit(batch, durability="object", ticket="mine", sink=sink)
    assert told.wait(60)
    assert outcomes == [("mine", 1)]
    db.close()
    db._engine.runtime.close()


def test_a_close_answers_whoever_still_waits_for_the_bucket() -> None:
    world = World(background="thread")
    db = world.open()
    db.put(b"k", b"v", durability="memory")
    answered: list[Outcome] = []
    ship = db._engine.shipper
    db._engine.background.ship.close()
    place = db._engine.committer.place()
    ship.enqueue([(answered.extend, "one", 1), (answered.extend, "later", 99)], place)
    db.close()
    db._engine.runtime.close()
    assert [ticket for ticket, _ in answered] == ["one", "later"]
    assert answered[0] == ("one", 1), "the flush at the close made it safe"
    assert "closed before" in str(answered[1])


def test_a_flush_and_a_merge_that_finish_together_both_stay_visible() -> None:
    """SB-10. Each swapped in the version that its own edit made, so the later swap undid the
    earlier edit."""
    world = World()
    db = world.open()
    for run in range(3):
        fill(db, 3 + run)
        db.flush()
    manifest = db._engine.manifest
    commit = manifest.commit
    flush = threading.Thread(target=db.flush)

    def flushing(**change: Any) -> ManifestState:
        state = commit(**change)
        if change["reason"] == "compaction":
            db.put(b"flushed meanwhile", b"1")
            flush.start()
            flush.join(0.2)  # it ends here if nothing keeps it from publishing in between
        return state

    manifest.commit = flushing  # type: ignore[method-assign]
    db.compact()
    flush.join()
    assert db.get(b"flushed meanwhile") == b"1"
    assert db.get(b"k0004") == b"v" * 200
    version = db._engine.live.current.layout.version
    assert version == db._engine.manifest.state.version


def test_a_merge_that_cannot_be_committed_is_not_called_done() -> None:
    world = World()
    db = world.open()
    fill(db, 3)
    db.flush()
    db.delete(b"k0001")
    db.flush()
    world.store.fail("put_if_absent", match="manifest/", times=30)
    with pytest.raises(UnavailableError):
        db.compact()
    world.clock.advance(60.0)
    world.store._faults.clear()
    db.compact()
    assert db.statistics().runs == 1


def test_what_a_merge_replaced_is_kept_for_the_grace_period_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector could come between the edit and the note of when the inputs went, which counts
    where the wall clock was behind when the edit was made."""
    world = World()
    db = world.open()
    for _ in range(3):
        fill(db, 3)
        db.flush()
    inputs = [table_name(table.id) for table in db._engine.manifest.state.version.tables]
    world.clock.advance(20_000.0)
    world.clock.set_now(world.clock.now() - 10_000.0)
    publisher = db._engine.compactor._publisher
    compacted = publisher.compacted

    def collecting(*change: Any) -> None:
        compacted(*change)
        world.clock.set_now(world.clock.now() + 10_000.0)
        db._engine.background.garbage.wake()

    monkeypatch.setattr(publisher, "compacted", collecting)
    db.compact()
    there = {info.name for info in world.bucket.list("tables/")}
    assert there >= set(inputs)
    collect_garbage(world, db)
    assert {info.name for info in world.bucket.list("tables/")}.isdisjoint(inputs)


class _Interrupted(MemoryObjectStore):
    """Does something of the test's before it lists tables."""

    meanwhile: Callable[[], object] | None = None

    def list(self, prefix: str) -> list[ObjectInfo]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile and prefix == TABLE_PREFIX:
            meanwhile()
        else:
            self.meanwhile = meanwhile
        return super().list(prefix)


def test_what_is_flushed_while_garbage_is_collected_stays_whatever_the_clocks_show() -> None:
    """The collector has the manifest of before, and the clock of the store is an hour behind."""
    clock = FakeClock()
    bucket = _Interrupted(FakeClock(clock.now() - 3600))
    db = World(clock=clock, bucket=bucket, blob_threshold=1).open()
    db.put(b"a", b"1")
    db.flush()
    db.put(b"b", b"2")
    bucket.meanwhile = db.flush
    db._engine.background.garbage.wake()
    assert bucket.meanwhile is None
    assert db.verify().problems == []
    assert dict(db.scan()) == {b"a": b"1", b"b": b"2"}


def test_a_snapshot_reads_what_was_merged_and_collected_meanwhile() -> None:
    world = World(block_cache_capacity=0)
    db = world.open()
    fill(db, 30)
    db.flush()
    rows = dict(db.scan())
    with db.snapshot() as snapshot:
        for _ in range(3):
            db.delete_range(b"k", b"l")
            db.compact()
            collect_garbage(world, db)
        assert list(db.scan()) == []
        assert dict(snapshot.scan()) == rows
        assert snapshot.get(b"k0007") == b"v" * 200


def test_a_ship_goes_on_when_a_flush_takes_its_segment_away() -> None:
    """The segment was let go of between being chosen and being read: the write failed with an
    error of the disk."""
    world = World()
    db = world.open()
    fill(db, 3)
    shipper = db._engine.shipper
    read = shipper._read

    def overtaken(stretch: Stretch) -> Pieces:
        shipper._read = read  # type: ignore[method-assign]
        db.flush()
        return read(stretch)

    shipper._read = overtaken  # type: ignore[method-assign]
    assert db.put(b"k", b"v", durability="object") == 4
    assert dict(world.lose_machine().open().scan()) == dict(db.scan())


def test_a_ship_tried_again_after_the_segment_was_sealed_is_the_same_ship() -> None:
    """The attempt before had happened unheard, without the SEAL: the name was taken by other
    bytes, and every write of level object failed from then on."""
    world = World(takes_tables=False)
    db = world.open()
    world.store.time_out_after("put_if_absent", match="wal/", times=5)
    world.store.fail("get", match="wal/")
    with pytest.raises(UnavailableError):
        db.put(b"a", b"1", durability="object")
    world.clock.advance(60.0)
    db._engine.committer.rotate()
    assert db.put(b"b", b"2", durability="object") == 2
    assert dict(world.lose_machine().open().scan()) == {b"a": b"1", b"b": b"2"}


def test_a_write_that_is_told_it_was_not_shipped_cures_nothing() -> None:
    """Readiness showed for a moment that the log was shipped, and the next attempt came at once."""
    world = World(ship_interval=1.0)
    db = world.open()
    fill(db, 10)
    lane, shipper = db._engine.background.ship, db._engine.shipper
    world.store.outage = True
    shipper.ask()
    lane.wake()
    told: list[Outcome] = []
    place = db._engine.shipping._reach(-1)
    assert place is not None
    shipper.enqueue([(told.extend, "a", place.seq)], place)
    assert lane.attempts == 1
    lane.wake()
    assert lane.attempts == 2
    assert [(ticket, type(outcome)) for ticket, outcome in told] == [("a", UnavailableError)]
