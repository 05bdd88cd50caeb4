"""A flush whose manifest record may or may not be there is finished before anything else is.

The next merge to be published once found the record in place, so its tables were shown and merged
while the memtable was still read. A scan then counted what was merged twice, and the next attempt
of the flush brought its table back, for good: beside what it had been merged into, or, where it
had large values, not at all, and nothing was flushed any more.
"""

from __future__ import annotations

from typing import Any

import pytest

from seerdb import DB, UnavailableError
from tests.fixtures.database import ROOMY, World

ATTEMPTS = 5
"""Of one request."""
ONE = (1).to_bytes(8, "little")


def flush_without_an_answer(world: World, db: DB) -> None:
    """The manifest record of a flush is put, and nobody hears of it."""
    world.store.time_out_after("put_if_absent", match="manifest/", times=ATTEMPTS)
    with pytest.raises(UnavailableError):
        db.flush()
    world.clock.advance(60)  # the store is asked again


def merge_all(db: DB) -> None:
    """What a merge under way and the next one do before the flush is tried again."""
    compactor = db._engine.compactor
    for _ in range(2):
        request = compactor.ask()
        while compactor.compact_one():
            pass
        assert request.is_done


def world_with_two_tables(**settings: Any) -> tuple[World, DB]:
    world = World(**ROOMY, **settings)
    db = world.open()
    for key in (b"a", b"b"):
        db.put(key, b"1")
        db.flush()
    return world, db


def test_what_it_holds_is_counted_once() -> None:
    world, db = world_with_two_tables(merge_operator="int64_add")
    db.merge(b"n", ONE)
    flush_without_an_answer(world, db)
    merge_all(db)
    assert dict(db.scan(b"n")) == {b"n": ONE}
    db.flush()
    db.compact()
    assert db.get(b"n") == ONE
    assert dict(db.scan(b"n")) == {b"n": ONE}


def test_so_it_is_where_a_merge_that_has_failed_is_published_again() -> None:
    """It is not held against the order again, which would have found out about the flush."""
    world, db = world_with_two_tables(merge_operator="int64_add")
    compactor = db._engine.compactor
    compactor.ask()
    world.store.fail("put_if_absent", match="manifest/", times=ATTEMPTS)
    with pytest.raises(UnavailableError):
        compactor.compact_one()
    world.clock.advance(60)  # the store is asked again
    db.merge(b"n", ONE)
    head = db._engine.committer.head
    head.seal()  # and no lane hears of it
    head.begin()
    world.store.time_out_after("put_if_absent", match="manifest/", times=ATTEMPTS)
    with pytest.raises(UnavailableError):
        db._engine.flusher.flush_one()
    assert not compactor.is_idle
    world.clock.advance(60)
    assert compactor.compact_one()
    assert dict(db.scan(b"n")) == {b"n": ONE}
    db.flush()
    assert dict(db.scan(b"n")) == {b"n": ONE}


def test_its_table_does_not_come_back() -> None:
    world, db = world_with_two_tables(blob_threshold=100)
    db.put(b"large", b"v" * 1000)
    flush_without_an_answer(world, db)
    merge_all(db)
    [merged] = db._engine.manifest.state.version.tables
    db.flush()
    assert db._engine.manifest.state.version.tables == [merged]
    db.put(b"later", b"1")
    db.flush()
    assert [db.get(key) for key in (b"large", b"later")] == [b"v" * 1000, b"1"]
    assert db.verify().problems == []


def test_its_log_is_let_go_of_though_a_merge_finished_it() -> None:
    world, db = world_with_two_tables()
    db.put(b"c", b"1")
    flush_without_an_answer(world, db)
    merge_all(db)
    assert not db._engine.live.current.sealed
    db.flush()
    assert db._engine.retention.kept == 0
    assert not db._engine.outputs._in_flight
