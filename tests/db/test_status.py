"""What a database tells of itself: numbers, health, and what a check of everything finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seerdb import DB, UnavailableError
from tests.db.conftest import OpenDB
from tests.fixtures.database import World


def test_numbers_add_up(open_db: OpenDB) -> None:
    db = open_db(disk_cache_capacity=1 << 20)
    db.put(b"a", b"1" * 100)
    db.put(b"b", b"2" * 100, durability="memory")
    with db.batch() as batch:
        for number in range(10):
            batch.put(b"c%d" % number, b"3" * 100)
        batch.delete_range(b"d", b"e")
    statistics = db.statistics()
    assert (statistics.visible_seq, statistics.flushed_seq) == (3, 0)
    assert (statistics.commits.commits, statistics.commits.operations) == (3, 13)
    assert (statistics.memtables.active_entries, statistics.memtables.sealed) == (12, 0)
    assert statistics.memtables.active_bytes > 12 * 100
    assert statistics.wal.appends >= 3
    assert statistics.wal.appended_bytes > 12 * 100
    assert statistics.wal.syncs >= 2
    db.flush()
    db.put(b"z", b"9")
    db.flush()
    for _ in range(10):
        db.get(b"a")
    statistics = db.statistics()
    assert (statistics.flushed_seq, statistics.memtables.active_entries) == (4, 0)
    assert (statistics.runs, statistics.tables, statistics.table_entries) == (2, 2, 13)
    assert statistics.table_bytes == sum(level.bytes for level in statistics.levels)
    assert sum(level.tables for level in statistics.levels) == 2
    assert (statistics.flushes.flushes, statistics.flushes.entries) == (2, 13)
    assert statistics.flushes.bytes == statistics.table_bytes
    assert 0 < statistics.block_cache.bytes <= statistics.block_cache.capacity
    assert statistics.disk_cache is None, "a bucket on this disk is not copied beside it"
    assert [worker.error for worker in statistics.workers] == [""] * len(statistics.workers)
    assert (statistics.store_breaker_open, statistics.epoch) == (False, 1)
    db.compact()
    statistics = db.statistics()
    assert (statistics.runs, statistics.compactions.compactions) == (1, 1)
    assert statistics.compactions.bytes_read > statistics.compactions.bytes_written > 0


def test_numbers_are_plain_data(db: DB) -> None:
    db.put(b"a", b"1")
    db.flush()
    assert json.loads(json.dumps(db.stats())) == db.stats()
    [level] = db.stats()["levels"]
    assert level == {
        "level": 0,
        "runs": 1,
        "tables": 1,
        "bytes": db.stats()["table_bytes"],
        "entries": 1,
        "deletes": 0,
        "range_deletes": 0,
    }
    request = next(row for row in db.stats()["store_requests"] if row["purpose"] == "flush")
    assert request.keys() >= {"operation", "requests", "errors", "bytes_in", "bytes_out", "seconds"}
    assert all(isinstance(value, int | float) for value in db.statistics().values.values())


def test_the_opening_tells_what_it_found() -> None:
    world = World(takes_tables=False)
    db = world.open()
    for number in range(5):
        db.put(b"%d" % number, b"v")
    recovery = world.kill().open().statistics().recovery
    assert (recovery.records, recovery.segments, recovery.damaged) == (5, 1, [])
    assert world.lose_machine().open().statistics().recovery.records == 0


def test_all_is_well(db: DB) -> None:
    db.put(b"a", b"1")
    db.flush()
    checks = db.health()
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"writes", "backpressure", "bucket", "flush", "compaction", "garbage"} <= set(names)
    assert all(check.ok and check.detail for check in checks)


def test_an_outage_shows_and_passes() -> None:
    world = World()
    db = world.open()
    world.store.outage = True
    for _ in range(3):
        db.put(b"a", b"1")
        with pytest.raises(UnavailableError):
            db.flush()
    bad = {check.name: check.detail for check in db.health() if not check.ok}
    assert bad.keys() == {"bucket", "flush"}
    assert "outage" in bad["bucket"]
    assert "failed" in bad["flush"]
    assert db.statistics().store_breaker_open
    assert next(w for w in db.statistics().workers if w.name == "flush").attempts > 1
    world.store.outage = False
    world.clock.advance(60)
    db.flush()
    assert all(check.ok for check in db.health())


def test_a_failed_disk_shows() -> None:
    world = World()
    db = world.open()
    for _ in range(2):  # beside the second, a spare segment is made
        db.put(b"a", b"1")
    world.files.fail_sync()
    with pytest.raises(Exception, match="earlier one failed"):
        db.put(b"b", b"2")
    [writes] = [check for check in db.health() if not check.ok]
    assert writes.name == "writes"
    assert "open the database again" in writes.detail


def bucket_file(tmp_path: Path, kind: str) -> Path:
    return min((tmp_path / "db" / "bucket" / kind).iterdir())


def fill(db: DB) -> None:
    for number in range(300):
        db.put(b"%04d" % number, b"%d" % number * 10, durability="memory")
    db.delete_range(b"0000", b"0010")
    db.flush()
    db.put(b"last", b"in the log")


def test_a_sound_database_verifies(open_db: OpenDB) -> None:
    db = open_db()
    fill(db)
    report = db.verify()
    assert report.ok
    assert report.problems == []
    assert (report.tables, report.entries) == (1, 290)
    assert report.segments >= 1
    assert report.records >= 1
    assert report.last_seq == 302
    assert report.bytes == db.statistics().table_bytes


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.95, 0.999])
def test_a_damaged_table_is_found_and_named(open_db: OpenDB, tmp_path: Path, where: float) -> None:
    db = open_db()
    fill(db)
    file = bucket_file(tmp_path, "tables")
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 0x40
    file.chmod(0o644)
    file.write_bytes(data)
    report = db.verify()
    assert not report.ok
    assert all(f"tables/{file.name}" in problem for problem in report.problems)
    file.write_bytes(data[:-1])
    assert any(file.name in problem for problem in db.verify().problems)
    file.unlink()
    assert any(file.name in problem for problem in db.verify().problems)


def test_a_damaged_block_is_an_error_and_never_an_answer(open_db: OpenDB, tmp_path: Path) -> None:
    from seerdb import CorruptionError

    db = open_db(disk_cache_capacity=0, block_cache_capacity=0)
    fill(db)
    file = bucket_file(tmp_path, "tables")
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with pytest.raises(CorruptionError, match=file.name):
        db.get(b"0010")
    with pytest.raises(CorruptionError):
        list(db.scan())
    assert db.get(b"0299") == b"299" * 10, "another block"
    assert db.get(b"last") == b"in the log"
