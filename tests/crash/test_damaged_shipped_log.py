"""Opening out of a bucket in whose log an object is damaged: what stands before the damage counts,
and from then on nobody has to read that object."""

from __future__ import annotations

import pytest

from seerdb import ConflictError, CorruptionError
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.object_store.names import wal_name
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.testing.crash import CrashError
from tests.fixtures.database import ROOMY, WAL, World

pytestmark = pytest.mark.crash

DAMAGED = wal_name(Epoch(1), SeqNo(2), SeqNo(5))
BEFORE = [b"a", b"b", b"c"]
"""What was written before the record that is damaged."""


def written() -> World:
    """Seq 1, 2 to 5 and 6 in one object of the log each, and no table; 4 is damaged."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    db.put(b"a", b"1", durability="object")
    for key in (b"b", b"c", b"d"):
        db.put(key, key * 50, durability="memory")
    for key in (b"e", b"f"):
        db.put(key, b"1", durability="object")
    data = bytearray(world.bucket.get(DAMAGED))
    data[data.index(b"d" * 50)] ^= 1
    world.bucket.put(DAMAGED, bytes(data))
    return world


def keys(world: World) -> list[bytes]:
    return [key for key, _ in world.open().scan()]


@pytest.mark.parametrize("mode", ["point_in_time", "salvage"])
def test_a_new_machine_takes_what_stands_before_the_damage(mode: str) -> None:
    world = written().lose_machine()
    with pytest.raises(CorruptionError, match="expected 'seq 2 to 5', found '2 records'"):
        world.kill().open()
    db = world.open(recovery=mode)
    assert [key for key, _ in db.scan()] == BEFORE
    assert db.put(b"g", b"1", durability="object") == 4
    assert keys(world.kill()) == keys(world.lose_power(1)) == [*BEFORE, b"g"]


def test_nobody_has_to_read_the_damaged_object_again() -> None:
    world = written().lose_machine()
    world.open(recovery="point_in_time").put(b"g", b"1", durability="object")
    world.bucket.put(DAMAGED, b"?")
    assert keys(world.lose_machine()) == [*BEFORE, b"g"]


@pytest.mark.parametrize("contests", [False, True], ids=["machine", "copy"])
def test_what_branches_off_once_does_so_no_more_at_the_next_opening(*, contests: bool) -> None:
    """That would make void what was shipped since."""
    if contests:
        world = World(takes_tables=False, **ROOMY)
        db = world.open()
        db.put(b"a", b"1", durability="object")
        world.bucket.put(wal_name(Epoch(1), SeqNo(2), SeqNo(2)), b"not ours")
        with pytest.raises(ConflictError):
            db.put(b"b", b"1", durability="object")
        world = world.kill()
    else:
        world = written().lose_machine()
    found = world.open(recovery="salvage")
    found.put(b"g", b"1", durability="object")
    wanted = [key for key, _ in found.scan()]
    world = world.kill()
    world.open()
    assert keys(world.lose_machine()) == wanted


@pytest.mark.parametrize("mode", ["strict", "point_in_time", "salvage"])
def test_nothing_is_taken_of_what_a_copy_of_this_machine_shipped(mode: str) -> None:
    """It wrote on in our epoch, and further than we did, as if our disk had lost that."""
    ours, copy = (World(takes_tables=False, **ROOMY) for _ in range(2))
    db, other = ours.open(), copy.open()
    for each in (db, other):
        each.put(b"a", b"1", durability="object")
    for key in (b"x", b"y", b"z"):
        other.put(key, b"1", durability="object")
    for shipped in copy.bucket.list("wal/"):
        ours.bucket.put(shipped.name, copy.bucket.get(shipped.name))
    with pytest.raises(ConflictError):
        db.put(b"b", b"1", durability="object")
    ours = ours.kill()
    found = ours.open(recovery=mode)
    assert [key for key, _ in found.scan()] == [b"a", b"b"]
    assert found.put(b"c", b"1", durability="object") == 3
    assert keys(ours.kill()) == keys(ours.lose_machine()) == [b"a", b"b", b"c"]


def test_a_disk_that_has_lost_its_newest_segments_is_completed_up_to_the_damage() -> None:
    world = written().kill()
    for number in list_segments(world.files, WAL):
        world.files.remove(segment_path(WAL, number))
    with pytest.raises(CorruptionError, match="expected 'seq 2 to 5', found '2 records'"):
        world.kill().open()
    db = world.open(recovery="point_in_time")
    assert [key for key, _ in db.scan()] == BEFORE
    assert db.put(b"g", b"1", durability="object") == 4
    world.bucket.put(DAMAGED, b"?")
    assert keys(world.kill()) == keys(world.lose_machine()) == [*BEFORE, b"g"]


@pytest.mark.parametrize("mode", ["point_in_time", "salvage"])
def test_an_opening_that_dies_loses_nothing_of_what_it_saved(mode: str) -> None:
    """What it took out of the damaged object was void before it was anywhere else. Whoever loses
    the machine, too, before that is shipped, has lost what only the damaged object held."""
    world = written()
    probe = world.lose_machine()
    probe.open(recovery=mode)
    for point in probe.crash_points():
        crashed = world.lose_machine()
        crashed.crash_at(point)
        with pytest.raises(CrashError):
            crashed.open(recovery=mode)
        for after in (crashed.kill(), crashed.lose_power(point.number)):
            db = after.open(recovery=mode)
            assert [key for key, _ in db.scan()] == BEFORE, point
            db.put(b"g", b"1", durability="object")
            after.bucket.put(DAMAGED, b"?")
            assert keys(after.lose_machine()) == [*BEFORE, b"g"], point
        found = [key for key, _ in crashed.lose_machine().open(recovery=mode).scan()]
        assert found in ([b"a"], BEFORE), point
