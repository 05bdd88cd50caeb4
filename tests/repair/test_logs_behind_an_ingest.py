"""Repairing a bucket that has no manifest any more, and an ingest: its seq is in no table and no
log, and hides no commit that a log has."""

from __future__ import annotations

from typing import Any

import pytest

from seerdb import CorruptionError
from tests.fixtures.database import World
from tests.fixtures.repairs import (
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    lose,
    names,
    reopened,
    repaired,
)
from tests.repair.test_lost_manifest import begun, contents, flushed

SHIPPED: dict[str, Any] = {
    "ship_interval": 0,
    "history_retention": 3600.0,
    "durability": "object",
}
LOGGED: dict[str, Any] = {"wal_retention": "count:100", "history_retention": 3600.0}


def without_table(world: World, number: int) -> None:
    world.bucket.delete([names(world, TABLE_PREFIX)[number]])
    lose(world, MANIFEST_PREFIX)


def test_of_a_log_with_more_behind_the_ingest_than_before_it_the_rest_is_told_as_lost() -> None:
    world, db = begun(**SHIPPED)
    flushed(db, a="1")
    flushed(db, b="1")
    db.ingest([(b"i", b"1")])
    db.put(b"c", b"1")
    after = world.lose_machine()
    without_table(after, 1)
    report, bucket = repaired(after)
    assert [(each.name, each.min_seq, each.max_seq) for each in report.lost] == [("the log", 2, 2)]
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"c": b"1", b"i": b"1"}


@pytest.mark.parametrize("later", [False, True], ids=["none", "fewer"])
def test_a_log_with_more_before_the_ingest_than_behind_it_goes_on_below(*, later: bool) -> None:
    world, db = begun(**SHIPPED)
    flushed(db, a="1")
    flushed(db, b="1", c="1")
    db.ingest([(b"b", b"2"), (b"i", b"1")])
    if later:
        db.put(b"d", b"1")
    after = world.lose_machine()
    without_table(after, 1)
    report, bucket = repaired(after)
    lost = [(each.name, each.min_seq, each.max_seq) for each in report.lost]
    assert lost == ([("the log", 4, 5)] if later else [])
    # Which of both is newer, the manifest alone knew.
    doubts = [(each.smallest, each.largest) for each in report.doubts if "the log" in each.because]
    assert doubts == [(b"b", b"i")]
    db = reopened(after, bucket)
    expected = {b"a": b"1", b"b": b"1", b"c": b"1", b"i": b"1"}
    assert contents(db) == expected
    db.compact()
    assert contents(db) == expected


@pytest.mark.parametrize("key", [b"a", b"i"], ids=["meets", "alone"])
def test_an_ingest_that_never_counted_hides_nothing_of_the_log(key: bytes) -> None:
    other, db = begun(**SHIPPED)
    flushed(db, a="1")
    db.ingest([(key, b"?")])
    orphan = names(other, TABLE_PREFIX)[1]
    world, db = begun(**SHIPPED)
    flushed(db, a="1")
    db.put(b"b", b"1")
    db.put(b"c", b"1")
    after = world.lose_machine()
    after.bucket.put(orphan, other.bucket.get(orphan))
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert (report.last_seq, report.log_last_seq, report.lost) == (1, 3, [])
    db = reopened(after, bucket)
    assert {b"b": b"1", b"c": b"1"}.items() <= contents(db).items()
    shown = contents(db)
    db.compact()
    assert contents(db) == shown


def test_nothing_is_told_where_all_before_the_ingest_is_in_tables() -> None:
    world, db = begun(**SHIPPED)
    flushed(db, a="1")
    db.ingest([(b"a", b"2"), (b"i", b"1")])
    db.put(b"c", b"1")
    after = world.lose_machine()
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert (report.last_seq, report.log_last_seq, report.lost, report.notes) == (2, 3, [], [])
    assert not any("the log" in each.because for each in report.doubts)
    assert contents(reopened(after, bucket)) == {b"a": b"2", b"c": b"1", b"i": b"1"}


def test_what_the_local_log_has_below_an_ingest_and_is_passed_over_is_told_as_lost() -> None:
    world, db = begun(**LOGGED)
    flushed(db, a="1")
    db.ingest([(b"i", b"1")])
    db.put(b"c", b"1")
    after = world.kill()
    without_table(after, 0)
    report, bucket = repaired(after, with_log=True)
    assert [(each.name, each.min_seq, each.max_seq) for each in report.lost] == [("the log", 1, 1)]
    assert contents(reopened(after, bucket, keep_disk=True)) == {b"c": b"1", b"i": b"1"}


def test_a_gap_that_an_ingest_left_in_the_local_log_is_told_with_what_opens_it() -> None:
    world, db = begun(**LOGGED)
    flushed(db, a="1")
    flushed(db, b="1")
    db.ingest([(b"i", b"1")])
    db.put(b"c", b"1")
    after = world.kill()
    without_table(after, 1)
    report, bucket = repaired(after, with_log=True)
    assert report.last_seq == 1
    assert "the local log has no seq 3, which an ingest took" in report.notes[0]
    with pytest.raises(CorruptionError, match="a gap before this segment"):
        reopened(after, bucket, keep_disk=True)
    after.settings["recovery"] = "salvage"
    expected = {b"a": b"1", b"b": b"1", b"c": b"1", b"i": b"1"}
    assert contents(reopened(after, bucket, keep_disk=True)) == expected


@pytest.mark.parametrize("lost", [True, False], ids=["record", "nothing"])
def test_an_ingest_whose_record_was_the_last_is_named_where_it_is_left_out(*, lost: bool) -> None:
    world, db = begun()
    flushed(db, a="1")
    db.ingest([(b"i", b"1")])
    after = world.kill()
    if lost:
        after.bucket.delete([names(after, MANIFEST_PREFIX)[-1]])
    report, bucket = repaired(after)
    assert report.manifest == "whole"
    name = names(after, TABLE_PREFIX)[-1]
    assert [each.partition(":")[0] for each in report.left_out] == ([name] if lost else [])
    assert contents(reopened(after, bucket)) == {b"a": b"1"} | ({} if lost else {b"i": b"1"})
