"""Merge operators: operands are folded in order, wherever they are, and never lost."""

from __future__ import annotations

from typing import Any

import pytest

import seerdb
from seerdb import DB, Batch, InvalidRequestError, MergeError, MergeOperator
from seerdb.storage.compaction.compactor import _Work
from seerdb.storage.compaction.plan import BOTTOM_LEVEL, make_plan
from tests.fixtures.database import ROOMY, World


def int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def opened(operator: str = "append", **settings: Any) -> tuple[World, DB]:
    world = World(**{**ROOMY, "merge_operator": operator, **settings})
    return world, world.open()


def tables(db: DB) -> list[Any]:
    return db._engine.manifest.state.version.tables


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


def everywhere(db: DB, expected: bytes | None) -> None:
    """Every kind of read says the same."""
    assert db.get(b"k") == expected
    assert db.multi_get([b"k"]) == [expected]
    rows = [] if expected is None else [(b"k", expected)]
    assert list(db.scan(b"k", b"l")) == rows
    assert list(db.scan(b"k", b"l", reverse=True)) == rows
    with db.snapshot() as snapshot:
        assert snapshot.get(b"k") == expected
        assert list(snapshot.scan(b"k", b"l")) == rows


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
    held = db._engine.live.current.active.entries
    assert held[b"known"] == (600, int64(300))
    assert len(held[b"open"][1].operands) <= 5  # type: ignore[union-attr]
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


def test_a_merge_keeps_the_time_to_live_of_its_base() -> None:
    for flushes in range(8):
        world, db = opened()
        db.put(b"k", b"0", ttl=10)
        if flushes & 1:
            db.flush()
        db.merge(b"k", b"1")
        if flushes & 2:
            db.flush()
        everywhere(db, b"01")
        world.clock.advance(10)
        everywhere(db, None)
        db.merge(b"k", b"2")  # begins anew, for good
        if flushes & 4:
            db.flush()
        everywhere(db, b"2")
        world.clock.advance(1000)
        db.merge(b"k", b"3")
        everywhere(db, b"23")
        db.compact()
        everywhere(db, b"23")
        everywhere(world.kill().open(), b"23")


def test_operands_on_both_sides_of_an_end_are_not_combined_above_it() -> None:
    """The first one belongs to the value that is gone, whatever was merged before it was known."""
    world, db = opened(block_size=256)
    for number in range(200):
        db.put(b"ballast%04d" % number, b"v" * 100)
    db.put(b"k", b"0", ttl=10)
    db.flush()
    db.merge(b"k", b"1")
    world.clock.advance(10)
    db.merge(b"k", b"2")
    for number in range(8):
        db.put(b"o%d" % number, b"x")
        db.flush()
        everywhere(db, b"2")
    assert len(db._engine.manifest.state.version.runs) > 1
    db.compact()
    everywhere(db, b"2")


def test_an_operand_goes_with_its_base_though_that_was_dropped_first() -> None:
    """What expired under operands that a compaction does not see must be remembered."""
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    for _ in range(3):
        db.put(b"other", b"x" * 200)
        db.flush()
    db.merge(b"k", int64(1))
    world.clock.advance(10)
    db._engine.compactor.ask_for_full()
    db._engine.background.compaction.wake()
    assert [table.entries for table in tables(db)] == [2]
    everywhere(db, None)
    db.merge(b"k", int64(5))
    everywhere(db, int64(5))
    db.compact()
    everywhere(db, int64(5))


def merge_older_runs(db: DB) -> None:
    """Compact all runs but the newest."""
    version = db._engine.manifest.state.version
    older = version.runs[1:]
    plan = make_plan(version, older, (BOTTOM_LEVEL, -older[0].number), 1 << 20)
    assert plan is not None
    assert plan.bottom
    compactor = db._engine.compactor
    compactor._work = _Work(plan, compactor.full_done)
    assert compactor.compact_one()


@pytest.mark.parametrize(
    ("merged", "remembers"), [(b"k", True), (b"l", True), (b"m", False), (None, False)]
)
def test_what_expired_is_remembered_at_the_bottom_if_a_table_that_stays_may_merge_into_it(
    merged: bytes | None, remembers: bool
) -> None:
    world, db = opened("int64_add")
    db.put(b"j", b"x")
    db.put(b"l", int64(7))
    db.flush()
    db.put(b"k", int64(1), ttl=10)
    db.flush()
    if merged is not None:
        db.merge(merged, int64(1))
    else:
        db.put(b"k", b"replaced", ttl=1)
    db.flush()
    world.clock.advance(10)
    merge_older_runs(db)
    assert [table.expiring for table in tables(db) if table.level] == [int(remembers)]
    everywhere(db, None)
    db.merge(b"k", int64(5))
    everywhere(db, int64(5))
    db.compact()
    everywhere(db, int64(5))
    assert all(not table.special for table in tables(db))


def test_what_expired_is_dropped_when_nothing_merged_into_it_is_left() -> None:
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    db.merge(b"k", int64(1))
    world.clock.advance(10)
    db.compact()
    assert tables(db) == []


def test_what_expires_while_a_commit_is_on_its_way_is_remembered() -> None:
    """Its operand was committed before the end, and comes to light after the compaction."""
    world, db = opened("int64_add")
    db.put(b"k", int64(1), ttl=10)
    db.flush()
    world.clock.advance(9.5)
    apply = db._engine.committer._publish

    def late(group: list[Any], last: int) -> None:
        world.clock.advance(1)
        db._engine.compactor.ask_for_full()
        db._engine.compactor.compact_one()
        apply(group, last)

    db._engine.committer._publish = late  # type: ignore[method-assign]
    db.merge(b"k", int64(1))
    everywhere(db, None)


def test_without_an_operator_a_merge_is_refused() -> None:
    db = World(**ROOMY).open()
    with pytest.raises(InvalidRequestError, match="merge_operator"):
        db.merge(b"k", b"1")
    batch = Batch()
    batch.put(b"a", b"1")
    batch.merge(b"k", b"1")
    with pytest.raises(InvalidRequestError, match="merge_operator"):
        db.submit(batch, sink=lambda _: None)
    assert (len(batch), db.visible_seq) == (2, 0)


def test_an_operand_that_the_operator_refuses_changes_nothing() -> None:
    _, db = opened("int64_add")
    with pytest.raises(InvalidRequestError, match="8 bytes"):
        db.merge(b"k", b"eleven byte")
    batch = Batch()
    batch.put(b"a", b"1")
    batch.merge(b"k", b"1")
    with pytest.raises(InvalidRequestError, match="8 bytes"):
        db.write(batch)
    with pytest.raises(InvalidRequestError, match="bytes, not str"):
        db.merge(b"k", "1")  # type: ignore[arg-type]
    assert (db.visible_seq, list(db.scan())) == (0, [])


def test_operands_that_do_not_fold_are_kept_and_say_so_when_read() -> None:
    _, db = opened("int64_add")
    db.put(b"k", b"eleven byte")
    db.merge(b"k", int64(1))
    db.merge(b"k", int64(2))
    db.put(b"z", b"fine")
    for _ in range(2):
        for read in (
            lambda: db.get(b"k"),
            lambda: db.multi_get([b"z", b"k"]),
            lambda: list(db.scan()),
            lambda: db.snapshot().get(b"k"),
        ):
            with pytest.raises(MergeError, match=r"b'k'.*8 bytes"):
                read()
        assert db.get(b"z") == b"fine"
        assert list(db.scan(b"l")) == [(b"z", b"fine")]
        db.compact()
    assert db.verify().problems == []
    db.put(b"k", int64(7))
    db.merge(b"k", int64(1))
    assert db.get(b"k") == int64(8)


class Flaky:
    """An operator that a test may break."""

    def __init__(self) -> None:
        self.broken = False

    def __call__(self, older: bytes, newer: bytes) -> bytes:
        if self.broken:
            raise ZeroDivisionError("out of order")
        return older + newer


def test_an_operator_that_fails_loses_nothing() -> None:
    flaky = Flaky()
    seerdb.register_merge_operator("test_merging.flaky", flaky)
    world, db = opened("test_merging.flaky")
    db.put(b"k", b"0", ttl=1000)
    db.merge(b"k", b"1")
    flaky.broken = True
    for number in range(2, 6):
        db.merge(b"k", b"%d" % number)
        if number == 3:
            db.flush()
    with pytest.raises(MergeError, match="out of order") as caught:
        db.get(b"k")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    db.compact()
    db = world.kill().open()
    with pytest.raises(MergeError):
        db.get(b"k")
    flaky.broken = False
    everywhere(db, b"012345")
    db.compact()
    everywhere(db, b"012345")
    assert [table.merges for table in tables(db)] == [0]


@pytest.mark.parametrize("wrong", [None, "text", bytearray(b"x"), 1])
def test_an_operator_that_returns_no_bytes_fails_like_any_other(wrong: object) -> None:
    name = f"test_merging.returns.{type(wrong).__name__}"
    seerdb.register_merge_operator(name, lambda older, newer: wrong)  # type: ignore[arg-type, return-value]
    _, db = opened(name)
    db.put(b"k", b"0")
    db.merge(b"k", b"1")
    with pytest.raises(MergeError, match="not bytes"):
        db.get(b"k")


def test_a_base_case_may_turn_the_first_operand_into_a_value() -> None:
    def first(operand: bytes) -> bytes:
        return b"<" + operand

    def combine(older: bytes, newer: bytes) -> bytes:
        return older + newer

    seerdb.register_merge_operator("test_merging.first", MergeOperator(combine, first))
    world, db = opened("test_merging.first")
    db.merge(b"k", b"a")
    world.clock.advance(5)
    db.merge(b"k", b"b")
    db.flush()
    db.merge(b"k", b"c")
    everywhere(db, b"<abc")
    db.compact()
    everywhere(db, b"<abc")


def test_the_operator_belongs_to_the_database() -> None:
    world, db = opened()
    db.merge(b"k", b"1")
    db.close()
    with pytest.raises(InvalidRequestError, match=r"'append'.*'max'"):
        world.open(merge_operator="max")
    again = world.open(merge_operator=None)  # what it merges with is known
    again.merge(b"k", b"2")
    assert again.get(b"k") == b"12"
    elsewhere = world.lose_machine()
    with pytest.raises(InvalidRequestError, match="for good"):
        elsewhere.open(merge_operator="max")
    epoch = again._engine.manifest.epoch
    assert world.kill().open()._engine.manifest.epoch == epoch + 1  # refusals claimed nothing


def test_an_operator_may_come_later() -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"k", b"0")
    db.close()
    db = world.open(merge_operator="append")
    db.merge(b"k", b"1")
    assert db.get(b"k") == b"01"


def test_an_unknown_operator_is_refused_by_name() -> None:
    world = World(**ROOMY)
    with pytest.raises(InvalidRequestError, match=r"'nobodys'.*register_merge_operator"):
        world.open(merge_operator="nobodys")
    assert world.open().visible_seq == 0


def test_registering() -> None:
    def one(older: bytes, newer: bytes) -> bytes:
        return newer

    def other(older: bytes, newer: bytes) -> bytes:
        return older

    seerdb.register_merge_operator("test_merging.one", one)
    seerdb.register_merge_operator("test_merging.one", one)
    for name, operator in (
        ("test_merging.one", other),
        ("append", other),
        ("", one),
        ("a b", one),
        ("x" * 65, one),
        ("test_merging.none", None),
    ):
        with pytest.raises(InvalidRequestError):
            seerdb.register_merge_operator(name, operator)  # type: ignore[arg-type]


def test_an_operator_for_worker_processes_must_be_able_to_go_there() -> None:
    seerdb.register_merge_operator("test_merging.local", lambda older, newer: older + newer)
    world = World(**ROOMY)
    with pytest.raises(InvalidRequestError, match="background='thread'"):
        world.open(merge_operator="test_merging.local", background="process")
    world.open(merge_operator="test_merging.local").close()
