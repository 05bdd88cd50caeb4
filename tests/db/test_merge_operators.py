"""Operators themselves: which there are, what they refuse, and what becomes of their mistakes."""

from __future__ import annotations

import sys

import pytest

import seerdb
from seerdb import Batch, InvalidRequestError, MergeError, MergeOperator
from tests.db.merging import everywhere, int64, opened, tables
from tests.fixtures.database import ROOMY, World


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


@pytest.mark.parametrize("seconds", [False, True])
def test_many_merges_into_a_large_value_take_no_time_for_each_as_it_all_does(
    seconds: bool,
) -> None:
    """Each merge made the whole of what had been merged into a key anew, while the writer held the
    lock of all readers: a batch of 8,000 lines of a set took ten seconds."""
    taken = 0

    def joined(older: bytes, newer: bytes) -> bytes:
        nonlocal taken
        taken += len(older) + len(newer)
        return older + newer

    seerdb.register_merge_operator(f"joined-{seconds}", joined)
    world, db = opened(f"joined-{seconds}")
    lines = [b"%09d\n" % number for number in range(4000)]
    for line in lines:
        db.merge(b"k", line)
        if seconds and line.endswith(b"00\n"):
            world.clock.advance(1)
    assert db.get(b"k") == b"".join(lines)
    db.compact()
    assert db.get(b"k") == b"".join(lines)
    assert taken < 8_000_000, "16 million were it once"


@pytest.mark.parametrize("seconds", [False, True])
@pytest.mark.parametrize("ttl", [None, 1000.0])
def test_so_do_many_merges_onto_a_put_that_is_in_memory(seconds: bool, ttl: float | None) -> None:
    """Each folded all there was anew, while the writer held the lock of all readers."""
    taken = 0

    def joined(older: bytes, newer: bytes) -> bytes:
        nonlocal taken
        taken += len(older) + len(newer)
        return older + newer

    name = f"onto-put-{seconds}-{ttl}"
    seerdb.register_merge_operator(name, joined)
    world, db = opened(name, blob_threshold=32 << 10, wal_segment_size=4 << 20)
    lines = [b"%09d\n" % number for number in range(4000)]
    db.put(b"k", lines[0], ttl=ttl)
    for line in lines[1:]:
        db.merge(b"k", line)
        if seconds and line.endswith(b"00\n"):
            world.clock.advance(1)
    everywhere(db, b"".join(lines))
    db.flush()
    assert [(table.merges, len(table.blobs)) for table in tables(db)] == [(0, 1)], "folded"
    everywhere(db, b"".join(lines))
    assert taken < 8_000_000, "80 million were it once"
    if ttl:
        world.clock.advance(1000)
        everywhere(db, None)


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
        (7, one),
        (b"bytes", one),
        (None, one),
        ("test_merging.none", None),
        ("test_merging.name", seerdb.MergeOperator("append")),  # type: ignore[arg-type]
        ("test_merging.base", seerdb.MergeOperator(one, first=b"0")),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidRequestError):
            seerdb.register_merge_operator(name, operator)  # type: ignore[arg-type]


def in_main(older: bytes, newer: bytes) -> bytes:
    return older + newer


def test_an_operator_for_worker_processes_must_be_able_to_go_there() -> None:
    seerdb.register_merge_operator("test_merging.local", lambda older, newer: older + newer)
    world = World(**ROOMY)
    with pytest.raises(InvalidRequestError, match="background='thread'"):
        world.open(merge_operator="test_merging.local", background="process")
    world.open(merge_operator="test_merging.local").close()


def test_an_operator_of_the_program_itself_cannot_go_to_worker_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "in_main", in_main, raising=False)
    monkeypatch.setattr(in_main, "__module__", "__main__")
    seerdb.register_merge_operator("test_merging.main", in_main)
    world = World(**ROOMY)
    with pytest.raises(InvalidRequestError, match="in_main is in the program itself"):
        world.open(merge_operator="test_merging.main", background="process")
    world.open(merge_operator="test_merging.main").close()
