"""The row cache: its budget, and what it hands on over a flush."""

from __future__ import annotations

from weakref import WeakSet

from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.memtable import Memtable
from seerdb.storage.tiers.row_cache import ROW_OVERHEAD, RowCache
from tests.unit.storage.test_batch import batch_of

ROOM_FOR_THREE = 3 * (ROW_OVERHEAD + 10)


def row(number: int, size: int = 9) -> tuple[bytes, tuple[int, bytes]]:
    """A key of one byte and a value that together take ``size + 1`` bytes."""
    return bytes([number]), (number + 1, bytes(size))


def cache_of(capacity: int) -> RowCache:
    """A row cache whose allowance does not change."""
    return RowCache(lambda: capacity)


def offer(cache: RowCache, number: int, size: int = 9) -> None:
    """What a read of the newest layout does with a row; twice, so that it gets in."""
    for _ in range(2):
        cache.offer(*row(number, size), cache.generation)


def test_a_row_is_found_until_it_must_make_room() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    for number in range(4):
        offer(cache, number)
    assert [cache.get(bytes([number])) is not None for number in range(4)] == [False, *[True] * 3]
    assert cache.bytes == ROOM_FOR_THREE


def test_while_there_is_room_one_read_is_enough_and_later_it_takes_two() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    for number in range(3):
        cache.offer(*row(number), 0)
        assert cache.get(bytes([number])) is not None
    offer(cache, 3)
    cache.offer(*row(4), 0)
    assert cache.get(b"\4") is None
    cache.offer(*row(4), 0)
    assert cache.get(b"\4") is not None


def test_keys_asked_for_once_hardly_get_in() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    for number in range(4):
        offer(cache, number)
    entered = 0
    for number in range(10_000):
        cache.offer(b"once %d" % number, (1, b""), 0)
        entered += cache.get(b"once %d" % number) is not None
    assert entered < 200, "one in 256 passes for another"


def test_without_allowance_nothing_is_kept() -> None:
    cache = cache_of(0)
    offer(cache, 1)
    assert (cache.get(b"\1"), cache.bytes) == (None, 0)


def test_a_row_larger_than_the_allowance_drives_nothing_out() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    offer(cache, 1)
    offer(cache, 2, size=10_000)
    assert cache.get(b"\1") is not None
    assert cache.get(b"\2") is None


def test_rows_give_back_what_blocks_need() -> None:
    allowed = [ROOM_FOR_THREE]
    cache = RowCache(lambda: allowed[0])
    for number in range(3):
        offer(cache, number)
    allowed[0] //= 3
    cache.fit()
    assert [cache.get(bytes([number])) is not None for number in range(3)] == [False, False, True]
    assert cache.bytes == allowed[0]
    allowed[0] = ROOM_FOR_THREE
    cache.fit()
    cache.offer(*row(7), 0)
    assert cache.get(b"\7") is not None, "there is room again"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=40))
def test_the_allowance_is_never_exceeded(inserts: list[tuple[int, int]]) -> None:
    cache = cache_of(ROOM_FOR_THREE)
    sizes: dict[int, int] = {}
    for number, size in inserts:
        size = sizes.setdefault(number, size)  # noqa: PLW2901 - a key has one version
        offer(cache, number, size)
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


def test_a_flush_drops_what_it_replaces() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    for number in range(3):
        offer(cache, number)
    cache.advance(memtable_of(("put", b"\0", b"new"), ("delete", b"\1", b"")))
    assert [cache.get(bytes([number])) for number in range(3)] == [None, None, row(2)[1]]
    assert cache.bytes == ROW_OVERHEAD + 10


def test_a_flush_of_many_keys_drops_all_of_them() -> None:
    cache = cache_of(1 << 30)
    keys = [b"%d" % number for number in range(5000)]
    for key in keys:
        cache.offer(key, (1, b""), 0)
    cache.advance(memtable_of(*(("put", key, b"new") for key in keys[:-1])))
    assert [cache.get(key) is not None for key in keys] == [*[False] * 4999, True]


def test_a_range_delete_drops_everything() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    offer(cache, 0)
    cache.advance(memtable_of(("delete_range", b"\0", b"\1")))
    assert (cache.get(b"\0"), cache.bytes) == (None, 0)


def test_one_that_begins_anew_is_empty_and_shares_what_is_allowed() -> None:
    living: WeakSet[RowCache] = WeakSet()
    former = RowCache(lambda: ROOM_FOR_THREE // len(living), living)
    offer(former, 0)
    cache = former.anew()
    assert (cache.get(b"\0"), former.get(b"\0")) == (None, row(0)[1])
    former.fit()
    assert len(living) == 2
    offer(cache, 1)
    offer(cache, 2)
    assert cache.bytes <= ROOM_FOR_THREE // 2


def test_a_reader_still_on_the_old_layout_brings_nothing_back() -> None:
    cache = cache_of(ROOM_FOR_THREE)
    cache.advance(memtable_of(("put", b"\0", b"new")))
    for _ in range(2):
        cache.offer(*row(0), 0)
    assert cache.get(b"\0") is None
