"""Operands and lifetimes: what is merged into a value that expires."""

from __future__ import annotations

import pytest

from seerdb.errors import ChecksumError
from seerdb.storage.compaction.plan import BOTTOM_LEVEL
from seerdb.storage.object_store.names import TABLE_PREFIX
from tests.db.merging import everywhere, int64, opened, tables
from tests.fixtures.database import World
from tests.fixtures.levels import merge_runs


def refuse_tables(world: World) -> None:
    """None comes into the bucket before the faults of the store are cleared."""
    refusal = ChecksumError("the bucket takes no tables, by plan")
    world.store.fail("put", match=TABLE_PREFIX, times=1 << 30, error=refusal)


def test_a_merge_keeps_the_time_to_live_of_its_base() -> None:
    for flushes in range(8):
        world, db = opened()
        db.put(b"k", b"0", ttl=10)
        if flushes & 1:
            db.flush()
        db.merge(b"k", b"1")
        if flushes & 2:
            db.flush()
        everywhere(db, b"01")
        world.clock.advance(10)
        everywhere(db, None)
        db.merge(b"k", b"2")  # begins anew, for good
        if flushes & 4:
            db.flush()
        everywhere(db, b"2")
        world.clock.advance(1000)
        db.merge(b"k", b"3")
        everywhere(db, b"23")
        db.compact()
        everywhere(db, b"23")
        everywhere(world.kill().open(), b"23")


@pytest.mark.parametrize("operator", ["append", "int64_add"])
def test_a_batch_that_waits_longer_than_its_value_lives_leaves_nothing(operator: str) -> None:
    """What it merges belongs to the value that it put, whether or not that folds by then."""
    world, db = opened(operator, memtable_capacity=4096)
    for waited in (False, True):
        before = world.clock.now()
        world.store.delay("put", match="tables/", seconds=5.0)
        while world.clock.now() - before < 5.0:  # until a batch has waited for a flush
            with db.batch() as batch:
                batch.put(b"k", b"0" * 100, ttl=1)
                batch.merge(b"k", int64(1))
                batch.merge(b"k", int64(2))
        everywhere(db, None)
        everywhere(world.kill().open(), None)
        if waited:
            db.compact()
            everywhere(db, None)
    db.merge(b"k", int64(3))
    everywhere(db, int64(3))


def test_operands_on_both_sides_of_an_end_are_not_combined_above_it() -> None:
    """The first one belongs to the value that is gone, whatever was merged before it was known."""
    world, db = opened(block_size=256)
    for number in range(200):
        db.put(b"ballast%04d" % number, b"v" * 100)
    db.put(b"k", b"0", ttl=10)
    db.flush()
    db.merge(b"k", b"1")
    world.clock.advance(10)
    db.merge(b"k", b"2")
    for number in range(8):
        db.put(b"o%d" % number, b"x")
        db.flush()
        everywhere(db, b"2")
    assert len(db._engine.manifest.state.version.runs) > 1
    db.compact()
    everywhere(db, b"2")


@pytest.mark.parametrize("late", [0, 1])
def test_an_operand_that_waits_for_a_large_base_goes_with_it(late: int) -> None:
    """Not with what is merged once that is over, from the very second on in which it ends."""
    world, db = opened()
    db.put(b"k", b"0" * 10_000, ttl=10)
    db.merge(b"k", b"1")
    everywhere(db, b"0" * 10_000 + b"1")
    world.clock.advance(10 + late)
    db.merge(b"k", b"2")
    everywhere(db, b"2")
    everywhere(world.kill().open(), b"2")


def test_an_operand_goes_with_its_base_though_that_was_dropped_first() -> None:
    """What expired under operands that a compaction does not see must be remembered."""
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    for _ in range(3):
        db.put(b"other", b"x" * 200)
        db.flush()
    db.merge(b"k", int64(1))
    world.clock.advance(10)
    db._engine.compactor.ask()
    db._engine.background.compaction.wake()
    assert [table.entries for table in tables(db)] == [2]
    everywhere(db, None)
    db.merge(b"k", int64(5))
    everywhere(db, int64(5))
    db.compact()
    everywhere(db, int64(5))


def test_so_does_one_in_a_later_segment_of_a_recovered_log() -> None:
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    for _ in range(3):
        db.put(b"other", b"x" * 200)
        db.flush()
    db.put(b"unflushed", b"1")
    refuse_tables(world)
    with pytest.raises(ChecksumError):
        db.flush()
    db.merge(b"k", int64(1))
    world = world.kill()
    refuse_tables(world)
    db = world.open()
    [memtable] = db._engine.live.current.sealed
    assert len(memtable.segments) == 2
    world.store._faults.clear()
    world.clock.advance(10)
    db._engine.compactor.ask()
    assert db._engine.compactor.compact_one()
    assert len(tables(db)) == 1
    everywhere(db, None)


@pytest.mark.parametrize(
    ("merged", "remembers"), [(b"k", True), (b"l", True), (b"m", False), (None, False)]
)
def test_what_expired_is_remembered_at_the_bottom_if_a_table_that_stays_may_merge_into_it(
    merged: bytes | None, remembers: bool
) -> None:
    world, db = opened("int64_add")
    db.put(b"j", b"x")
    db.put(b"l", int64(7))
    db.flush()
    db.put(b"k", int64(1), ttl=10)
    db.flush()
    if merged is not None:
        db.merge(merged, int64(1))
    else:
        db.put(b"k", b"replaced", ttl=1)
    db.flush()
    world.clock.advance(10)
    assert merge_runs(db, db._engine.manifest.state.version.runs[1:], to=BOTTOM_LEVEL).bottom
    assert [table.expiring for table in tables(db) if table.level] == [int(remembers)]
    everywhere(db, None)
    db.merge(b"k", int64(5))
    everywhere(db, int64(5))
    db.compact()
    everywhere(db, int64(5))
    assert all(not table.special for table in tables(db))


def test_what_expired_is_dropped_when_nothing_merged_into_it_is_left() -> None:
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    db.merge(b"k", int64(1))
    world.clock.advance(10)
    db.compact()
    assert tables(db) == []


def test_what_expires_while_a_commit_is_on_its_way_is_remembered() -> None:
    """Its operand was committed before the end, and comes to light after the compaction."""
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    db.flush()
    world.clock.advance(9.5)
    publish = db._engine.committer.publish

    def late(upto: int) -> None:
        world.clock.advance(1)
        db._engine.compactor.ask()
        db._engine.compactor.compact_one()
        publish(upto)

    db._engine.committer.publish = late  # type: ignore[method-assign]
    db.merge(b"k", int64(1))
    everywhere(db, None)
