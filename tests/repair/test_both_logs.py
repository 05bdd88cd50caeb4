"""Repairing a database of which a table is lost, where only both logs together have all of it, and
opening what comes of it."""

from __future__ import annotations

import random

import pytest

from seerdb import CorruptionError
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import WAL, World
from tests.fixtures.repairs import TABLE_PREFIX, WAL_PREFIX, names, reopened, repaired
from tests.repair.test_lost_manifest import begun, contents, flushed

EXPECTED = {b"b": b"1", b"c": b"1", b"d": b"1", b"e": b"1"}


def parted() -> World:
    """Seq 1 in a table, 2 and 3 in one that is gone, and in the shipped log; 4 in both logs, 5 and
    6 in the local one."""
    world, db = begun(ship_interval=0, history_retention=3600.0, durability="object")
    flushed(db, a="1")
    db.delete(b"a")
    flushed(db, b="1")
    db.put(b"c", b"1")
    db.put(b"d", b"1", durability="local")
    db.put(b"e", b"1", durability="local")
    world = world.kill()
    world.bucket.delete(names(world, TABLE_PREFIX)[-1:])
    return world


def test_the_local_log_goes_on_where_the_shipped_one_leads() -> None:
    world = parted()
    report, bucket = repaired(world, with_log=True)
    assert [loss.name.partition("/")[0] for loss in report.lost] == ["tables"]
    assert (report.last_seq, report.log_last_seq) == (1, 4)
    db = reopened(world, bucket, keep_disk=True)
    assert contents(db) == EXPECTED
    recovery = db.statistics().recovery
    assert (recovery.records, recovery.shipped_records) == (5, 2)
    assert db.put(b"f", b"1", durability="object") == 7
    after = World(files=world.files.kill(), bucket=bucket, clock=world.clock).lose_machine()
    assert contents(after.open()) == EXPECTED | {b"f": b"1"}


def test_a_gap_that_the_bucket_does_not_fill_is_refused_as_before() -> None:
    world = parted()
    _, bucket = repaired(world, with_log=True)
    bucket.delete(names(World(bucket=bucket), WAL_PREFIX)[:1])
    with pytest.raises(CorruptionError, match="a gap before this segment"):
        World(files=world.files.kill(), bucket=bucket, clock=world.clock).open()


def test_a_segment_that_is_missing_comes_from_the_bucket() -> None:
    world = World(takes_tables=False, ship_interval=0, memtable_capacity=1024)
    db = world.open()
    rows = {b"k%02d" % number: b"v" * 200 for number in range(16)}
    for key, value in rows.items():
        db.put(key, value, durability="object")
    world = world.kill()
    first, *others = list_segments(world.files, WAL)
    assert others
    world.files.remove(segment_path(WAL, first))
    assert dict(world.open().scan()) == rows


def copied(world: World, bucket: MemoryObjectStore) -> World:
    """The disk of ``world`` with a copy of ``bucket``."""
    own = MemoryObjectStore(world.clock)
    for info in bucket.list(""):
        own.put(info.name, bucket.get(info.name))
    return World(files=world.files.kill(), bucket=own, clock=world.clock, **world.settings)


def test_an_opening_that_dies_while_it_fills_the_gap_is_completed_by_the_next() -> None:
    world = parted()
    _, bucket = repaired(world, with_log=True)
    whole = copied(world, bucket)
    whole.open()
    points = whole.crash_points()
    assert len(points) > 10
    for point in points:
        dying = copied(world, bucket)
        dying.crash_at(point)
        with pytest.raises(CrashError):
            dying.open()
        for after in (dying.kill(), dying.lose_power(random.Random(3).randrange(1 << 20))):
            assert contents(after.open()) == EXPECTED, point
