"""Merge operators: operands are folded in order, wherever they are, and never lost."""

from __future__ import annotations

from typing import Any

import pytest

from seerdb.ids import MAX_SEQ
from seerdb.storage.memtable import GONE
from seerdb.storage.value import Merge
from tests.db.merging import everywhere, int64, opened, tables


@pytest.mark.parametrize(
    ("operator", "operands", "result"),
    [
        ("int64_add", [int64(5), int64(-7), int64(1)], int64(-1)),
        ("int64_add", [int64((1 << 63) - 1), int64(1)], int64(-(1 << 63))),
        ("append", [b"a", b"", b"bc"], b"abc"),
        ("max", [b"b", b"c", b"a"], b"c"),
        ("min", [b"b", b"a", b"c"], b"a"),
        ("set_union", [b"b\na", b"\nc\n", b"a\nb"], b"a\nb\nc"),
        ("set_union", [b""], b""),
    ],
)
def test_what_is_built_in(operator: str, operands: list[bytes], result: bytes) -> None:
    _, db = opened(operator)
    for operand in operands:
        db.merge(b"one place", operand)
        db.merge(b"k", operand)
        db.flush()
    assert db.get(b"k") == db.get(b"one place") == result
    db.compact()
    assert db.get(b"k") == db.get(b"one place") == result


def test_operands_are_folded_over_memtables_and_runs() -> None:
    _, db = opened()
    db.put(b"a", b"x")
    db.put(b"k", b"0")
    db.flush()
    db.merge(b"k", b"1")
    db.flush()
    db.merge(b"k", b"2")
    db.merge(b"k", b"3")
    everywhere(db, b"0123")
    db._engine.background.flush.close()  # what is sealed from now on stays so
    db._engine.committer.rotate()
    db.merge(b"k", b"4")
    db._engine.committer.rotate()
    db.merge(b"k", b"5")
    everywhere(db, b"012345")


@pytest.mark.parametrize("forget", ["delete", "delete_range"])
def test_a_delete_and_a_range_delete_end_what_operands_reach(forget: str) -> None:
    arguments: tuple[bytes, ...] = {"delete": (b"k",), "delete_range": (b"a", b"z")}[forget]
    steps: list[list[Any]] = [
        ["put", b"k", b"0"],
        ["merge", b"k", b"1"],
        [forget, *arguments],
        ["merge", b"k", b"2"],
    ]
    for flushes in range(16):
        _, db = opened()
        for bit, step in enumerate(steps):
            call, *given = step
            getattr(db, call)(*given)
            if flushes & 1 << bit:
                db.flush()
        everywhere(db, b"2")
        db.merge(b"k", b"3")
        everywhere(db, b"23")
        db.compact()
        everywhere(db, b"23")
        getattr(db, forget)(*arguments)
        everywhere(db, None)


def test_operations_of_one_batch_build_on_one_another() -> None:
    world, db = opened()
    db.put(b"k", b"old")
    with db.batch() as batch:
        batch.merge(b"k", b"1")
        batch.merge(b"k", b"2")
        batch.merge(b"new", b"a")
        batch.merge(b"new", b"b")
        batch.put(b"put", b"1")
        batch.merge(b"put", b"2")
        batch.delete(b"deleted")
        batch.merge(b"deleted", b"3")
        batch.merge(b"overwritten", b"x")
        batch.put(b"overwritten", b"4")
        batch.merge(b"ranged", b"x")
        batch.delete_range(b"r", b"s")
        batch.merge(b"ranged2", b"5")
    expected = {
        b"deleted": b"3",
        b"k": b"old12",
        b"new": b"ab",
        b"overwritten": b"4",
        b"put": b"12",
        b"ranged2": b"5",
    }
    assert dict(db.scan()) == expected
    assert dict(world.kill().open().scan()) == expected
    db.compact()
    assert dict(db.scan()) == expected


def test_a_snapshot_sees_the_operands_of_its_time() -> None:
    world, db = opened()
    db.merge(b"k", b"1")
    views = [db.snapshot()]
    for number in range(2, 6):
        db.merge(b"k", b"%d" % number)
        views.append(db.snapshot())
        if number == 3:
            db.flush()
            world.clock.advance(1)
    db.compact()
    assert [view.get(b"k") for view in views] == [b"1", b"12", b"123", b"1234", b"12345"]
    assert [dict(view.scan())[b"k"] for view in views] == [b"1", b"12", b"123", b"1234", b"12345"]


def test_a_row_that_holds_an_operand_already_is_not_put_under_it() -> None:
    """What newer reads find in tables is not what was below a snapshot's memtables."""
    _, db = opened()
    db.put(b"k", b"0")
    db.flush()
    db.merge(b"k", b"1")
    view = db.snapshot()
    db.compact()
    assert [db.get(b"k") for _ in range(3)] == [b"01"] * 3
    assert db._engine.live.current.layout.rows.get(b"k") is not None
    assert (view.get(b"k"), view.multi_get([b"k"])) == (b"01", [b"01"])


def test_a_counter_takes_one_entry_in_a_memtable() -> None:
    world, db = opened("int64_add")
    for number in range(300):
        world.clock.advance(0.01)
        db.merge(b"open", int64(1))
        db.merge(b"known", int64(1)) if number else db.put(b"known", int64(1))
    active = db._engine.live.current.active
    assert active.find(b"known", MAX_SEQ) == (600, int64(300))
    _, value = active.find(b"open", MAX_SEQ) or (0, None)
    assert isinstance(value, Merge)
    assert len(value.operands) <= 5
    assert sum(each is not GONE for each in active.values) == 2
    assert db.get(b"open") == int64(300)


def test_a_compaction_combines_operands_above_their_base_and_folds_them_at_the_bottom() -> None:
    world, db = opened("int64_add", block_size=256)
    for number in range(200):
        db.put(b"ballast%04d" % number, b"v" * 100)
    db.put(b"k", int64(1000))
    db.flush()
    for _ in range(8):
        world.clock.advance(60)
        db.merge(b"k", int64(1))
        db.flush()
    runs = db._engine.manifest.state.version.runs
    merges = [table.merges for run in runs for table in run.tables]
    assert len(runs) > 1
    assert sum(merges) < 8
    assert db.get(b"k") == int64(1008)
    db.compact()
    assert [table.merges for table in tables(db)] == [0]
    assert db.get(b"k") == int64(1008)


def test_operands_survive_crashes_and_count_once() -> None:
    world, db = opened("int64_add", memtable_capacity=4096, wal_segment_size=16 << 10)
    for number in range(200):
        db.merge(b"k", int64(1))
        if number % 40 == 20:
            world = world.kill() if number % 80 == 20 else world.lose_power(number)
            db = world.open()
        assert db.get(b"k") == int64(number + 1)
    other = world.lose_machine().open()
    assert int.from_bytes(other.get(b"k") or b"", "little") <= 200
    assert db.verify().problems == []


@pytest.mark.parametrize("compaction", ["leveled", "tiered", "lazy_leveled"])
def test_operands_are_in_order_while_parts_of_runs_are_merged(compaction: str) -> None:
    """Also those of keys that stay unread while their tables are moved and merged apart."""
    world, db = opened(compaction=compaction, memtable_capacity=2048, block_size=256)
    expected: dict[bytes, bytes] = {}
    for number in range(1500):
        key = b"%03d" % world.random.randrange(300)
        world.clock.advance(0.2)
        if number % 9 == 0:
            db.put(key, b"=", ttl=10_000)
            expected[key] = b"="
        else:
            db.merge(key, b"%d," % number)
            expected[key] = expected.get(key, b"") + b"%d," % number
        if number % 500 == 499:
            world = world.kill()
            db = world.open()
    assert dict(db.scan()) == expected
    assert all(db.get(key) == value for key, value in expected.items())
    db.compact()
    assert dict(db.scan()) == expected
    assert all(table.merges == 0 for table in tables(db))
