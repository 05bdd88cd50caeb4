"""Repairing a bucket that has no manifest any more."""

from __future__ import annotations

import pytest

from seerdb import DB, AlreadyExistsError, NotFoundError
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import ROOMY, World
from tests.fixtures.repairs import (
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    WAL_PREFIX,
    lose,
    names,
    reopened,
    repaired,
)


def contents(db: DB) -> dict[bytes, bytes]:
    return dict(db.scan())


def begun(**settings: object) -> tuple[World, DB]:
    world = World(**{**ROOMY, **settings})
    return world, world.open()


def flushed(db: DB, **pairs: str) -> None:
    for key, value in pairs.items():
        db.put(key.encode(), value.encode())
    db.flush()


def test_tables_alone_are_a_database_again() -> None:
    world, db = begun()
    flushed(db, a="1", b="1", c="1")
    flushed(db, b="2")
    db.delete(b"c")
    db.delete_range(b"a", b"b")
    flushed(db, d="3")
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert (report.manifest, len(report.tables), report.lost) == ("none", 3, [])
    assert contents(reopened(world, bucket)) == {b"b": b"2", b"d": b"3"}


def test_the_source_is_not_changed_and_a_dry_run_writes_nothing() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    lose(world, MANIFEST_PREFIX)
    before = dict(world.bucket._objects)
    report, bucket = repaired(world, dry_run=True)
    assert (report.dry_run, report.tables) == (True, names(world, TABLE_PREFIX))
    assert bucket.list("") == []
    wet, _ = repaired(world)
    assert wet.tables == report.tables
    assert world.bucket._objects == before


def test_a_merge_output_with_its_inputs_beside_it_stands_for_them() -> None:
    world, db = begun()
    flushed(db, a="1", b="1", c="1")
    flushed(db, a="2", z="2")
    db.compact()
    flushed(db, b="3")
    db.close()
    assert len(names(world, TABLE_PREFIX)) == 4
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert len(report.tables) == 2
    assert len(report.left_out) == 2
    assert contents(reopened(world, bucket)) == {b"a": b"2", b"b": b"3", b"c": b"1", b"z": b"2"}


def test_what_a_merge_dropped_inside_its_range_stays_deleted() -> None:
    world, db = begun()
    flushed(db, a="1", m="1", z="1")
    db.delete(b"m")
    flushed(db, b="1")
    db.compact()
    db.close()
    lose(world, MANIFEST_PREFIX)
    newest = names(world, TABLE_PREFIX)[-1]
    report, bucket = repaired(world)
    assert report.tables == [newest]
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": b"1", b"z": b"1"}


def test_where_a_replaced_table_may_bring_keys_back_the_report_names_them() -> None:
    world, db = begun()
    flushed(db, a="1", b="1", z="1")
    db.delete(b"z")
    flushed(db, b="2")
    db.compact()
    db.close()
    # The collector was half done: the table with the tombstone is gone, the one below it is not.
    first, second, _ = names(world, TABLE_PREFIX)
    world.bucket.delete([second])
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert first in report.tables
    doubt = next(each for each in report.doubts if "deleted may be back" in each.because)
    assert (doubt.name, doubt.smallest, doubt.largest) == (first, b"z", b"z")
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": b"2", b"z": b"1"}


def test_with_no_manifest_all_ranges_are_in_doubt() -> None:
    world, db = begun()
    flushed(db, a="1", c="1")
    flushed(db, x="1")
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, _ = repaired(world)
    assert [(each.smallest, each.largest) for each in report.doubts] == [(b"a", b"c"), (b"x", b"x")]
    assert not report.ok


def test_the_shipped_log_goes_on_after_the_tables() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"1", durability="object")
    db.put(b"c", b"1", durability="object")
    after = world.lose_machine()
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert (report.last_seq, report.log_last_seq) == (1, 3)
    db = reopened(after, bucket)
    assert contents(db) == {b"a": b"1", b"b": b"1", b"c": b"1"}
    assert db.put(b"d", b"1") == 4


def test_the_log_replaces_a_newest_table_that_is_gone() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"1", durability="object")
    db.flush()
    after = world.lose_machine()
    after.bucket.delete([names(after, TABLE_PREFIX)[-1]])
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert (report.last_seq, report.log_last_seq) == (1, 2)
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1"}


def test_the_log_goes_on_where_what_was_collected_of_it_ended() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"1", durability="object")
    db.flush()
    db.put(b"c", b"1", durability="object")
    after = world.lose_machine()
    # The log up to 2 was collected because a table held it, and then that table was lost.
    after.bucket.delete([*names(after, WAL_PREFIX)[:-1], names(after, TABLE_PREFIX)[-1]])
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert (report.last_seq, report.log_last_seq) == (2, 3)
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"c": b"1"}


def test_what_lies_behind_a_gap_in_the_log_is_left_out_and_named() -> None:
    world, db = begun()
    flushed(db, a="1")
    for key in (b"b", b"c", b"d"):
        db.put(key, b"1", durability="object")
    after = world.lose_machine()
    lose(after, MANIFEST_PREFIX)
    _, second, third = names(after, WAL_PREFIX)
    after.bucket.delete([second])
    report, bucket = repaired(after)
    assert report.log_last_seq == 2
    assert report.left_out == [f"{third}: a gap in the shipped log is before it"]
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1"}


def test_what_lies_behind_a_gap_in_the_log_is_lost_also_with_a_whole_manifest() -> None:
    world, db = begun()
    for key in (b"a", b"b", b"c", b"d"):
        db.put(key, b"1", durability="object")
    after = world.lose_machine()
    after.bucket.delete(names(after, WAL_PREFIX)[1:2])
    report, bucket = repaired(after)
    assert report.manifest == "whole"
    assert [(loss.name, loss.min_seq, loss.max_seq) for loss in report.lost] == [("the log", 2, 4)]
    assert contents(reopened(after, bucket)) == {b"a": b"1"}


def test_the_local_log_of_the_data_directory_goes_on_in_the_new_bucket() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"1")
    after = world.kill()
    lose(after, MANIFEST_PREFIX)
    _, bucket = repaired(after, with_log=True)
    assert contents(reopened(after, bucket, keep_disk=True)) == {b"a": b"1", b"b": b"1"}


@pytest.mark.parametrize("kept", [True, False], ids=["logged", "lost"])
def test_the_local_log_goes_on_behind_a_commit_that_is_in_no_log(*, kept: bool) -> None:
    world, db = begun(wal_retention="count:1000", history_retention=1000.0)
    flushed(db, a="1")
    flushed(db, b="2")
    db.restore_in_place(2)
    db.put(b"c", b"4", durability="local" if kept else "memory")
    after = world.lose_power(seed=1)  # which the segment has survived, in any case
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after, with_log=True)
    assert report.last_seq == 3
    again = reopened(after, bucket, keep_disk=True)
    assert contents(again) == {b"a": b"1", b"b": b"2"} | ({b"c": b"4"} if kept else {})


def test_a_table_that_a_later_owner_declared_void_is_left_out() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"old")
    db.flush()
    orphan, data = (name := names(world, TABLE_PREFIX)[-1]), world.bucket.get(name)
    world.bucket.delete([orphan])
    # As it is when the flush was made and not published before another machine took over.
    world.bucket.delete([names(world, MANIFEST_PREFIX)[-1]])
    other = world.lose_machine()
    later = other.open()
    later.put(b"b", b"new", durability="object")
    after = other.lose_machine()
    after.bucket.put(orphan, data)
    lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after)
    assert any(each.startswith(orphan) and "void" in each for each in report.left_out)
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"new"}


def test_an_ingest_of_unknown_age_is_kept_and_in_doubt_where_it_overlaps() -> None:
    world, db = begun()
    flushed(db, a="1", b="1")
    db.ingest([(b"b", b"2"), (b"c", b"2")])
    flushed(db, c="3")
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert any("an ingest made it" in each.because for each in report.doubts)
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": b"2", b"c": b"3"}


def test_operands_are_folded_once_when_inputs_lie_beside_the_output() -> None:
    world, db = begun(merge_operator="append")
    for operand in (b"1", b"2", b"3"):
        db.merge(b"k", operand)
        flushed(db, a="1", z="1")
    db.compact()
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert len(report.tables) == 1
    assert reopened(world, bucket).get(b"k") == b"123"


def test_who_merges_has_to_name_the_operator() -> None:
    world, db = begun(merge_operator="append")
    db.merge(b"k", b"1")
    flushed(db, a="1")
    db.merge(b"k", b"2")
    flushed(db, a="2")
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert any("merge_operator" in note for note in report.notes)
    assert reopened(world, bucket).get(b"k") == b"12"


def test_a_range_delete_between_a_base_and_its_operands_stays() -> None:
    world, db = begun(merge_operator="append")
    flushed(db, k="1")
    db.delete_range(b"k", b"l")
    db.flush()
    db.merge(b"k", b"2")
    db.flush()
    db.close()
    assert len(names(world, TABLE_PREFIX)) == 3
    lose(world, MANIFEST_PREFIX)
    _, bucket = repaired(world)
    assert reopened(world, bucket).get(b"k") == b"2"


def test_no_id_of_a_table_is_used_twice() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    db = world.open()
    flushed(db, a="2")
    db.close()
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    again = reopened(world, bucket)
    assert again._engine.manifest.epoch == report.epoch + 1 == 3


def test_a_target_that_is_not_empty_is_refused_and_a_source_that_is() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    target = MemoryObjectStore(world.clock)
    target.put("tables/00000009-000000000001.sst", b"another's")
    with pytest.raises(AlreadyExistsError, match="not empty: it holds tables/00000009"):
        repaired(world, target)
    _, bucket = repaired(world)
    with pytest.raises(AlreadyExistsError, match="manifest/"):
        repaired(world, bucket)
    with pytest.raises(NotFoundError, match="nothing to rebuild"):
        repaired(World())


def test_the_collector_of_a_repaired_database_finds_where_its_past_begins() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    lose(world, MANIFEST_PREFIX)
    _, bucket = repaired(world)
    again = reopened(world, bucket)
    flushed(again, b="1")
    again._engine.background.garbage.wake()
    assert contents(again) == {b"a": b"1", b"b": b"1"}


def test_a_branch_of_the_log_counts_by_its_name_whatever_it_holds() -> None:
    world, db = begun()
    db.put(b"a", b"1", durability="object")
    after = world.lose_machine()
    after.open().put(b"b", b"1", durability="object")
    [branch] = [name for name in names(after, WAL_PREFIX) if not after.bucket.get(name)]
    after.bucket.put(branch, b"?")
    report, bucket = repaired(after.lose_machine())
    assert (report.ok, bucket.get(branch)) == (True, b"")
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1"}
