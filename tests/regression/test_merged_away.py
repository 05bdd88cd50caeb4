"""Merges that leave nothing: no table is made of it, and what was merged goes all the same."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.events import CompactionCompleted
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.requests import Request
from tests.fixtures.database import World, collect_garbage


def tables(world: World) -> list[str]:
    return [info.name for info in world.bucket.list("tables/")]


def fill(world: World, db: DB, count: int) -> dict[bytes, bytes]:
    rows = {b"%05d" % number: world.random.randbytes(60) for number in range(count)}
    for key, value in rows.items():
        db.put(key, value, durability="memory")
    return rows


@pytest.mark.parametrize("compaction", POLICIES)
def test_a_merge_of_which_nothing_is_left_makes_no_table(compaction: str) -> None:
    """LB-08. A merge of which nothing was left wrote a table without entries, while others were
    reading and writing; such a table could not be read."""
    world = World(compaction=compaction, memtable_capacity=64 << 10, table_size=2048)
    db = world.open()
    fill(world, db, 600)
    db.compact()
    assert len(tables(world)) > 5
    db.delete_range(b"0", b"1")
    merges = len(world.events)
    db.compact()
    [event] = [e for e in world.events[merges:] if isinstance(e, CompactionCompleted)]
    assert (event.outputs, event.entries, event.bytes_written) == ([], 0, 0)
    assert db._engine.manifest.state.version.runs == ()
    assert list(db.scan()) == []
    collect_garbage(world, db)
    assert tables(world) == [], "not even for a while"
    assert list(world.lose_machine().open().scan()) == []


def test_a_part_of_a_merge_of_which_nothing_is_left_makes_no_table() -> None:
    """LB-08. Most parts of a merge may be empty, the first and the last among them."""
    world = World(compression="none", memtable_capacity=1 << 20, table_size=1024)
    db = world.open()
    rows = fill(world, db, 2000)
    db.compact()
    db.delete_range(b"0", b"00900")
    db.delete_range(b"01100", b"1")
    db.flush()
    planner = db._engine.compactor._planner
    plan = planner.whole(db._engine.manifest.state.version, Request())
    assert plan is not None
    assert len(plan.parts) > 8, "or this tests nothing"
    uploads = [op for op in world.store.trace if op.operation == "put"]
    db.compact()
    made = [op for op in world.store.trace if op.operation == "put"][len(uploads) :]
    version = db._engine.manifest.state.version
    assert len(made) == len(version.tables)
    assert all(table.entries for table in version.tables)
    kept = {key: value for key, value in rows.items() if b"00900" <= key < b"01100"}
    assert dict(db.scan()) == kept
    assert db.verify().problems == []


def test_a_flush_of_nothing_makes_no_table() -> None:
    """LB-08. An empty memtable is no table either, nor is one that is flushed twice."""
    world = World()
    db = world.open()
    db.flush()
    db.put(b"a", b"1")
    db.flush()
    db.flush()
    db.compact()
    assert len(tables(world)) == db.statistics().tables == 1
