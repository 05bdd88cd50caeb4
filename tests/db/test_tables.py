"""How many tables there are, and what becomes of those that are merged."""

from __future__ import annotations

import pytest

from seerdb import DB, Components, CorruptionError, UnavailableError
from seerdb.clock import SystemClock
from seerdb.events import CompactionCompleted, GarbageCollected
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.compaction.policy.tiers import max_runs
from seerdb.storage.object_store.names import TABLE_PREFIX
from seerdb.storage.retention.outputs import GRACE_SECONDS
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.fixtures.database import World, collect_garbage


def tables_in_bucket(world: World) -> set[str]:
    return {info.name for info in world.bucket.list(TABLE_PREFIX)}


def tables_in_version(db: DB) -> set[str]:
    return {f"{TABLE_PREFIX}{table.id}.sst" for table in db._engine.manifest.state.version.tables}


MAX_RUNS = max_runs(PolicyOptions()) + 1


@pytest.mark.parametrize("compaction", POLICIES)
@pytest.mark.parametrize("fresh", [True, False])
def test_however_often_it_flushes_there_are_few_runs(*, fresh: bool, compaction: str) -> None:
    """``fresh``: every flush brings new keys, so that the data grows; else they are replaced."""
    world = World(compaction=compaction)
    db = world.open()
    most = 0
    for number in range(150):
        for part in range(3):
            db.put(b"%04d%d" % (number if fresh else number % 7, part), b"x" * 60)
        db.flush()
        most = max(most, db.statistics().runs)
    assert most <= MAX_RUNS
    assert len(list(db.scan())) == (450 if fresh else 21)
    assert len(tables_in_version(db)) == db.statistics().tables


def test_each_byte_is_rewritten_a_few_times_only() -> None:
    world = World()
    db = world.open()
    for number in range(256):
        for part in range(8):
            db.put(b"%05d" % (number * 8 + part), b"%064d" % (number * part))
        db.flush()
    statistics = db.statistics()
    written = statistics.flushes.bytes + statistics.compactions.bytes_written
    assert written / statistics.flushes.bytes < 9, "T - 1 in the last merge, 1 in each tier"


def test_merged_tables_are_deleted_after_the_grace_period() -> None:
    world = World()
    db = world.open()
    for number in range(4):
        db.put(b"%d" % number, b"x" * 100)
        db.flush()
    db.compact()
    merged = tables_in_bucket(world) - tables_in_version(db)
    assert len(merged) >= 4
    world.clock.advance(GRACE_SECONDS - 1)
    db.put(b"a", b"1")
    db.compact()
    assert merged <= tables_in_bucket(world), "not yet"
    world.clock.advance(2 * GRACE_SECONDS)
    db.put(b"b", b"2")
    db.compact()
    assert not merged & tables_in_bucket(world)
    assert len(tables_in_bucket(world) - tables_in_version(db)) == 2, "the youngest inputs"
    collected = [event for event in world.events if isinstance(event, GarbageCollected)]
    assert merged <= {name for event in collected for name in event.deleted}
    assert db.statistics().deleted_objects == sum(len(event.deleted) for event in collected)
    assert db.verify().problems == []


def test_an_orphan_of_an_earlier_life_is_deleted() -> None:
    """A table was uploaded, then the process died before the manifest named it."""
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    world.store.fail("put_if_absent", match="manifest/", times=1000)
    with pytest.raises(UnavailableError, match="by plan"):
        db.flush()
    [orphan] = tables_in_bucket(world)
    world = world.kill()
    db = world.open()
    assert db.get(b"a") == b"1"
    world.clock.advance(2 * GRACE_SECONDS)
    db.compact()
    db.put(b"b", b"2")
    db.compact()
    assert orphan not in tables_in_bucket(world)
    assert dict(db.scan()) == {b"a": b"1", b"b": b"2"}


def test_nothing_is_deleted_while_the_manifest_is_damaged() -> None:
    world = World()
    db = world.open()
    for number in range(3):
        db.put(b"a", b"%d" % number)
        db.compact()
    before = tables_in_bucket(world)
    newest = world.bucket.list("manifest/")[-1].name
    world.bucket.put(newest, world.bucket.get(newest)[:-1] + b"!")
    collect_garbage(world, db)
    assert tables_in_bucket(world) == before
    garbage = next(check for check in db.health() if check.name == "garbage")
    assert (garbage.ok, "manifest" in garbage.detail) == (False, True)


def test_a_merge_tells_what_it_did() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1" * 300)
    first = db.flush()
    db.put(b"b", b"2" * 300)
    second = db.flush()
    assert len(first.tables) == len(second.tables) == 1
    assert second.last_seq == 2
    report = db.compact()
    assert report.removed == sorted(first.tables + second.tables)
    [event] = [event for event in world.events if isinstance(event, CompactionCompleted)]
    assert sorted(event.inputs) == report.removed
    assert event.outputs == report.added
    assert (event.entries, event.bytes_read > event.bytes_written > 0) == (2, True)
    assert db.compact().removed == [], "one run without tombstones is left alone"
    assert db.flush().tables == []


def test_a_full_merge_drops_what_is_deleted() -> None:
    world = World()
    db = world.open()
    with db.batch() as batch:
        for number in range(200):
            batch.put(b"%03d" % number, b"x" * 50)
    db.flush()
    db.delete_range(b"000", b"150")
    db.delete(b"170")
    db.flush()
    size = db.statistics().table_bytes
    db.compact()
    statistics = db.statistics()
    assert (statistics.table_entries, statistics.runs) == (49, 1)
    assert statistics.table_bytes < size / 2
    [table] = db._engine.manifest.state.version.tables
    assert (table.deletes, table.range_deletes) == (0, 0)
    db.delete_range(b"0", b"2")
    db.compact()
    assert (db.statistics().tables, list(db.scan())) == (0, [])
    assert db.put(b"a", b"1") == 5
    db.flush()
    assert db.get(b"a") == b"1"


def test_flushed_segments_are_used_again() -> None:
    world = World(wal_segment_size=16 << 10)
    db = world.open()
    for number in range(300):
        db.put(b"%03d" % number, b"x" * 200)
    assert db.statistics().wal.active_segment > 10
    made = [step for step in world.files.trace if step.startswith("create data/wal/unready")]
    assert 1 <= len(made) <= 3, "files are not made anew for each segment"
    assert len(world.files.list("data/wal")) <= 4


def test_the_next_segment_is_ready_before_it_is_needed() -> None:
    world = World()
    db = world.open()
    for number in range(10):  # of 13 that fit
        db.put(b"%d" % number, b"1" * 100)
    assert db.statistics().wal.active_segment == 1
    assert any(name.startswith("spare-") for name in world.files.list("data/wal"))


def test_a_database_that_is_hardly_written_to_has_one_segment_on_disk() -> None:
    world = World(memtable_capacity=1 << 20)
    world.open().put(b"a", b"1")
    assert [name for name in world.files.list("data/wal") if name != "HOME"] == [
        "00000000000000000001.wal"
    ]


def test_garbage_is_collected_in_the_background_too(open_db: OpenDB) -> None:
    """The lane is woken after the grace period by the timer; here by hand, time being real."""
    clock = FakeClock()

    class OldWorld(SystemClock):
        def now(self) -> float:
            return clock.now()

        def now_ns(self) -> int:
            return clock.now_ns()

        def monotonic(self) -> float:
            return super().monotonic() + clock.monotonic()

    collected: list[object] = []
    db = open_db(components=Components(clock=OldWorld(), listener=collected.append))
    db.put(b"a", b"1")
    db.flush()
    db.put(b"a", b"2")
    db.compact()
    clock.advance(1e9)
    lane = db._engine.background.garbage
    assert lane.wake_and_wait(lambda: db.statistics().deleted_objects == 2, 60)
    assert db.get(b"a") == b"2"
    assert db.verify().problems == []


@pytest.mark.parametrize("tail_is_known", [False, True])
def test_what_a_lost_table_held_is_not_told_to_be_absent(tail_is_known: bool) -> None:
    """Over HTTP it was 404, as of a key that nobody had written."""
    world = World(block_cache_capacity=0)
    db = world.open()
    db.put(b"a", b"1")
    db.flush()
    if not tail_is_known:
        db.close()
        db = world.open()
    [name] = tables_in_bucket(world)
    sound = world.bucket.get(name)
    world.bucket.delete([name])
    for read in (
        lambda: db.get(b"a"),
        lambda: db.multi_get([b"a"]),
        lambda: list(db.scan()),
        lambda: db.put(b"a", b"2", expect=1),
    ):
        with pytest.raises(CorruptionError, match=f"{name}: the manifest .* it is gone: .*backup"):
            read()
    world.bucket.put(name, sound)
    assert db.get(b"a") == b"1"
