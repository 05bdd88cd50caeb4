"""Repairing a bucket whose database was restored in place: what that took away does not come back
unless nothing tells of it, and then the report says so."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.storage.manifest.edit import RESTORE, Edit
from seerdb.storage.manifest.store import read_record
from tests.fixtures.database import World
from tests.fixtures.repairs import (
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    damage,
    lose,
    names,
    reopened,
    repaired,
)
from tests.repair.test_lost_manifest import begun, contents, flushed

PAST = {"history_retention": 10_000.0, "wal_retention": "count:1000", "ship_interval": 1.0}


def restored(*, merged: bool = False) -> tuple[World, DB, dict[bytes, bytes]]:
    """A database that was restored in place to its second commit, and written to since. What was
    taken away is in tables and in the log."""
    world, db = begun(**PAST)
    flushed(db, a="1")
    db.put(b"b", b"1", durability="object")
    flushed(db, c="1")
    right = db.visible_seq
    db.delete(b"c", durability="object")
    flushed(db, a="wrong", d="wrong")
    if merged:
        db.compact()
    db.put(b"e", b"wrong", durability="object")
    assert db.restore_in_place(right).seq == right + 5
    flushed(db, f="2")
    db.put(b"g", b"2", durability="object")
    shown = contents(db)
    assert shown == {b"a": b"1", b"b": b"1", b"c": b"1", b"f": b"2", b"g": b"2"}
    return world.kill(), db, shown


def restoring(world: World) -> str:
    """The manifest object that tells of the restore."""
    for name in names(world, MANIFEST_PREFIX):
        record = read_record(world.bucket, int(name.rpartition("/")[2]))
        if isinstance(record, Edit) and record.reason == RESTORE:
            return name
    raise AssertionError("it was not restored")


@pytest.mark.parametrize("merged", [False, True])
def test_with_its_manifest_it_is_what_it_was(*, merged: bool) -> None:
    world, _, shown = restored(merged=merged)
    report, bucket = repaired(world)
    assert report.manifest == "whole"
    assert contents(reopened(world, bucket)) == shown


@pytest.mark.parametrize("merged", [False, True])
def test_what_it_took_away_stays_away_though_later_records_are_damaged(*, merged: bool) -> None:
    world, _, shown = restored(merged=merged)
    last = names(world, MANIFEST_PREFIX)[-1]
    assert restoring(world) < last
    damage(world, last)
    report, bucket = repaired(world)
    assert report.manifest == "part"
    assert contents(reopened(world, bucket)) == shown


@pytest.mark.parametrize("merged", [False, True])
def test_what_it_took_away_does_not_stand_in_for_a_table_that_is_damaged(*, merged: bool) -> None:
    world, db, shown = restored(merged=merged)
    first, *_ = sorted(db._engine.manifest.state.version.tables, key=lambda each: each.min_seq)
    damage(world, f"{TABLE_PREFIX}{first.id}.sst")
    report, bucket = repaired(world)
    assert [loss.name for loss in report.lost] == [f"{TABLE_PREFIX}{first.id}.sst"]
    left = contents(reopened(world, bucket))
    assert left.items() < shown.items()


@pytest.mark.parametrize("gone", ["all", "its record"])
def test_where_no_record_tells_of_it_the_report_says_what_may_be_back(gone: str) -> None:
    world, _, _ = restored()
    if gone == "all":
        lose(world, MANIFEST_PREFIX)
    else:
        damage(world, restoring(world))
    report, bucket = repaired(world)
    told = [each for each in report.notes if "checkpoints/before-restore-8" in each]
    assert len(told) == 1
    assert "may be back" in told[0]
    assert not report.ok
    reopened(world, bucket)


def test_where_the_manifest_is_whole_nothing_is_said_of_it() -> None:
    world, _, _ = restored()
    report, _ = repaired(world)
    assert report.ok
    assert report.notes == []
