"""Values with a time to live: gone to the second, everywhere at once, and for good."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from seerdb import DB, Batch, ConflictError, InvalidRequestError
from tests.fixtures.database import ROOMY, World

YEAR = 365 * 24 * 3600.0


@pytest.fixture
def world() -> World:
    return World(**ROOMY)


def contents(db: DB) -> dict[bytes, bytes]:
    return dict(db.scan())


def test_a_value_is_there_until_its_second_and_gone_from_it_on(world: World) -> None:
    db = world.open()
    db.put(b"k", b"v", ttl=30.0)
    world.clock.advance(29.999)
    assert db.get(b"k") == b"v"
    world.clock.advance(0.001)
    assert db.get(b"k") is None


def test_a_lifetime_ends_with_the_second_it_ends_in(world: World) -> None:
    db = world.open()
    world.clock.advance(0.4)
    db.put(b"k", b"v", ttl=1)  # until 1.4 after the hour: shown until 2
    world.clock.advance(1.5)
    assert db.get(b"k") == b"v"
    world.clock.advance(0.1)
    assert db.get(b"k") is None


@pytest.mark.parametrize("place", ["memtable", "sealed", "table", "merged"])
def test_every_read_hides_it_wherever_it_is(world: World, place: str) -> None:
    db = world.open()
    db.put(b"a", b"1")
    db.put(b"b", b"2", ttl=10)
    db.put(b"c", b"3")
    if place == "sealed":
        db._engine.background.flush.close()
        db._engine.committer.rotate()
    elif place != "memtable":
        db.flush()
    if place == "merged":
        db.put(b"d", b"4")
        db.compact()
        db.delete(b"d")
    view = db.snapshot()
    running = db.scan()
    world.clock.advance(10)
    assert db.get(b"b") is None
    assert db.get_entry(b"b") is None
    assert db.try_get_entry(b"b") is None
    assert db.multi_get([b"a", b"b", b"c"]) == [b"1", None, b"3"]
    assert list(db.scan()) == [(b"a", b"1"), (b"c", b"3")]
    assert list(db.scan(reverse=True, limit=2)) == [(b"c", b"3"), (b"a", b"1")]
    assert list(db.scan(b"b", keys_only=True)) == [b"c"]
    # What began before goes by the time it began.
    assert list(running) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert view.get(b"b") == b"2"
    assert view.multi_get([b"b"]) == [b"2"]
    assert list(view.scan(b"b")) == [(b"b", b"2"), (b"c", b"3")]


def test_an_expired_key_is_absent_to_a_condition(world: World) -> None:
    db = world.open()
    seq = db.put(b"k", b"1", ttl=5)
    with pytest.raises(ConflictError):
        db.put(b"k", b"2", expect=0)
    world.clock.advance(5)
    with pytest.raises(ConflictError):
        db.put(b"k", b"2", expect=seq)
    assert db.put(b"k", b"2", expect=0, ttl=5) == seq + 1
    assert db.get(b"k") == b"2"


def test_a_later_put_has_no_end_and_a_later_lifetime_counts(world: World) -> None:
    db = world.open()
    db.put(b"a", b"1", ttl=5)
    db.put(b"a", b"2")
    db.put(b"b", b"1", ttl=50)
    db.put(b"b", b"2", ttl=5)
    world.clock.advance(6)
    assert contents(db) == {b"a": b"2"}


def test_an_expired_value_never_uncovers_an_older_one(world: World) -> None:
    """In no place, and through a compaction that does not reach the older one (I7)."""
    db = world.open(block_size=256)
    for number in range(200):
        db.put(b"ballast%04d" % number, b"v" * 100)
    db.put(b"k", b"old")
    db.flush()
    db.put(b"k", b"new", ttl=5)
    world.clock.advance(6)
    for number in range(8):  # runs that are merged with one another, not with the large one
        assert db.get(b"k") is None
        db.put(b"other%d" % number, b"x")
        db.flush()
    runs = db._engine.manifest.state.version.runs
    assert len(runs) > 1
    assert not any(table.expiring for run in runs for table in run.tables)
    assert sum(table.deletes for run in runs[:-1] for table in run.tables) == 1
    assert db.get(b"k") is None
    db.compact()
    [table] = db._engine.manifest.state.version.tables
    assert (db.get(b"k"), table.deletes, table.entries) == (None, 0, 208)


def test_a_snapshot_sees_what_expired_and_was_merged_away_since(world: World) -> None:
    """Not what a newer read found of it and keeps as a row: that it is deleted."""
    db = world.open(block_size=256)
    for number in range(200):
        db.put(b"ballast%04d" % number, b"v" * 100)
    db.put(b"k", b"old")
    db.flush()
    db.put(b"k", b"new", ttl=5)
    db.flush()
    with db.snapshot() as view:
        world.clock.advance(6)
        for number in range(8):
            db.put(b"other%d" % number, b"x")
            db.flush()
        assert [db.get(b"k") for _ in range(3)] == [None] * 3
        assert db._engine.live.current.layout.rows.get(b"k")[1] is None  # type: ignore[index]
        assert (view.get(b"k"), view.multi_get([b"k"])) == (b"new", [b"new"])
        assert dict(view.scan(prefix=b"k")) == {b"k": b"new"}


def test_a_compaction_keeps_what_has_not_expired(world: World) -> None:
    db = world.open()
    db.put(b"a", b"1", ttl=5)
    db.put(b"b", b"2", ttl=50)
    world.clock.advance(6)
    db.compact()
    [table] = db._engine.manifest.state.version.tables
    assert (table.entries, table.expiring, table.deletes) == (1, 1, 0)
    assert contents(db) == {b"b": b"2"}
    world.clock.advance(50)
    assert contents(db) == {}
    db.compact()
    assert db._engine.manifest.state.version.tables == []


@pytest.mark.parametrize("flushed", [False, True])
def test_lifetimes_survive_reopening_and_crashes(world: World, flushed: bool) -> None:
    db = world.open()
    db.put(b"a", b"1", ttl=30)
    if flushed:
        db.flush()
    for after in (world.kill(), world.lose_power(3)):
        again = after.open()
        assert contents(again) == {b"a": b"1"}
        after.clock.advance(30)
        assert contents(again) == {}
        again.close()
        assert contents(after.open()) == {}


def test_a_clock_that_is_set_back_resurrects_nothing(world: World) -> None:
    """PB-13."""
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    world.clock.advance(11)
    assert db.get(b"k") is None
    world.clock.set_now(world.clock.now() - 3600)
    assert db.get(b"k") is None
    assert contents(db) == {}
    assert db.snapshot().get(b"k") is None


def test_nor_does_it_after_reopening(world: World) -> None:
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    world.clock.advance(11)
    assert db.get(b"k") is None  # only a read has seen it expired
    world.clock.set_now(world.clock.now() - 3600)
    db.close()
    db = world.open()
    assert db.get(b"k") is None


@pytest.mark.parametrize("level", ["memory", "local"])
def test_nor_after_a_crash_that_follows_a_commit(world: World, level: str) -> None:
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    world.clock.advance(11)
    assert db.get(b"k") is None
    world.clock.set_now(world.clock.now() - 3600)
    db.put(b"other", b"v", durability=level)
    assert world.kill().open().get(b"k") is None


def test_nor_after_a_crash_that_follows_one_of_many_lone_puts(world: World) -> None:
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    for number in range(3):
        db.put(b"%d" % number, b"v", durability="memory")
    world.clock.advance(11)
    assert db.get(b"k") is None
    world.clock.set_now(world.clock.now() - 3600)
    db.put(b"other", b"v", durability="memory")
    assert world.kill().open().get(b"k") is None


def test_the_clock_of_expiry_has_passed_every_commit(world: World) -> None:
    """A wall clock behind the newest commit does not lengthen a life."""
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    world.clock.advance(11)
    db.put(b"other", b"v", durability="memory")
    world.clock.set_now(world.clock.now() - 11)
    assert db.get(b"k") is None
    db.put(b"l", b"v", ttl=10)
    world.clock.advance(10)
    assert db.get(b"l") == b"v"
    world.clock.advance(11)
    assert db.get(b"l") is None


def test_what_is_written_after_the_clock_was_set_back_expires(world: World) -> None:
    """It stayed until the wall clock had come to where it had been before: for good."""
    db = world.open()
    db.put(b"other", b"v")
    world.clock.set_now(world.clock.now() - YEAR)
    for level in ("memory", "local"):
        db.put(b"k", b"v", ttl=10, durability=level)
        world.clock.advance(9)
        assert db.get(b"k") == b"v"
        world.clock.advance(13)
        assert db.get(b"k") is None


@pytest.mark.parametrize("level", ["memory", "local"])
def test_commits_after_the_clock_was_set_back_are_told_apart_by_time(
    world: World, level: str
) -> None:
    db = world.open()
    db.put(b"k", b"0", durability=level)
    world.clock.set_now(world.clock.now() - YEAR)
    for number in range(1, 4):
        world.clock.advance(60)
        db.put(b"k", b"%d" % number, durability=level)
    times = [version.time or 0.0 for version in db.history(b"k")]
    assert [later - earlier for earlier, later in pairwise(times)] == [30.0, 30.0, 30.0]


def test_a_range_delete_hides_what_would_have_lived_on(world: World) -> None:
    db = world.open()
    db.put(b"a", b"1", ttl=100)
    db.flush()
    db.put(b"b", b"2", ttl=100)
    db.delete_range(b"a", b"c")
    db.put(b"c", b"3", ttl=100)
    with db.batch() as batch:
        batch.put(b"d", b"gone", ttl=100)
        batch.delete_range(b"d", b"e")
        batch.put(b"d1", b"4", ttl=100)
    for _ in range(2):
        assert contents(db) == {b"c": b"3", b"d1": b"4"}
        db.compact()


def test_a_batch_begins_its_lifetimes_when_it_is_written(world: World) -> None:
    db = world.open()
    batch = Batch()
    batch.put(b"a", b"1", ttl=10)
    batch.put(b"b", b"2")
    world.clock.advance(100)
    db.write(batch)
    assert contents(db) == {b"a": b"1", b"b": b"2"}
    world.clock.advance(10)
    assert contents(db) == {b"b": b"2"}
    db.write(batch)
    assert contents(db) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize(
    "ttl", [0, -1, -0.5, math.nan, math.inf, -math.inf, 100 * 366 * 86400, "30", b"30", True, [1]]
)
def test_a_bad_lifetime_is_refused_and_changes_nothing(world: World, ttl: Any) -> None:
    db = world.open()
    batch = Batch()
    batch.put(b"a", b"1")
    with pytest.raises(InvalidRequestError, match="ttl"):
        db.put(b"k", b"v", ttl=ttl)
    with pytest.raises(InvalidRequestError, match="ttl"):
        batch.put(b"k", b"v", ttl=ttl)
    assert (len(batch), db.visible_seq, db.get(b"k")) == (1, 0, None)


@pytest.mark.parametrize("ttl", [1e-9, 1, 100 * 365 * 86400])
def test_lifetimes_at_the_edge_are_taken(world: World, ttl: float) -> None:
    db = world.open()
    db.put(b"k", b"", ttl=ttl)
    assert db.get(b"k") == b""
    db.flush()
    assert db.get(b"k") == b""


def test_a_cached_row_expires_too(world: World) -> None:
    db = world.open()
    db.put(b"k", b"v", ttl=10)
    db.flush()
    assert [db.get(b"k") for _ in range(5)] == [b"v"] * 5
    world.clock.advance(10)
    assert db.get(b"k") is None
