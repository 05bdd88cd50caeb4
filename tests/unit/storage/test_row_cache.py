"""The row cache: its budget, and what it hands on over a flush."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.memtable import Memtable
from seerdb.storage.row_cache import ROW_OVERHEAD, RowCache
from tests.unit.storage.test_batch import batch_of

ROOM_FOR_THREE = 3 * (ROW_OVERHEAD + 10)


def row(number: int, size: int = 9) -> tuple[bytes, tuple[int, bytes]]:
    """A key of one byte and a value that together take ``size + 1`` bytes."""
    return bytes([number]), (number + 1, bytes(size))


def test_a_row_is_found_until_it_must_make_room() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    for number in range(4):
        cache.insert(*row(number))
    assert [cache.get(bytes([number])) is not None for number in range(4)] == [False, *[True] * 3]
    assert cache.bytes == ROOM_FOR_THREE


def test_a_row_may_be_replaced() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    cache.insert(b"k", (1, b"old" * 20))
    cache.insert(b"k", (2, b""))
    assert cache.get(b"k") == (2, b"")
    assert cache.bytes == ROW_OVERHEAD + 1


def test_without_capacity_nothing_is_kept() -> None:
    cache = RowCache(0)
    cache.insert(b"k", (1, b""))
    assert (cache.get(b"k"), cache.bytes) == (None, 0)


def test_a_row_larger_than_the_budget_drives_nothing_out() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    cache.insert(*row(1))
    cache.insert(*row(2, size=10_000))
    assert cache.get(b"\1") is not None
    assert cache.get(b"\2") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=40))
def test_the_budget_is_never_exceeded(inserts: list[tuple[int, int]]) -> None:
    cache = RowCache(ROOM_FOR_THREE)
    for number, size in inserts:
        cache.insert(*row(number, size))
        rows = [(bytes([n]), cache.get(bytes([n]))) for n in range(10)]
        used = sum(ROW_OVERHEAD + 1 + len(found[1] or b"") for _, found in rows if found)
        assert cache.bytes == used <= ROOM_FOR_THREE
        if size + 1 + ROW_OVERHEAD <= ROOM_FOR_THREE:
            assert cache.get(bytes([number])) == (number + 1, bytes(size))


def memtable_of(*operations: tuple[str, bytes, bytes]) -> Memtable:
    memtable = Memtable([1])
    batch = batch_of(list(operations))
    memtable.apply(100, batch.kinds, batch.keys, batch.values)
    return memtable


def test_a_flush_hands_on_what_it_does_not_replace() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    for number in range(3):
        cache.insert(*row(number))
    after = cache.without(memtable_of(("put", b"\0", b"new"), ("delete", b"\1", b"")))
    assert [after.get(bytes([number])) for number in range(3)] == [None, None, row(2)[1]]
    assert after.bytes == ROW_OVERHEAD + 10
    for number in range(3):
        after.insert(*row(number))
    assert after.bytes == ROOM_FOR_THREE, "the budget goes with it"
    assert cache.get(b"\0") == row(0)[1], "the old one is for readers of the old layout"


def test_a_range_delete_hands_on_nothing() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    cache.insert(*row(0))
    assert cache.without(memtable_of(("delete_range", b"\0", b"\1"))).get(b"\0") is None


def test_late_insertions_of_old_readers_stay_in_the_old_cache() -> None:
    cache = RowCache(ROOM_FOR_THREE)
    after = cache.without(memtable_of(("put", b"\0", b"new")))
    cache.insert(*row(0))
    assert after.get(b"\0") is None
