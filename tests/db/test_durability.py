"""What an acknowledged write survives, at each level."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from seerdb import DB, Batch, InvalidRequestError, PoisonedError, UnavailableError
from seerdb.storage.write.sync_schedule import SYNC_AHEAD_BYTES
from tests.db.conftest import OpenDB
from tests.fixtures.database import WAL, World

POWER_LOSSES = range(12)


def syncs(world: World) -> int:
    return sum(operation.startswith("sync data ") for operation in world.files.trace)


def open_with_a_segment(world: World) -> DB:
    """A database that has begun its segment, which syncs: seq 1 is taken."""
    db = world.open()
    db.delete(b"nothing", durability="memory")
    return db


def write_in_every_way(db: DB, level: str | None) -> int:
    db.put(b"a", b"1", durability=level)
    db.put(b"gone", b"1", durability=level)
    db.delete(b"gone", durability=level)
    db.put(b"r", b"1", durability=level)
    db.delete_range(b"r", b"s", durability=level)
    with db.batch(durability=level) as batch:
        batch.put(b"b", b"2")
        batch.delete(b"z")
    last = Batch()
    last.put(b"c", b"3")
    return db.write(last, durability=level)


EXPECTED = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]


def test_memory_survives_the_process_and_costs_no_sync() -> None:
    world = World()
    db = open_with_a_segment(world)
    before = syncs(world)
    write_in_every_way(db, "memory")
    assert syncs(world) == before
    assert list(world.kill().open().scan()) == EXPECTED


def test_local_survives_a_power_loss() -> None:
    world = World()
    assert write_in_every_way(world.open(), "local") == 7
    for seed in POWER_LOSSES:
        assert list(world.lose_power(seed).open().scan()) == EXPECTED


def test_object_survives_the_machine() -> None:
    world = World(takes_tables=False)
    assert write_in_every_way(world.open(), "object") == 7
    assert world.bucket.list("wal/"), "the log itself went to the bucket"
    assert list(world.lose_machine().open().scan()) == EXPECTED


def test_object_survives_a_disk_that_lost_the_log() -> None:
    world = World(takes_tables=False)
    assert write_in_every_way(world.open(), "object") == 7
    after = world.kill()
    for name in after.files.list(WAL):
        if name.endswith(".wal"):
            after.files.remove(f"{WAL}/{name}")
    db = after.open()
    assert list(db.scan()) == EXPECTED
    assert db.put(b"d", b"4", durability="object") == 8
    assert list(after.lose_machine().open().scan()) == [*EXPECTED, (b"d", b"4")]


@pytest.mark.parametrize("level", ["memory", "interval", "local", "object"])
def test_the_setting_is_the_default_of_every_write(level: str) -> None:
    world = World(durability=level)
    db = open_with_a_segment(world)
    before = syncs(world)
    write_in_every_way(db, None)
    if level == "memory":
        assert syncs(world) == before
    if level in ("local", "object"):
        for seed in POWER_LOSSES:
            assert list(world.lose_power(seed).open().scan()) == EXPECTED
    assert bool(world.bucket.list("wal/")) == (level == "object")
    assert list(world.kill().open().scan()) == EXPECTED


def test_a_durable_write_makes_all_before_it_durable() -> None:
    world = World()
    db = world.open()
    for number in range(20):
        db.put(b"%02d" % number, b"memory", durability="memory")
    db.put(b"last", b"local", durability="local")
    db.put(b"after", b"memory", durability="memory")
    for seed in POWER_LOSSES:
        found = dict(world.lose_power(seed).open().scan())
        assert len(found.keys() - {b"after"}) == 21


def test_interval_syncs_at_once_when_the_last_sync_is_long_ago() -> None:
    world = World(sync_interval=0.5)
    db = open_with_a_segment(world)
    world.clock.advance(0.6)
    before = syncs(world)
    db.put(b"a", b"1", durability="interval")
    assert syncs(world) == before + 1
    db.put(b"b", b"2", durability="interval")
    assert syncs(world) == before + 1, "the second one waits for the timer"
    for seed in POWER_LOSSES:
        assert world.lose_power(seed).open().get(b"a") == b"1"


def test_interval_syncs_by_itself_when_nobody_writes_any_more(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = open_db(sync_interval=0.002, durability="interval")
    db.put(b"warm", b"up", durability="local")
    log, synced = db._engine.log, threading.Event()

    def sync(real: Callable[[], None] = log.sync) -> None:
        real()
        synced.set()

    monkeypatch.setattr(log, "sync", sync)
    db.put(b"a", b"1")
    db.put(b"b", b"2")
    assert synced.wait(60)
    db._engine.committer.rotate()
    assert log.position == log.synced


def test_an_unreachable_bucket_fails_the_object_level_and_keeps_the_write() -> None:
    world = World()
    db = world.open()
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.put(b"a", b"1", durability="object")
    assert db.get(b"a") == b"1", "it is durable here, and may be in the bucket"
    assert db.put(b"b", b"2") == 2
    world.store.outage = False
    world.clock.advance(60)
    assert db.put(b"c", b"3", durability="object") == 3
    assert [key for key, _ in world.lose_machine().open().scan()] == [b"a", b"b", b"c"]


def test_a_failed_sync_is_an_error_and_no_write_is_taken_any_more() -> None:
    world = World()
    db = world.open()
    for _ in range(2):  # beside the second, a spare segment is made
        db.put(b"a", b"1")
    world.files.fail_sync()
    with pytest.raises(PoisonedError):
        db.put(b"b", b"2")
    for level in ("memory", "interval", "local", "object"):
        with pytest.raises(PoisonedError, match="open the database again"):
            db.put(b"c", b"3", durability=level)
    assert dict(db.scan()) == {b"a": b"1"}, "what failed is not shown, reads go on"
    db.close()
    again = world.open()
    assert again.get(b"a") == b"1"
    assert again.put(b"d", b"4") > 1


def test_a_log_that_nobody_syncs_is_synced_before_its_segment_ends(open_db: OpenDB) -> None:
    db = open_db(
        background="inline",
        durability="memory",
        ship_interval=0,
        memtable_capacity=64 << 20,
        wal_segment_size=64 << 20,
    )
    for number in range(2 * SYNC_AHEAD_BYTES >> 20):
        db.put(b"%d" % number, bytes(1 << 20))
    statistics = db.statistics()
    assert (statistics.memtables.sealed, statistics.flushes.flushes) == (0, 0)
    assert statistics.wal.syncs >= 1


@pytest.mark.parametrize("level", ["", "LOCAL", "disk", 3])
def test_an_unknown_level_is_refused(db: DB, level: object) -> None:
    calls: list[Callable[[], object]] = [
        lambda: db.put(b"a", b"1", durability=level),  # type: ignore[arg-type]
        lambda: db.delete(b"a", durability=level),  # type: ignore[arg-type]
        lambda: db.delete_range(b"a", b"b", durability=level),  # type: ignore[arg-type]
        lambda: db.batch(durability=level),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError, match="memory, interval, local, object"):
            call()
    assert db.visible_seq == 0


def test_a_large_value_is_copied_but_three_times_on_its_way_to_disk_and_bucket(
    tmp_path: Path,
) -> None:
    """Its record, the frame of that, and what is read back to be shipped: each copy costs memory,
    and time in which no other thread runs."""
    value = bytes(16 << 20)
    with DB.open(tmp_path) as db:
        db.put(b"small", b"1", durability="object")
        tracemalloc.start()
        try:
            db.put(b"large", value, durability="object")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3.5 * len(value)
