"""Values at the size where something changes, and keys with more versions than anybody expects."""

from __future__ import annotations

import pytest

from seerdb import DB
from tests.db.conftest import OpenDB
from tests.fixtures.database import World

CAPACITY = 4096


def room_left(db: DB) -> int:
    """How large a value may be for the key ``b"k"`` to fill the memtable exactly."""
    before = db.statistics().memtables.active_bytes
    db.put(b"j", b"")
    overhead = db.statistics().memtables.active_bytes - before
    return CAPACITY - db.statistics().memtables.active_bytes - overhead


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_value_that_fills_the_memtable_exactly(over: int) -> None:
    world = World(memtable_capacity=CAPACITY, wal_segment_size=64 << 10)
    db = world.open()
    size = room_left(db) + over
    db.put(b"k", b"v" * size)
    assert db.statistics().memtables.active_bytes == CAPACITY + over
    assert db.statistics().flushes.flushes == 0
    db.put(b"l", b"next")
    assert db.statistics().flushes.flushes == (over >= 0), "a full one is sealed by the next write"
    expected = {b"j": b"", b"k": b"v" * size, b"l": b"next"}
    for crashed in (world.kill(), world.lose_power(1)):
        assert dict(crashed.open().scan()) == expected
    db.compact()
    assert dict(db.scan()) == expected


@pytest.mark.parametrize("size", [255, 256, 257, 50 << 10])
def test_a_value_around_the_size_of_a_block(size: int) -> None:
    world = World(block_size=256, memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    rows = {b"a": b"1", b"b": world.random.randbytes(size), b"c": b"3"}
    for key, value in rows.items():
        db.put(key, value)
    assert dict(world.lose_power(1).open().scan()) == rows
    db.flush()
    assert dict(db.scan()) == rows
    db.compact()
    assert [db.get(key) for key in rows] == list(rows.values())
    assert dict(world.lose_machine().open().scan()) == rows


def test_many_versions_of_one_key(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=8 << 10)
    snapshots = []
    for number in range(2000):
        db.put(b"k", b"%d" % number, durability="memory")
        if number % 500 == 250:
            snapshots.append((db.snapshot(), b"%d" % number))
            db.flush()
    for step in (lambda: None, db.flush, db.compact):
        step()
        assert db.get(b"k") == b"1999"
        assert list(db.scan()) == [(b"k", b"1999")]
        for snapshot, value in snapshots:
            assert (snapshot.get(b"k"), list(snapshot.scan())) == (value, [(b"k", value)])
    for snapshot, _ in snapshots:
        snapshot.close()
    assert db.statistics().table_entries == 1
    db.close()
    assert open_db().get(b"k") == b"1999"
