"""What large values take: copied by reference, rewritten when mostly dead, and collected."""

from __future__ import annotations

import random
from typing import Any

import pytest

from seerdb.storage.flush.run import packed
from seerdb.storage.object_store.names import BLOB_PREFIX
from seerdb.storage.read.scan import Wanted
from tests.db.blobs import (
    blob_objects,
    blobs_of,
    collect,
    fill,
    key,
    new_world,
    requests,
    value,
)


def test_compaction_copies_pointers_and_reads_no_value() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(50))
    db.flush()
    rows |= fill(db, range(50, 100))
    db.put(key(3), rows[key(3)])
    db.flush()
    before = {use.id for use in blobs_of(db)}
    with requests(world) as asked:
        db.compact()
    assert not [name for name in asked if name.endswith("blobs") and not name.startswith("list")]
    assert {use.id for use in blobs_of(db)} == before
    assert db.statistics().runs == 1
    assert dict(db.scan()) == rows


def test_a_merge_that_moves_values_has_read_its_tables_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It told of hundreds of times as much: the values, and what lies between them."""
    world = new_world()
    db = world.open()
    fill(db, range(100))
    db.flush()
    engine, jobs = db._engine, []
    publish = engine.publisher.compacted

    def compacted(removed: Any, added: Any) -> None:
        jobs.extend(db.statistics().jobs)
        publish(removed, added)

    monkeypatch.setattr(engine.publisher, "compacted", compacted)
    before = blobs_of(db)
    fill(db, range(90), seed=500)
    db.flush()
    with requests(world) as asked:
        db.compact()
    assert "get_range blobs" in asked
    assert not {use.id for use in before} & {use.id for use in blobs_of(db)}
    assert max(job.bytes_read / job.input_bytes for job in jobs) == 1.0


def test_blobs_that_nobody_points_into_are_collected() -> None:
    world = new_world()
    db = world.open()
    fill(db, range(20))
    db.flush()
    [first] = blob_objects(world)
    fill(db, range(20), seed=500)
    db.flush()
    db.compact()
    assert len(blobs_of(db)) == 1
    assert first in blob_objects(world), "readers elsewhere may want it for a while"
    collect(world, db)
    assert first not in blob_objects(world)
    assert db.verify().problems == []
    db.delete_range(b"a", b"z")
    db.compact()
    collect(world, db)
    assert blob_objects(world) == []


def test_what_is_mostly_dead_is_rewritten_and_its_space_taken_back() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(100))
    db.flush()
    [before] = blobs_of(db)
    for number in range(100):
        if number % 5:
            db.delete(key(number))
            del rows[key(number)]
    db.compact()
    [after] = blobs_of(db)
    assert after.id != before.id, (
        "the merge left it mostly dead; the next one, in its place, did it"
    )
    assert after.total == after.live_bytes < before.total // 4
    assert dict(db.scan()) == rows
    collect(world, db)
    assert len(blob_objects(world)) == 1
    assert db.statistics().amplifications.space < 1.2
    assert db.verify().problems == []
    assert dict(world.lose_machine().open().scan()) == rows


def test_what_is_half_live_stays_where_it_is() -> None:
    world = new_world()
    db = world.open()
    fill(db, range(100))
    db.flush()
    [before] = blobs_of(db)
    for number in range(49):
        db.delete(key(number))
    db.compact()
    db.compact()
    [after] = blobs_of(db)
    assert after.id == before.id
    assert after.live_values == 51


@pytest.mark.parametrize("compaction", ["lazy_leveled", "leveled", "tiered", "adaptive"])
def test_space_stays_bounded_however_often_values_are_overwritten(compaction: str) -> None:
    world = new_world(memtable_capacity=1 << 15, compaction=compaction, wal_segment_size=1 << 16)
    db = world.open()
    draw = random.Random(3)
    rows: dict[bytes, bytes] = {}
    for number in range(1500):
        name = key(draw.randrange(50))
        db.put(name, value(number))
        rows[name] = value(number)
    db.flush()
    world.clock.advance(10_000)
    db._engine.background.compaction.wake()
    collect(world, db)
    assert dict(db.scan()) == rows
    stored = sum(info.size for info in world.bucket.list(BLOB_PREFIX))
    assert stored < (12 if compaction == "tiered" else 6) * 50 * 1000, stored
    assert db.verify().problems == []


def test_a_snapshot_reads_blobs_that_everybody_else_has_left() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(20))
    db.flush()
    [old] = blob_objects(world)
    snapshot = db.snapshot()
    scan = db.scan()
    first = next(scan)
    fill(db, range(20), seed=900)
    db.compact()
    collect(world, db)
    assert old in blob_objects(world)
    assert dict(snapshot.scan()) == rows
    assert snapshot.get(key(3)) == rows[key(3)]
    assert snapshot.multi_get([key(4), key(5)]) == [rows[key(4)], rows[key(5)]]
    assert {first[0]: first[1], **dict(scan)} == rows
    snapshot.close()
    del scan
    collect(world, db)
    assert old not in blob_objects(world)


def test_a_blob_that_no_manifest_names_yet_is_not_collected() -> None:
    world = new_world()
    db = world.open()
    fill(db, range(5))
    outputs, reads = db._engine.outputs, db._engine.reads
    ids = outputs.begin(1)
    blobs = db._engine.table_format.blob_writer(world.store, ids[0])
    blobs.separate(packed(next(reads.scan(reads.view(), Wanted(None, None)))))
    blobs._upload()
    [being_made] = blob_objects(world)
    collect(world, db)
    assert blob_objects(world) == [being_made]
    outputs.finish(ids)
    collect(world, db)
    assert blob_objects(world) == []


def test_a_threshold_may_change_from_life_to_life() -> None:
    world = new_world(merge_operator="append")
    draw = random.Random(11)
    rows: dict[bytes, bytes] = {}
    for life, threshold in enumerate([0, 100, 400, 50, 0, 100]):
        db = world.open(blob_threshold=threshold)
        for number in range(60):
            name, data = (
                key(draw.randrange(80)),
                value(1000 * life + number, draw.choice([40, 300])),
            )
            if draw.random() < 0.2:
                db.merge(name, b"+")
                rows[name] = rows.get(name, b"") + b"+"
            elif draw.random() < 0.1:
                db.delete(name)
                rows.pop(name, None)
            else:
                db.put(name, data)
                rows[name] = data
        db.flush()
        assert dict(db.scan()) == rows
        db.compact()
        assert dict(db.scan()) == rows, f"life {life}"
        assert db.verify().problems == []
        db.close()


def test_turned_off_values_come_back_as_their_blobs_die() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(50))
    db.close()
    db = world.open(blob_threshold=0)
    for number in range(40):
        db.delete(key(number))
        del rows[key(number)]
    db.compact()
    assert db.statistics().blobs.blobs == 0
    assert dict(db.scan()) == rows
    collect(world, db)
    assert blob_objects(world) == []


def test_what_there_is_is_told() -> None:
    world = new_world()
    db = world.open()
    fill(db, range(20))
    db.flush()
    statistics = db.statistics()
    told = statistics.blobs
    assert (told.blobs, told.values) == (1, 20)
    assert 20_000 < told.live_bytes < told.bytes < 20_500
    assert statistics.values["blob_bytes"] == told.bytes
    amplifications = statistics.amplifications
    assert amplifications.written_bytes == statistics.table_bytes + told.bytes
    assert 0.9 < amplifications.write < 1.2
    assert 1 <= amplifications.space < 1.1
    gigabytes = (statistics.table_bytes + told.bytes) / (1 << 30)
    prices = statistics.costs.prices
    assert statistics.costs.storage_per_month == pytest.approx(gigabytes * prices.gigabyte_month)
    for number in range(5):
        db.delete(key(number))
    db.compact()
    assert db.statistics().blobs.values == 15
    assert db.statistics().blobs.live_bytes == told.live_bytes * 3 // 4
