"""Batches: all or nothing, in order, of any size."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest

from seerdb import DB, Batch, BusyError, InvalidRequestError
from seerdb.testing.model import Operation
from tests.db.conftest import OpenDB
from tests.db.layers import Layered
from tests.fixtures.database import ROOMY, World


def test_a_batch_is_one_commit(db: DB) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"1")
        batch.put(b"b", b"2")
        batch.delete(b"c")
        assert (len(batch), batch.seq, db.get(b"a")) == (3, 0, None)
    assert (batch.seq, db.visible_seq) == (1, 1)
    assert [entry.seq for entry in db.scan_entries()] == [1, 1]


def test_an_exception_drops_the_batch(db: DB) -> None:
    batch = db.batch()

    def fail() -> None:
        with batch:
            batch.put(b"a", b"1")
            batch.delete_range(b"a", b"z")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (batch.seq, db.visible_seq, list(db.scan())) == (0, 0, [])


@pytest.mark.parametrize("of", [copy.copy, copy.deepcopy, Batch.copy])
def test_a_copy_of_a_batch_is_a_batch_of_its_own(db: DB, of: Callable[[Batch], Batch]) -> None:
    """``copy.copy`` once shared the operations, and only one of both knew of a range delete."""
    with db.batch() as batch:
        batch.put(b"b", b"1")
        twin = of(batch)
        twin.delete_range(b"a", b"z")
        twin.put(b"c", b"2")
    assert (len(batch), len(twin), list(db.scan())) == (0, 3, [(b"b", b"1")])
    db.write(twin)
    assert list(db.scan()) == [(b"c", b"2")]


def test_a_batch_is_empty_after_its_block_and_may_be_used_again(db: DB) -> None:
    """Used again, it once committed also what an exception had dropped before."""
    batch = db.batch()

    def use(key: bytes, error: type[Exception] | None = None) -> None:
        with batch:
            batch.put(key, b"1")
            if error is not None:
                raise error

    use(b"a")
    assert (len(batch), batch.seq) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        use(b"dropped", ZeroDivisionError)
    assert (len(batch), batch.seq) == (0, 0)
    use(b"b")
    assert batch.seq == 2
    assert [(entry.key, entry.seq) for entry in db.scan_entries()] == [(b"a", 1), (b"b", 2)]


def test_a_batch_whose_commit_failed_is_empty(db: DB, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BusyError("slow down", retry_after_seconds=1.0)

    batch = db.batch()
    monkeypatch.setattr(db._engine, "commit", refuse)
    with pytest.raises(BusyError), batch:
        batch.put(b"a", b"1")
    monkeypatch.undo()
    assert len(batch) == 0
    with batch:
        batch.put(b"b", b"2")
    assert list(db.scan()) == [(b"b", b"2")]


def test_an_interrupted_write_commits_what_it_held_then_or_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while it waits for other writers: it stays in their queue, already encoded."""

    class Interrupted:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            """Never entered."""

    world = World(**ROOMY)
    db = world.open()
    batch = Batch()
    batch.put(b"a", b"1")
    batch.put(b"b", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(db._engine.committer, "_mutex", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            db.write(batch)
    batch.delete(b"a")
    db.put(b"next", b"2")
    found = dict(db.scan())
    assert found == {b"a": b"1", b"b": b"1", b"next": b"2"}
    assert dict(world.kill().open().scan()) == found, "log and memtable agree"


def test_an_empty_batch_commits_nothing(db: DB) -> None:
    with db.batch() as batch:
        pass
    assert (batch.seq, db.visible_seq) == (0, 0)
    db.put(b"a", b"1")
    assert db.write(Batch()) == 1
    assert db.visible_seq == 1


IN_ONE_BATCH: dict[str, tuple[list[Operation], dict[bytes, bytes]]] = {
    "put, delete, put": (
        [("put", b"k", b"1"), ("delete", b"k", b""), ("put", b"k", b"2")],
        {b"k": b"2"},
    ),
    "put, delete": ([("put", b"k", b"1"), ("delete", b"k", b"")], {}),
    "delete, put": ([("delete", b"k", b""), ("put", b"k", b"1")], {b"k": b"1"}),
    "range, then put": ([("delete_range", b"a", b"z"), ("put", b"k", b"1")], {b"k": b"1"}),
    "put, then range": ([("put", b"k", b"1"), ("delete_range", b"a", b"z")], {}),
    "put, range, put": (
        [
            ("put", b"k", b"1"),
            ("put", b"l", b"1"),
            ("delete_range", b"a", b"z"),
            ("put", b"k", b"2"),
        ],
        {b"k": b"2"},
    ),
    "range, put, narrower range": (
        [
            ("delete_range", b"a", b"z"),
            ("put", b"k", b"1"),
            ("put", b"l", b"1"),
            ("delete_range", b"k", b"l"),
        ],
        {b"l": b"1"},
    ),
    "the same put twice": ([("put", b"k", b"1"), ("put", b"k", b"1")], {b"k": b"1"}),
}


@pytest.mark.parametrize("layer", ["memtable", "tables", "compacted", "recovered", "reopened"])
@pytest.mark.parametrize("case", IN_ONE_BATCH)
def test_the_order_in_a_batch_counts(case: str, layer: str) -> None:
    operations, expected = IN_ONE_BATCH[case]
    layered = Layered(layer)
    layered.write(("put", b"k", b"before"), ("put", b"m", b"before"))
    layered.write(*operations)
    rest = {} if "range" in case else {b"m": b"before"}
    assert dict(layered.db.scan()) == expected | rest
    assert {k: v for k in (b"k", b"l", b"m") if (v := layered.db.get(k)) is not None} == (
        expected | rest
    )


def test_a_batch_larger_than_memtable_and_segment(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=8 << 10)
    db.put(b"before", b"1")
    with db.batch() as batch:
        for number in range(3000):
            batch.put(b"%05d" % number, b"x" * 100)
    db.put(b"after", b"2")
    assert batch.seq == 2
    db.close()
    db = open_db(memtable_capacity=8 << 10)
    assert len(list(db.scan(b"0", b"1"))) == 3000
    assert db.multi_get([b"before", b"after"]) == [b"1", b"2"]
    assert db.visible_seq == 3


def test_a_batch_may_be_written_again(db: DB) -> None:
    batch = Batch()
    batch.put(b"a", b"1")
    assert db.write(batch) == 1
    db.put(b"a", b"2")
    batch.delete(b"b")
    assert db.write(batch) == 3
    assert db.get_entry(b"a") == (b"a", b"1", 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch.put(b"", b"1"),
        lambda batch: batch.put("a", b"1"),
        lambda batch: batch.put(b"a", "1"),
        lambda batch: batch.put(b"a", None),
        lambda batch: batch.put(b"x" * 65_536, b"1"),
        lambda batch: batch.delete(bytearray(b"a")),
        lambda batch: batch.delete_range(b"b", b"a"),
        lambda batch: batch.delete_range(b"a", b"a"),
        lambda batch: batch.delete_range(b"", b"a"),
    ],
)
def test_a_bad_operation_leaves_the_batch_as_it_was(
    db: DB, change: Callable[[Batch], object]
) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"1")
        with pytest.raises(InvalidRequestError):
            change(batch)
        assert len(batch) == 1
    assert list(db.scan()) == [(b"a", b"1")]


def test_readers_see_all_of_a_batch_or_none(db: DB) -> None:
    """Pairs of keys always change together, by puts, deletes and range deletes."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with db.batch(durability="memory") as batch:
                if number % 4 == 3:
                    batch.delete_range(b"a", b"c")
                else:
                    batch.put(b"a", b"%d" % number)
                    batch.put(b"b", b"%d" % number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(1500):
            first, second = db.multi_get([b"a", b"b"])
            assert first == second
            assert len(set(dict(db.scan()).values())) <= 1
    finally:
        stop.set()
        writer.join()
