"""What a reader sees while memtables are sealed, flushed, merged and collected (I5).

Every place where the other side could come in is tried, line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB
from seerdb import db as handle
from seerdb.storage.engine import background, engine
from seerdb.storage.flush import flusher, publish
from seerdb.storage.read import lookup, reads, scan, state
from seerdb.storage.write import commit
from tests.fixtures.database import ROOMY, World, collect_garbage
from tests.fixtures.interleaving import before_lines, every_line

ROWS = [(b"%02d" % number, b"v%02d" % number) for number in range(12)]
KEYS = [key for key, _ in ROWS]

READS: dict[str, Callable[[DB], Any]] = {
    "get": lambda db: [(key, db.get(key)) for key in KEYS[::5]],
    "multi_get": lambda db: list(zip(KEYS[::5], db.multi_get(KEYS[::5]), strict=True)),
    "scan": lambda db: list(db.scan()),
    "reverse scan": lambda db: list(db.scan(reverse=True))[::-1],
}


def spread(world: World) -> DB:
    """A database with a third of the rows in a table, overwritten ones and a third in memory."""
    db = world.open()
    for key, value in ROWS[:8]:
        db.put(key, value if key < b"04" else b"older")
    db.flush()
    for key, value in ROWS[4:]:
        db.put(key, value)
    return db


def merge_and_collect(world: World, db: DB) -> None:
    """Nothing of what was there is needed by the newest version, or by the grace period."""
    db.compact()
    collect_garbage(world, db)


CHANGES: dict[str, Callable[[World, DB], object]] = {
    "sealed": lambda world, db: db._engine.committer.rotate(),
    "flushed": lambda world, db: db.flush(),
    "merged and collected": merge_and_collect,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_a_read_that_anything_comes_between_misses_nothing(read: str, change: str) -> None:
    """SB-05 and SB-09. Scans once listed the tables first and the memtables then: keys flushed in
    between were missing. And merged tables were deleted under scans that still read them."""
    for interruption in every_line(handle, reads, scan, lookup):
        world = World(**ROOMY, block_cache_capacity=0)
        db = spread(world)
        with interruption.by(lambda world=world, db=db: CHANGES[change](world, db)):  # type: ignore[misc]
            found = READS[read](db)
        assert found == (ROWS[::5] if "get" in read else ROWS)
    assert interruption.number > 20


def test_a_scan_reads_on_in_tables_that_were_merged_and_collected() -> None:
    """SB-09. Between any two rows, and only until the scan has ended."""
    for taken in range(0, len(ROWS), 3):
        world = World(**ROOMY, block_cache_capacity=0, block_size=256)
        db = spread(world)
        db.flush()
        rows = db.scan()
        found = [next(rows) for _ in range(taken)]
        inputs = {info.name for info in world.bucket.list("tables/")}
        db.delete_range(b"0", b"2")
        merge_and_collect(world, db)
        assert inputs <= {info.name for info in world.bucket.list("tables/")}
        assert found + list(rows) == ROWS
        del rows
        db._engine.background.garbage.wake()
        assert world.bucket.list("tables/") == []
        assert list(db.scan()) == []


@pytest.mark.parametrize("verb", ["flush", "compact"])
def test_what_was_acknowledged_is_seen_at_every_line_of_a_flush(verb: str) -> None:
    """SB-28. The full memtable was taken out first and put into the queue later: for a moment
    nobody found what was in it. The same on its way from the queue into a table."""
    world = World(**ROOMY)
    db = spread(world)
    lock = db._engine.live.lock
    looks = 0

    def look(number: int) -> None:
        nonlocal looks
        looks += 1
        assert [db.get(key) for key in KEYS] == [value for _, value in ROWS], f"line {number}"
        if not lock.locked():
            assert list(db.scan()) == ROWS, f"line {number}"
            assert db.multi_get(KEYS) == [value for _, value in ROWS]

    with before_lines(look, commit, state, publish, flusher, engine, background):
        getattr(db, verb)()
    assert looks > 50
    assert not db._engine.live.current.sealed
    look(0)
