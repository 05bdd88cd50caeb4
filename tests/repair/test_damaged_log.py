"""Repairing a bucket in whose shipped log an object is damaged in its middle."""

from __future__ import annotations

import pytest

from seerdb import UnavailableError
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.storage.wal.segments import segment_path
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.database import ROOMY, WAL, World
from tests.fixtures.repairs import TABLE_PREFIX, WAL_PREFIX, damage, names, reopened, repaired
from tests.repair.test_lost_manifest import begun, contents, flushed


def shipped() -> World:
    """A bucket with a table up to seq 1, seq 2 to 5 in one object of the log, and 6 in another. 2
    is a delete of what the table has."""
    world, db = begun(ship_interval=0, durability="memory")
    flushed(db, a="1")
    db.delete(b"a")
    for key in (b"b", b"c"):
        db.put(key, key * 50)
    for key in (b"d", b"e"):
        db.put(key, key * 50, durability="object")
    return world.lose_machine()


def damage_at(world: World, name: str, text: bytes) -> None:
    damage(world, name, world.bucket.get(name).index(text))


def test_what_stands_before_the_damage_counts_and_the_rest_is_lost() -> None:
    world = shipped()
    first, second = names(world, WAL_PREFIX)
    damage_at(world, first, b"c" * 50)
    report, bucket = repaired(world)
    assert [(loss.name, loss.min_seq, loss.max_seq) for loss in report.lost] == [
        (first, 4, 5),
        ("the log", 4, 6),
    ]
    assert report.left_out == [f"{second}: a gap in the shipped log is before it"]
    assert (report.last_seq, report.log_last_seq) == (1, 3)
    assert contents(reopened(world, bucket)) == {b"b": b"b" * 50}


def test_nothing_is_lost_where_all_records_stand_before_the_damage() -> None:
    world = shipped()
    first, second = names(world, WAL_PREFIX)
    data = world.bucket.get(first)
    world.bucket.put(first, data + data[HEADER_SIZE : HEADER_SIZE + 8])
    report, bucket = repaired(world)
    assert (report.lost, report.shipped) == ([], [first, second])
    assert len(contents(reopened(world, bucket))) == 4


def test_nothing_of_a_damaged_log_counts_that_tables_hold() -> None:
    world = shipped()
    db = world.open()
    db.delete(b"b")
    db.flush()
    db.put(b"f", b"1", durability="object")
    world = world.lose_machine()
    first = names(world, WAL_PREFIX)[0]
    damage_at(world, first, b"c" * 50)
    report, bucket = repaired(world)
    assert (report.last_seq, report.log_last_seq) == (7, 8)
    assert sorted(contents(reopened(world, bucket))) == [b"c", b"d", b"e", b"f"]


def test_a_repair_that_cuts_a_part_of_the_log_off_can_be_run_again() -> None:
    world = shipped()
    first, _ = names(world, WAL_PREFIX)
    damage_at(world, first, b"c" * 50)
    target = FaultyObjectStore(MemoryObjectStore(world.clock))
    repaired(world, target)
    for number in range(1, len(target.trace) + 1):
        inner = MemoryObjectStore(world.clock)
        dying = FaultyObjectStore(inner)
        dying.crash_at = number
        with pytest.raises(CrashError):
            repaired(world, dying)
        repaired(world, inner)
        assert contents(reopened(world, inner)) == {b"b": b"b" * 50}


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_the_newest_table_held_comes_from_the_log(is_gone: bool) -> None:
    """Where it was gone, and not only damaged, the log that has all of it was not looked at."""
    world, db = begun(ship_interval=0, history_retention=3600.0, durability="object")
    flushed(db, a="1")
    db.delete(b"a")
    flushed(db, b="1")
    world = world.lose_machine()
    table = names(world, TABLE_PREFIX)[-1]
    if is_gone:
        world.bucket.delete([table])
    else:
        damage(world, table)
    report, bucket = repaired(world)
    assert [loss.name for loss in report.lost] == [table]
    assert contents(reopened(world, bucket)) == {b"b": b"1"}


def test_what_a_salvage_has_left_out_of_an_object_is_a_gap_like_any_other() -> None:
    """The object was taken for whole: nothing was lost, and the outcome could not be opened."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(6):
        db.put(b"k%d" % number, b"before")
    world = world.kill()
    file = world.files.open(segment_path(WAL, 1))
    file.write_at(file.read_at(0, 65536).index(b"k2before"), b"X")
    with pytest.raises(UnavailableError, match="gap"):
        world.open(recovery="salvage").put(b"z", b"1", durability="object")
    holed = names(world, WAL_PREFIX)[0]
    report, bucket = repaired(world)
    assert [(loss.name, loss.min_seq, loss.max_seq) for loss in report.lost] == [
        (holed, 3, 6),
        ("the log", 3, 7),
    ]
    assert contents(reopened(world, bucket)) == {b"k0": b"before", b"k1": b"before"}
