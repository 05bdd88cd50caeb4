"""Repairing a bucket whose manifest, tables, blobs or log are damaged in part."""

from __future__ import annotations

import random

import pytest

from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.database import ROOMY, World, collect_garbage
from tests.fixtures.repairs import (
    BLOB_PREFIX,
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    WAL_PREFIX,
    damage,
    lose,
    names,
    reopened,
    repaired,
)
from tests.repair.test_lost_manifest import begun, contents, flushed


def test_a_sound_database_is_copied_as_it_is() -> None:
    world, db = begun()
    flushed(db, a="1", b="1")
    db.delete(b"b")
    db.compact()
    flushed(db, c="1")
    state = db._engine.manifest.state
    db.close()
    report, bucket = repaired(world)
    assert (report.manifest, report.ok, report.last_seq) == ("whole", True, state.last_seq)
    again = reopened(world, bucket)
    assert again._engine.manifest.state.version == state.version
    assert contents(again) == {b"a": b"1", b"c": b"1"}


def test_a_damaged_record_in_the_middle_costs_nothing_that_a_later_checkpoint_tells() -> None:
    world, db = begun()
    flushed(db, a="1")
    flushed(db, b="1")
    db.close()
    damage(world, names(world, MANIFEST_PREFIX)[1])
    report, bucket = repaired(world)
    assert (report.manifest, [loss.name for loss in report.lost]) == (
        "whole",
        [names(world, MANIFEST_PREFIX)[1]],
    )
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": b"1"}


def test_a_damaged_newest_checkpoint_costs_nothing() -> None:
    world, db = begun()
    flushed(db, a="1", m="1", z="1")
    db.delete(b"m")
    flushed(db, b="1")
    db.compact()
    db.close()
    damage(world, names(world, MANIFEST_PREFIX)[-1])
    report, bucket = repaired(world)
    assert (report.manifest, report.doubts) == ("part", [])
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": b"1", b"z": b"1"}


def test_a_flush_whose_record_is_damaged_is_found_by_its_table() -> None:
    world, db = begun()
    flushed(db, a="1", b="1")
    flushed(db, b="2", c="2")
    after = world.kill()
    damage(after, names(after, MANIFEST_PREFIX)[-1])
    report, bucket = repaired(after)
    assert (report.manifest, len(report.tables)) == ("part", 2)
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"2", b"c": b"2"}


def test_tables_that_a_readable_record_removed_do_not_come_back() -> None:
    world, db = begun()
    flushed(db, a="1", z="1")
    db.delete(b"z")
    flushed(db, b="1")
    db.compact()  # the output ends before z, so nothing in the tables tells that z is gone
    removing = names(world, MANIFEST_PREFIX)[-1]
    flushed(db, c="1")
    flushed(db, d="1")
    after = world.kill()
    damaged = names(after, MANIFEST_PREFIX)[-2]
    assert damaged > removing
    damage(after, damaged)
    report, bucket = repaired(after)
    assert sum("the manifest removed it" in each for each in report.left_out) == 2
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1", b"c": b"1", b"d": b"1"}


def test_a_record_that_is_missing_in_the_middle_is_named() -> None:
    world, db = begun()
    flushed(db, a="1")
    flushed(db, b="1")
    flushed(db, c="1")
    after = world.kill()
    missing = names(after, MANIFEST_PREFIX)[-2]
    after.bucket.delete([missing])
    report, bucket = repaired(after)
    assert (report.manifest, [loss.name for loss in report.lost]) == ("part", [missing])
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1", b"c": b"1"}


@pytest.mark.parametrize("with_log", [False, True])
def test_a_flush_whose_record_was_the_last_and_is_gone_is_found_by_its_table(
    *, with_log: bool
) -> None:
    world, db = begun(ship_interval=0, merge_operator="append", blob_threshold=100)
    flushed(db, a="1", b="1")
    flushed(db, b="2", c="2" * 200)
    db.merge(b"m", b"3")
    world.store.fail("put_if_absent", match=MANIFEST_PREFIX, times=1)
    db.flush()  # its table is made twice, and counts once
    db.put(b"d", b"4")
    after = world.kill()
    after.bucket.delete(names(after, MANIFEST_PREFIX)[-2:])
    report, bucket = repaired(after, with_log=with_log)
    assert (report.manifest, report.ok, report.last_seq) == ("whole", True, 5)
    expected = {b"a": b"1", b"b": b"2", b"c": b"2" * 200, b"m": b"3"}
    newest = {b"d": b"4"} if with_log else {}
    assert contents(reopened(after, bucket, keep_disk=with_log)) == expected | newest


def test_a_merge_whose_record_was_the_last_and_is_gone_is_found_by_its_output() -> None:
    world, db = begun(ship_interval=0)
    flushed(db, a="1", z="1")
    flushed(db, a="2")
    replaced = names(world, TABLE_PREFIX)
    db.compact()
    after = world.kill()
    after.bucket.delete([names(after, MANIFEST_PREFIX)[-1], *replaced])
    report, bucket = repaired(after)
    assert (report.manifest, report.lost) == ("part", [])
    assert contents(reopened(after, bucket)) == {b"a": b"2", b"z": b"1"}


@pytest.mark.parametrize("is_there", [False, True])
def test_an_ingest_whose_record_was_the_last_and_is_gone_is_missed_by_the_log(
    *, is_there: bool
) -> None:
    world, db = begun(ship_interval=0)
    flushed(db, a="1")
    before = names(world, TABLE_PREFIX)
    db.ingest([(b"b", b"2")])
    db.put(b"c", b"3")
    after = world.kill()
    after.bucket.delete(names(after, MANIFEST_PREFIX)[-1:])
    if not is_there:
        after.bucket.delete(set(names(after, TABLE_PREFIX)) - set(before))
    report, bucket = repaired(after, with_log=True)
    assert not report.ok
    if not is_there:
        assert [(loss.min_seq, loss.max_seq) for loss in report.lost] == [(2, 2)]
    found = {b"b": b"2"} if is_there else {}
    again = reopened(after, bucket, keep_disk=True)
    assert contents(again) == {b"a": b"1", b"c": b"3"} | found


def test_another_databases_log_is_no_part_of_this_one() -> None:
    world, db = begun()
    flushed(db, a="1")
    after = world.lose_machine()
    other = World(seed=5, **ROOMY)
    other_db = other.open()
    for _ in range(2):
        other_db.put(b"b", b"1", durability="object")
    strange = names(other, WAL_PREFIX)[-1]
    after.bucket.put(strange, other.bucket.get(strange))
    report, bucket = repaired(after)
    assert [loss.name for loss in report.lost] == [strange]
    assert contents(reopened(after, bucket)) == {b"a": b"1"}


def test_a_merge_whose_record_is_damaged_is_found_by_its_outputs() -> None:
    world, db = begun()
    flushed(db, a="1", m="1", z="1")
    db.delete(b"m")
    flushed(db, a="2")
    db.compact()
    after = world.kill()
    damage(after, names(after, MANIFEST_PREFIX)[-1])
    report, bucket = repaired(after)
    assert len(report.tables) == 1
    assert contents(reopened(after, bucket)) == {b"a": b"2", b"z": b"1"}


def test_a_flush_that_was_made_and_published_by_nobody_is_left_out() -> None:
    world, db = begun()
    flushed(db, a="1")
    world.store.fail("put_if_absent", match=MANIFEST_PREFIX, times=1)
    db.put(b"b", b"1")
    db.flush()
    flushed(db, c="1")
    after = world.kill()
    damage(after, names(after, MANIFEST_PREFIX)[-1])
    _, bucket = repaired(after)
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1", b"c": b"1"}


def test_an_old_flush_that_the_collector_missed_does_not_come_back() -> None:
    world, db = begun()
    flushed(db, z="1")
    missed, data = (name := names(world, TABLE_PREFIX)[0]), world.bucket.get(name)
    db.delete(b"z")
    for number in range(150):
        flushed(db, **{f"k{number:03}": "1"})
    db.compact()
    collect_garbage(world, db)
    flushed(db, a="1")
    after = world.kill()
    after.bucket.put(missed, data)
    damage(after, names(after, MANIFEST_PREFIX)[-1])
    report, bucket = repaired(after)
    assert any(each.startswith(f"{missed}: it was not in") for each in report.left_out)
    assert b"z" not in contents(reopened(after, bucket))


def test_records_of_later_owners_that_are_gone_show_by_their_epoch() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    before = names(world, MANIFEST_PREFIX)
    db = world.open()
    flushed(db, a="2")
    db.close()
    world.bucket.delete(set(names(world, MANIFEST_PREFIX)) - set(before))
    report, bucket = repaired(world)
    assert (report.manifest, report.epoch) == ("part", 2)
    assert contents(reopened(world, bucket)) == {b"a": b"2"}


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_damaged_table_is_named_with_what_it_held(with_manifest: bool) -> None:
    world, db = begun()
    flushed(db, a="1")
    flushed(db, b="1", c="1")
    flushed(db, d="1")
    db.close()
    second = names(world, TABLE_PREFIX)[1]
    damage(world, second, 0)
    if not with_manifest:
        lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    [loss] = report.lost
    assert (loss.name, loss.smallest, loss.largest) == (second, b"b", b"c")
    assert (loss.min_seq, loss.max_seq) == (2, 3)
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"d": b"1"}


def test_a_table_that_is_gone_is_named_by_the_manifest() -> None:
    world, db = begun()
    flushed(db, a="1")
    flushed(db, b="1")
    db.close()
    first = names(world, TABLE_PREFIX)[0]
    world.bucket.delete([first])
    report, bucket = repaired(world)
    assert [(loss.name, loss.smallest) for loss in report.lost] == [(first, b"a")]
    assert contents(reopened(world, bucket)) == {b"b": b"1"}


def test_a_table_of_which_nothing_can_be_read_may_have_held_anything() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.close()
    lose(world, MANIFEST_PREFIX)
    name = names(world, TABLE_PREFIX)[0]
    world.bucket.put(name, b"x")
    [loss] = repaired(world)[0].lost
    assert (loss.name, loss.smallest, loss.max_seq) == (name, None, 0)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_large_values_come_along_and_a_damaged_blob_takes_its_tables_with_it(
    with_manifest: bool,
) -> None:
    world, db = begun(blob_threshold=1000)
    large = random.Random(1).randbytes(4000)
    flushed(db, a="1")
    db.put(b"b", large)
    db.put(b"e", large, ttl=1e6)
    db.flush()
    db.put(b"c", large[::-1])
    db.flush()
    db.close()
    if not with_manifest:
        lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert len(report.blobs) == 2
    expected = {b"a": b"1", b"b": large, b"c": large[::-1], b"e": large}
    assert contents(reopened(world, bucket)) == expected
    damage(world, names(world, BLOB_PREFIX)[1], 10)
    report, bucket = repaired(world)
    assert {loss.name.partition("/")[0] for loss in report.lost} == {"blobs", "tables"}
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": large, b"e": large}


def test_no_more_of_a_blob_is_pointed_at_than_there_is() -> None:
    world, db = begun(blob_threshold=1000)
    large = random.Random(1).randbytes(4000)
    db.put(b"b", large)
    db.put(b"z", large[::-1])
    db.flush()
    db.delete(b"z")
    flushed(db, a="1")
    db.compact()
    db.close()
    first, second, _ = names(world, TABLE_PREFIX)
    world.bucket.delete([second])
    lose(world, MANIFEST_PREFIX)
    report, bucket = repaired(world)
    assert [(loss.name, loss.smallest, loss.largest) for loss in report.lost] == [
        (first, b"b", b"z")
    ]
    assert contents(reopened(world, bucket)) == {b"a": b"1", b"b": large}


def test_a_damaged_part_of_the_shipped_log_is_named_by_its_seqs() -> None:
    world, db = begun()
    db.put(b"a", b"1", durability="object")
    db.put(b"b", b"1", durability="object")
    after = world.lose_machine()
    second = names(after, WAL_PREFIX)[1]
    damage(after, second)
    report, bucket = repaired(after)
    assert [(loss.name, loss.min_seq, loss.max_seq) for loss in report.lost] == [(second, 2, 2)]
    assert contents(reopened(after, bucket)) == {b"a": b"1"}


def test_a_repair_that_dies_at_any_request_can_be_run_again() -> None:
    world, db = begun(blob_threshold=1000)
    flushed(db, a="1")
    db.put(b"b", random.Random(1).randbytes(4000))
    db.flush()
    db.put(b"c", b"1", durability="object")
    after = world.lose_machine()
    lose(after, MANIFEST_PREFIX)
    target = FaultyObjectStore(MemoryObjectStore(after.clock))
    repaired(after, target)
    whole = len(target.trace)
    for number in range(1, whole + 1):
        inner = MemoryObjectStore(after.clock)
        dying = FaultyObjectStore(inner)
        dying.crash_at = number
        with pytest.raises(CrashError):
            repaired(after, dying)
        assert inner.list(MANIFEST_PREFIX) == [], "it counts only when it is complete"
        repaired(after, inner)
        assert set(contents(reopened(after, inner))) == {b"a", b"b", b"c"}


def test_what_was_collected_before_is_no_damage() -> None:
    world, db = begun()
    for number in range(70):
        flushed(db, **{f"k{number}": "1"})
    db.compact()
    collect_garbage(world, db)
    db.close()
    report, bucket = repaired(world)
    assert (report.manifest, report.ok) == ("whole", True)
    assert len(contents(reopened(world, bucket))) == 70


@pytest.mark.parametrize("is_gone", [True, False])
def test_the_inputs_of_a_merge_stand_in_for_a_damaged_output(is_gone: bool) -> None:
    world, db = begun()
    flushed(db, a="1", m="1", z="1")
    db.delete(b"m")
    flushed(db, a="2")
    db.compact()
    flushed(db, b="1")
    after = world.kill()
    first, second, output, _ = names(after, TABLE_PREFIX)
    if is_gone:
        after.bucket.delete([output])
    else:
        damage(after, output)
    report, bucket = repaired(after)
    assert (report.ok, len(report.tables)) == (True, 3)
    [note] = report.notes
    assert note.startswith(f"{first}, {second} stand in for {output}: ")
    assert contents(reopened(after, bucket)) == {b"a": b"2", b"b": b"1", b"z": b"1"}


def test_an_input_alone_stands_in_for_what_it_held_and_the_rest_is_lost() -> None:
    world, db = begun()
    flushed(db, a="1", z="1")
    flushed(db, b="2")
    db.compact()
    after = world.kill()
    first, second, output = names(after, TABLE_PREFIX)
    damage(after, output)
    after.bucket.delete([second])
    report, bucket = repaired(after)
    assert ([loss.name for loss in report.lost], report.tables) == ([output], [first])
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"z": b"1"}


def test_the_log_goes_on_where_records_say_that_tables_ended_not_where_merges_left_them() -> None:
    """What merges drop takes the seqs of tables back, and so b came back and c was left out."""
    world, db = begun(ship_interval=0)
    flushed(db, a="1")
    db.put(b"b", b"1", durability="object")
    db.delete(b"b")
    db.flush()
    db.compact()
    db.put(b"c", b"1", durability="object")
    after = world.kill()
    damage(after, names(after, MANIFEST_PREFIX)[1])
    for with_log in (False, True):
        report, bucket = repaired(after, with_log=with_log)
        assert (report.manifest, report.last_seq) == ("part", 3)
        assert contents(reopened(after, bucket, keep_disk=with_log)) == {b"a": b"1", b"c": b"1"}


@pytest.mark.parametrize("lost", [0, -1])
def test_a_table_that_is_gone_is_lost_whatever_merges_before_have_left_behind(lost: int) -> None:
    world, db = begun()
    flushed(db, z="1")
    for value in "12":
        flushed(db, a=value)
    db.compact(b"a", b"c")
    merged = names(world, MANIFEST_PREFIX)[-1]  # alone has named what it made
    flushed(db, b="1")
    db.compact(b"a", b"c")
    flushed(db, c="1")
    db.close()
    damage(world, merged)
    gone = names(world, TABLE_PREFIX)[lost]
    world.bucket.delete([gone])
    report, bucket = repaired(world)
    assert [loss.name for loss in report.lost] == [merged, gone]
    assert len(contents(reopened(world, bucket))) == 3


@pytest.mark.parametrize("flush", [False, True])
def test_a_local_log_of_the_newest_epoch_goes_on_though_its_claim_is_damaged(flush: bool) -> None:
    """It was taken for that of a data directory which the one of the claim before had followed."""
    world, db = begun()
    flushed(db, a="1")
    after = world.lose_machine()
    db = after.open()
    claim = names(after, MANIFEST_PREFIX)[-1]
    db.put(b"b", b"1")
    if flush:
        db.flush()
    db.put(b"c", b"1")
    after = after.kill()
    damage(after, claim)
    report, bucket = repaired(after, with_log=True)
    assert (report.epoch, report.notes) == (2, [])
    assert contents(reopened(after, bucket, keep_disk=True)) == {b"a": b"1", b"b": b"1", b"c": b"1"}


@pytest.mark.parametrize("lost", [True, False])
def test_the_local_log_of_an_epoch_that_another_one_followed_is_not_used(lost: bool) -> None:
    """Its commits hid those of the owner, whose claim is damaged, or all of the manifest gone."""
    world, db = begun()
    flushed(db, a="1")
    other = world.open("other")
    claim = names(world, MANIFEST_PREFIX)[-1]
    flushed(other, b="1")
    db.put(b"void", b"1")
    db.put(b"void", b"2")
    other.put(b"c", b"1", durability="object")
    after = world.kill()
    damage(after, claim)
    if lost:
        lose(after, MANIFEST_PREFIX)
    report, bucket = repaired(after, with_log=True)
    assert "another data directory" in report.notes[0]
    assert contents(reopened(after, bucket)) == {b"a": b"1", b"b": b"1", b"c": b"1"}


def test_the_local_log_goes_on_though_the_claim_of_a_life_that_wrote_nothing_is_damaged() -> None:
    world, db = begun()
    flushed(db, a="1")
    db.put(b"b", b"1")
    after = world.kill()
    after.store.fail("put", match=TABLE_PREFIX, times=1 << 30)
    after.open()
    damage(after, names(after, MANIFEST_PREFIX)[-1])
    [table] = names(after, TABLE_PREFIX)
    after.bucket.put("tables/00000002-000000000001.sst", after.bucket.get(table))
    report, bucket = repaired(after, with_log=True)
    assert report.epoch == 2
    assert contents(reopened(after, bucket, keep_disk=True)) == {b"a": b"1", b"b": b"1"}
