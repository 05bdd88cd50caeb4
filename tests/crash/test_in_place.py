"""A restore in place that dies, or whose bucket does: it has happened or it has not."""

from __future__ import annotations

import gc
from typing import Any
from unittest.mock import patch

import pytest

from seerdb import DB, FencedError, UnavailableError
from seerdb.errors import HistoryError
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.names import CHECKPOINT_PREFIX, MANIFEST_PREFIX, TABLE_PREFIX
from seerdb.storage.tiers.table_store import TableHandle
from seerdb.testing.model import Model
from tests.crash.trace import (
    Ingest,
    Restore,
    Run,
    Step,
    Verb,
    check_contents,
    check_recovery,
    delete,
    delete_range,
    merge,
    outcomes,
    put,
)
from tests.fixtures.database import ROOMY, World, collect_garbage

FAT = b"f" * 300

TRACE: tuple[Step, ...] = (
    put(b"a", b"1"),
    put(b"b", FAT, "object"),
    merge(b"m", b"one"),
    Verb("flush"),
    merge(b"m", b"two"),
    put(b"a", b"2"),
    delete_range(b"b", b"c"),
    merge(b"m", b"three", "memory"),
    Restore(4),
    put(b"c", b"3", "memory"),
    Restore(7, kept=True),
    Verb("compact"),
    merge(b"m", b"four"),
    Ingest(((b"a", b"ingested"), (b"d", FAT))),
    delete(b"d"),
    Restore(2),
    Verb("reopen"),
    put(b"b", b"4", "object"),
    Restore(13),
    merge(b"m", b"five"),
)
PAST: dict[str, Any] = {
    "history_retention": 10_000.0,
    "wal_retention": "count:1000",
    "merge_operator": "append",
}


def run(steps: tuple[Step, ...], crash: Any = None) -> Run:
    world = World(**PAST, blob_threshold=200)
    world.crash_at(crash)
    return Run(world).execute(steps)


def test_the_trace_restores_to_tables_to_log_and_to_a_checkpoint() -> None:
    done = run(TRACE)
    assert not done.died
    kept = {info.name for info in done.world.bucket.list(CHECKPOINT_PREFIX)}
    assert kept == {f"{CHECKPOINT_PREFIX}before-restore-{seq}" for seq in (8, 10, 14, 16)}
    check_recovery(done.world.kill(), done.model, "memory")


@pytest.mark.crash
@pytest.mark.parametrize("shard", range(4))
def test_a_crash_at_every_operation_leaves_what_was_or_what_was_restored(shard: int) -> None:
    for point in run(TRACE).world.crash_points()[shard::4]:
        crashed = run(TRACE, point)
        assert crashed.died
        for level, world in outcomes(crashed.world, range(1, 2)):
            check_recovery(world, crashed.model, level)


@pytest.mark.crash
def test_a_restore_that_died_is_made_again() -> None:
    steps = TRACE[:9]
    for point in run(steps).world.crash_points():
        crashed = run(steps, point)
        world = crashed.world.kill()
        db = world.open()
        if not crashed.died or db.visible_seq != 7:
            continue
        report = db.restore_in_place(4)
        assert (report.seq, report.checkpoint) == (8, "before-restore-8")
        crashed.model.settle(7)
        check_contents(db, crashed.model, 4)
        db.restore_in_place(checkpoint=report.checkpoint)
        check_contents(db, crashed.model, 7)
        assert db.verify().ok


def begin(**settings: Any) -> tuple[World, DB, Model]:
    """A database with rows in tables and in memory, and what it should say."""
    world = World(**PAST, **ROOMY, **settings)
    db = world.open()
    model = Model()
    for number in range(4):
        model.attempt([("put", b"k%d" % (number % 2), b"%d" % number)])
        model.acknowledge(db.put(b"k%d" % (number % 2), b"%d" % number), "local")
        if number == 0:
            db.flush()
    return world, db, model


def heal(world: World) -> None:
    world.store._faults.clear()
    world.clock.advance(60.0)


def test_without_a_bucket_nothing_is_changed_and_writes_go_on() -> None:
    world, db, model = begin()
    world.store.outage = True
    with pytest.raises(UnavailableError):
        db.restore_in_place(2)
    check_contents(db, model)
    model.attempt([("put", b"b", b"2")])
    model.acknowledge(db.put(b"b", b"2"), "local")
    world.store.outage = False
    world.clock.advance(60.0)
    model.attempt_restore(2)
    model.acknowledge(db.restore_in_place(2).seq, "object")
    check_contents(db, model)


@pytest.mark.parametrize("prefix", [CHECKPOINT_PREFIX, TABLE_PREFIX])
def test_what_cannot_be_put_into_the_bucket_changes_nothing(prefix: str) -> None:
    world, db, model = begin()
    db.flush()
    for operation in ("put", "put_if_absent"):
        world.store.fail(operation, match=prefix, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.restore_in_place(2)
    check_contents(db, model)
    heal(world)
    assert db._engine.outputs._in_flight == set()
    model.attempt_restore(2)
    model.acknowledge(db.restore_in_place(2).seq, "object")
    check_contents(db, model)
    collect_garbage(world, db)
    check_recovery(world.lose_power(1), model, "local")


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("then", ["flush", "compact", "restore", "close"])
def test_an_outcome_that_was_unknown_is_found_out_before_anything_else_is_published(
    happens: bool, then: str
) -> None:
    world, db, model = begin()
    db.flush()
    assert db.get(b"k0") == b"2"  # in the row cache
    publish = db._engine.publisher.restored
    then_tables: set[str] = set()

    def lose_answers(version: Version, *arguments: Any) -> None:
        then_tables.update(name for table in version.tables for name in table.objects)
        fault = world.store.time_out_after if happens else world.store.fail
        fault("put_if_absent", match=MANIFEST_PREFIX, times=1 << 30)
        world.store.fail("get", match=MANIFEST_PREFIX, times=1 << 30)
        publish(version, *arguments)

    with (
        patch.object(db._engine.publisher, "restored", lose_answers),
        pytest.raises(UnavailableError),
    ):
        db.restore_in_place(2)
    assert db._engine.publisher._in_doubt is not None
    gc.collect()
    assert then_tables <= db._engine.tables.live_objects(), "it may yet come into effect"
    check_contents(db, model)
    if happens:
        model.attempt_restore(2)
    else:
        model.attempt([])
    model.acknowledge(model.seq, "local")
    model.attempt([("put", b"z", b"1")])
    model.acknowledge(db.put(b"z", b"1"), "local")
    heal(world)
    if then == "restore":
        model.attempt_restore(3)
        model.acknowledge(db.restore_in_place(3).seq, "object")
    elif then == "close":
        db.close()
        db = world.open()
    else:
        getattr(db, then)()
    check_contents(db, model)
    assert db._engine.outputs._in_flight == set()
    assert db.verify().problems == []
    check_recovery(world.lose_power(1), model, "local")


def test_two_writers_and_the_older_one_restores_nothing() -> None:
    world, db, model = begin()
    db.flush()
    other = world.open("elsewhere")
    with pytest.raises(FencedError):
        db.restore_in_place(2)
    with pytest.raises(FencedError):
        db.put(b"x", b"y")
    check_contents(other, model)


def test_an_object_that_is_gone_is_told_before_anything_is_changed() -> None:
    world, db, model = begin()
    db.checkpoint("kept")
    [name] = {info.name for info in world.bucket.list(TABLE_PREFIX)} - {
        name for table in db._engine.manifest.state.version.tables[1:] for name in table.objects
    }
    world.bucket.delete([name])
    with pytest.raises(HistoryError, match=rf"seq 4 cannot be restored: {name} .* missing"):
        db.restore_in_place(checkpoint="kept")
    check_contents(db, model, 4)


def test_nothing_is_collected_while_the_tables_of_then_are_taken_hold_of() -> None:
    _, db, _ = begin()
    engine = db._engine
    handle = engine.tables.handle
    taken: list[bool] = []

    def look(table: TableMeta) -> TableHandle:
        taken.append(engine.collector._turn.locked())
        return handle(table)

    with patch.object(engine.tables, "handle", look):
        db.restore_in_place(2, dry_run=True)
    assert taken
    assert all(taken)
