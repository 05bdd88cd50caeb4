"""Compaction as the setting asks for it, in a whole database."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from seerdb import DB, ChecksumError, InternalError, UnavailableError
from seerdb.events import CompactionCompleted
from seerdb.storage.compaction import load
from seerdb.storage.compaction.load import UNKNOWN_SECONDS
from seerdb.storage.compaction.plan import make_plan
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.given import LEVELED, TIERED
from seerdb.storage.compaction.work import Work
from seerdb.storage.object_store.local_store import LocalObjectStore
from seerdb.testing.model import Model
from tests.crash.trace import Write, commit
from tests.db.conftest import OpenDB
from tests.fixtures.database import ROOMY, World, collect_garbage


def fill(db: DB, numbers: range) -> dict[bytes, bytes]:
    """Put rows that do not compress, 11 to a memtable."""
    rows = {b"%05d" % n: random.Random(n).randbytes(60) for n in numbers}
    for key, value in rows.items():
        db.put(key, value)
    return rows


def compaction_requests(db: DB) -> set[str]:
    return {row.operation for row in db.statistics().store_requests if row.purpose == "compaction"}


@pytest.mark.parametrize("compaction", sorted(set(POLICIES) - {"adaptive"}))
def test_keys_that_only_rise_are_never_rewritten(compaction: str) -> None:
    world = World(compaction=compaction, table_size=4096)
    db = world.open()
    rows = fill(db, range(1500))
    db.flush()
    statistics = db.statistics()
    assert statistics.compactions.moves > 5
    assert statistics.compactions.compactions == 0
    assert compaction_requests(db) == set()
    assert statistics.runs < 12 < statistics.tables
    assert {row.level for row in statistics.levels} >= {7}
    assert dict(db.scan()) == rows
    assert db.multi_get(list(rows)) == list(rows.values())
    assert db.verify().problems == []
    reopened = world.lose_machine().open()
    assert dict(reopened.scan()) == rows


@pytest.mark.parametrize(
    "other", [{"compression": "none"}, {"block_size": 256}], ids=["not compressed", "in blocks"]
)
def test_outputs_keep_to_their_size_where_they_compress_worse(other: dict[str, Any]) -> None:
    roomy: dict[str, Any] = {
        "memtable_capacity": 4 << 20,
        "wal_segment_size": 4 << 20,
        "block_size": 64 << 10,
    }
    world = World(table_size=8192, **roomy)
    with world.open() as db:
        with db.batch() as batch:
            for number in range(2000):
                batch.put(b"%05d" % number, b"the value %05d " % number * 10)
        db.flush()
        [before] = db._engine.manifest.state.version.tables
    with world.open(**other) as db:
        db.put(b"00000", b"")
        db.compact()
        sizes = [table.size for table in db._engine.manifest.state.version.tables]
        assert sum(sizes) > 4 * before.size
        assert max(sizes) < 2 * 8192


def test_a_moved_table_stays_cached_and_is_not_collected() -> None:
    world = World(table_size=4096, compaction="tiered", block_cache_capacity=1 << 20)
    db = world.open()
    rows: dict[bytes, bytes] = {}
    for number in range(4):
        rows |= fill(db, range(11 * number, 11 * number + 11))
        db.flush()
    before = {table.id for table in db._engine.manifest.state.version.tables}
    assert db.multi_get(list(rows)) == list(rows.values())
    reads = len(world.store.trace)
    rows |= fill(db, range(44, 55))
    db.flush()
    assert db.statistics().compactions.moves == 1
    assert before < {table.id for table in db._engine.manifest.state.version.tables}
    asked = [op for op in world.store.trace[reads:] if op.operation == "get_range"]
    assert db.multi_get(list(rows)[:44]) == list(rows.values())[:44]
    again = [op for op in world.store.trace[reads:] if op.operation == "get_range"]
    assert again == asked, "all of it was in memory"
    collect_garbage(world, db)
    assert dict(db.scan()) == rows


def test_a_part_that_failed_is_done_again_and_no_other() -> None:
    world = World(table_size=1024, compression="none", memtable_capacity=64 << 10)
    db = world.open()
    rows = fill(db, range(2000))
    db.flush()
    db.compact()
    rows |= fill(db, range(0, 2000, 40))
    db.flush()
    uploads = len(world.bucket.list("tables/"))
    world.store.fail("put", match="tables/", skip=20, error=ChecksumError("planned"))
    with pytest.raises(ChecksumError, match="planned"):
        db.compact()
    done = {info.name for info in world.bucket.list("tables/")}
    assert len(done) == uploads + 20
    db.compact()
    [*_, event] = [event for event in world.events if isinstance(event, CompactionCompleted)]
    kept = done & {f"tables/{table}.sst" for table in event.outputs}
    assert 8 <= len(kept) <= 20, "of whole parts"
    assert dict(db.scan()) == rows
    assert db.statistics().runs == 1
    assert db.verify().problems == []


def test_the_policy_may_change_from_life_to_life() -> None:
    world, model = World(table_size=400, memtable_capacity=2048), Model()
    draw = random.Random(7)
    policies = [*POLICIES, *reversed(POLICIES)] * 2
    for life, compaction in enumerate(policies):
        db = world.open(compaction=compaction)
        for _ in range(60):
            key = b"%03d" % draw.randrange(200)
            kind = draw.choices(["put", "delete", "delete_range"], [20, 4, 1])[0]
            value = b"%03d" % draw.randrange(200, 400) if kind == "delete_range" else b""
            operation = (kind, key, value or draw.randbytes(40))
            model.attempt([operation])
            model.acknowledge(commit(db, Write((operation,))), "local")
        expected = {key: row.value for key, row in model.contents().items()}
        assert dict(db.scan()) == expected, f"life {life}, {compaction}"
        assert {key: db.get(key) for key in expected} == expected
        assert db.verify().problems == []
        db.close()


def test_a_reopened_database_keeps_the_shape_that_adaptive_gave_it() -> None:
    world = World(compaction="adaptive")
    db = world.open()
    world.clock.advance(UNKNOWN_SECONDS)
    for start in range(0, 1200, 300):
        fill(db, range(start % 600, start % 600 + 300))
    db.flush()
    assert db.stats()["compaction_shape"] == TIERED
    runs = db.statistics().runs
    assert runs > 2
    world.end(db)
    db = world.open()
    list(db.scan(limit=1))
    db._engine.background.compaction.wake()
    statistics = db.statistics()
    assert (statistics.compaction_shape, statistics.runs) == (TIERED, runs)
    assert statistics.compactions.bytes_read == 0


def test_the_adaptive_policy_sees_a_load_of_reads_alone(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "UNKNOWN_SECONDS", 0.0)
    db = open_db(compaction="adaptive")
    for value in (b"1", b"2"):
        db.put(b"a", value)
        db.flush()
    planner, lane = db._engine.compactor._planner, db._engine.background.compaction
    assert lane.wake_and_wait(lambda: planner.shape == TIERED, 60), "only written to so far"
    for number in range(1000):
        assert db.get(b"%d" % number) is None
        db.multi_get([b"x", b"y"])
        list(db.scan(limit=1))
    timer = db._engine.runtime.workers.timer

    def looks() -> list[Callable[[], None]]:
        return [call for _, _, call in timer._calls if call == db._engine._look_again]

    [look_again] = looks()
    look_again()
    assert lane.wake_and_wait(lambda: planner.shape == LEVELED, 60)
    assert len(looks()) == 2
    db.close()
    look_again()
    assert len(looks()) == 2, "a closed one is not looked at again"


@pytest.mark.parametrize("compaction", POLICIES)
def test_what_is_deleted_is_gone_after_a_full_merge(compaction: str) -> None:
    world = World(table_size=1024, compaction=compaction)
    db = world.open()
    rows = fill(db, range(600))
    for number, key in enumerate(rows):
        if number % 2:
            db.delete(key)
    db.delete_range(b"00100", b"00900")
    db.compact()
    assert dict(db.scan()) == {
        k: v for n, (k, v) in enumerate(rows.items()) if not n % 2 and n < 100
    }
    assert db.statistics().table_entries == 50
    db.delete_range(b"0", b"1")
    db.compact()
    assert db.statistics().tables == 0


@pytest.mark.parametrize(("background", "beside"), [("inline", False), ("thread", True)])
def test_a_merge_waits_for_its_requests_only_where_there_are_no_threads(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, background: str, beside: bool
) -> None:
    db = open_db(background=background)
    for numbers in (range(100), range(50, 150)):
        fill(db, numbers)
        db.flush()
    threads: set[str] = set()
    get_range = LocalObjectStore.get_range

    def noted(store: LocalObjectStore, *wanted: Any) -> bytes:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return get_range(store, *wanted)

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjectStore, "get_range", noted)
        db.compact()
    assert ("seerdb-transfer" in threads) == beside


def test_a_merge_that_a_flush_found_to_be_in_effect_is_done() -> None:
    """Its inputs are gone from the version then, and that is no fault of its plan."""
    world = World(**ROOMY)
    db = world.open()
    for value in (b"1", b"2"):
        db.put(b"k", value)
        db.flush()
    inputs = set(db._table_ids())
    compactor = db._engine.compactor
    request = compactor.ask()
    world.store.time_out_after("put_if_absent", match="manifest/", times=5)
    with pytest.raises(UnavailableError):
        compactor.compact_one()
    world.clock.advance(60)  # the store is asked again
    db.put(b"later", b"3")
    db.flush()
    assert not inputs & set(db._table_ids())
    while compactor.compact_one():
        pass
    assert compactor.is_idle
    assert request.is_done
    assert dict(db.scan()) == {b"k": b"2", b"later": b"3"}


@pytest.mark.parametrize("merges", [False, True])
def test_a_plan_that_breaks_the_order_by_the_time_it_is_done_is_not_published(
    *, merges: bool
) -> None:
    world = World(**ROOMY)
    db = world.open()
    for value in (b"1", b"2"):
        db.put(b"k", value)
        db.flush()
    version = db._engine.manifest.state.version
    plan = make_plan(version, version.runs[:1], (7, -9), 1 << 20)
    assert plan is not None
    assert plan.move
    compactor = db._engine.compactor
    compactor._works[0] = Work(1, replace(plan, move=not merges), 0.0)
    with pytest.raises(InternalError, match="would pass"):
        compactor.compact_one()
    assert db._engine.manifest.state.version == version
    assert db.get(b"k") == b"2"
