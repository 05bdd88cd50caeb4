"""The memtable: versions, what is kept for snapshots, and its pieces, against a naive history."""

from __future__ import annotations

import sys
import tracemalloc
import weakref
from bisect import bisect_left
from itertools import pairwise
from random import Random
from types import FrameType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.ids import MAX_SEQ
from seerdb.storage.batch import Batch
from seerdb.storage.entry import DELETE_RANGE, RangeTombstone
from seerdb.storage.memtable import ENTRY_OVERHEAD, FREED_AT_ONCE, GONE, SCAN_CHUNK, Memtable
from seerdb.storage.operators import BUILT_IN, show
from seerdb.storage.value import Value, Version
from seerdb.testing.model import Operation
from tests.unit.storage.test_batch import OPERATIONS, batch_of

Row = tuple[bytes, int, Value]


def apply(memtable: Memtable, batch: Batch) -> int:
    seq = memtable.last_seq + 1
    normalised = batch.normalised()
    memtable.apply(seq, normalised.kinds, normalised.keys, normalised.values)
    return seq


def put(memtable: Memtable, key: bytes, value: bytes) -> int:
    return apply(memtable, batch_of([("put", key, value)]))


def rows(
    memtable: Memtable,
    start: bytes | None = None,
    end: bytes | None = None,
    at: int = MAX_SEQ,
    *,
    reverse: bool = False,
) -> list[Row]:
    """The rows of all pieces; checks what a piece promises."""
    found: list[Row] = []
    told: bytes | None = start if not reverse else end
    pieces = list(memtable.pieces(start, end, at, reverse=reverse))
    assert [piece.frontier is None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for chunk, frontier in pieces:
        keys = list(chunk.keys)
        assert keys == sorted(set(keys))
        if reverse:
            assert all(
                (frontier is None or k >= frontier) and (told is None or k < told) for k in keys
            )
        else:
            assert all(
                (told is None or k >= told) and (frontier is None or k < frontier) for k in keys
            )
        told = frontier
        found += list(zip(*chunk, strict=True))[:: -1 if reverse else 1]
    return found


def test_it_is_empty_until_something_is_applied() -> None:
    memtable = Memtable([3])
    assert not memtable
    assert (memtable.size, memtable.find(b"a", MAX_SEQ), rows(memtable)) == (0, None, [])
    put(memtable, b"a", b"")
    assert memtable
    assert memtable.find(b"a", MAX_SEQ) == (1, b"")


def test_a_delete_is_a_version_without_value() -> None:
    memtable = Memtable([1])
    put(memtable, b"a", b"1")
    apply(memtable, batch_of([("delete", b"a", b""), ("delete", b"b", b"")]))
    assert memtable.find(b"a", MAX_SEQ) == memtable.find(b"b", MAX_SEQ) == (2, None)
    assert rows(memtable) == [(b"a", 2, None), (b"b", 2, None)]


def test_a_batch_with_only_a_range_delete_counts() -> None:
    memtable = Memtable([1])
    apply(memtable, batch_of([("delete_range", b"a", b"c")]))
    assert memtable
    assert (memtable.last_seq, memtable.ranged, len(memtable.newest)) == (1, True, 0)
    assert memtable.tombstones.tombstones == (RangeTombstone(b"a", b"c", 1),)


def test_overwritten_versions_are_dropped_while_nobody_reads_the_past() -> None:
    memtable = Memtable([1])
    for number in range(100):
        put(memtable, b"a", b"%d" % number)
    assert memtable.find(b"a", MAX_SEQ) == (100, b"99")
    assert memtable.find(b"a", 99) is None
    assert not memtable.older


def test_what_a_snapshot_may_need_is_kept_and_no_more() -> None:
    memtable = Memtable([1])
    put(memtable, b"a", b"1")
    put(memtable, b"b", b"1")
    memtable.pinned = 2
    for number in range(3, 50):
        put(memtable, b"a", b"%d" % number)
    assert memtable.find(b"a", 2) == (1, b"1")
    assert memtable.find(b"a", MAX_SEQ) == (49, b"49")
    assert sum(map(len, memtable.older.values())) == 1
    memtable.pinned = 49
    put(memtable, b"a", b"50")
    assert [memtable.find(b"a", at) for at in (1, 2, 49, 50)] == [
        (1, b"1"),
        (1, b"1"),
        (49, b"49"),
        (50, b"50"),
    ]


def test_memory_is_counted() -> None:
    memtable = Memtable([1])
    put(memtable, b"key", b"value")
    one = memtable.size
    assert one == 8 + ENTRY_OVERHEAD
    apply(memtable, batch_of([("put", b"a", b"x" * 1000), ("delete", b"b", b"")]))
    assert memtable.size == one + 1002 + 2 * ENTRY_OVERHEAD
    before = memtable.size
    put(memtable, b"a", b"")
    assert memtable.size == before + 1 + ENTRY_OVERHEAD, "the old version is still there"


def test_so_is_that_of_range_tombstones() -> None:
    number = Random(1).randrange
    tracemalloc.start()
    try:
        memtable = Memtable([1])
        for seq in range(1, 3000):
            start = b"%016d" % number(10**12)
            memtable.apply(seq, bytes([DELETE_RANGE]), [start], [start + b"x"])
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * used < memtable.size < 1.25 * used


@pytest.mark.parametrize(("times", "both"), [((5, 6), (5, 9)), ((0, 0), (8, 9))])
def test_what_absorbed_another_tells_from_when_to_when_both_are(
    times: tuple[int, int], both: tuple[int, int]
) -> None:
    older, newer = Memtable([1]), Memtable([2])
    older.first_us, older.last_us = times
    newer.first_us, newer.last_us = 8, 9
    older.absorb(newer)
    assert (older.first_us, older.last_us) == both


def test_a_newer_memtable_is_absorbed() -> None:
    older, newer = Memtable([1, 2]), Memtable([4])
    put(older, b"a", b"1")
    put(older, b"b", b"1")
    newer.last_seq = older.last_seq
    apply(newer, batch_of([("delete_range", b"c", b"d"), ("put", b"b", b"2")]))
    apply(newer, batch_of([("delete", b"a", b"")]))
    size = older.size + newer.size
    older.absorb(newer)
    assert rows(older) == [(b"a", 4, None), (b"b", 3, b"2")]
    assert (older.segments, older.last_seq, older.size) == ([1, 2, 4], 4, size)
    assert (older.ranged, older.tombstones.tombstones) == (True, newer.tombstones.tombstones)
    plain = Memtable([1])
    plain.absorb(older)
    assert rows(plain) == rows(older)


def test_a_key_twice_in_a_batch_is_kept_aside_once() -> None:
    memtable = Memtable([1])
    put(memtable, b"a", b"1")
    memtable.pinned = 1
    apply(memtable, batch_of([("put", b"a", b"2"), ("delete", b"a", b""), ("put", b"a", b"3")]))
    assert memtable.find(b"a", 1) == (1, b"1")
    assert memtable.find(b"a", 2) == (2, b"3")
    assert memtable.older == {b"a": [0]}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "count", [0, 1, SCAN_CHUNK - 1, SCAN_CHUNK, SCAN_CHUNK + 1, 3 * SCAN_CHUNK]
)
def test_pieces_of_many_keys(count: int, *, reverse: bool) -> None:
    memtable = Memtable([1])
    for number in range(count):
        put(memtable, b"%05d" % (number * 7919 % count), b"v")
    keys = [b"%05d" % number for number in range(count)]
    assert [row[0] for row in rows(memtable, reverse=reverse)] == keys[:: -1 if reverse else 1]
    for start, end in ((b"00001", b"00600"), (b"00511", None), (None, b"00512"), (b"9", b"a")):
        low = 0 if start is None else bisect_left(keys, start)
        high = count if end is None else bisect_left(keys, end)
        found = [row[0] for row in rows(memtable, start, end, reverse=reverse)]
        assert found == keys[low:high][:: -1 if reverse else 1]


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_that_come_while_pieces_are_taken_are_not_shown(*, reverse: bool) -> None:
    memtable = Memtable([1])
    for number in range(0, 3000, 2):
        put(memtable, b"%05d" % number, b"old")
    at = memtable.pinned = memtable.last_seq
    expected = rows(memtable, at=at, reverse=reverse)
    found = []
    for piece in memtable.pieces(None, None, at, reverse=reverse):
        found += list(zip(*piece.chunk, strict=True))[:: -1 if reverse else 1]
        for number in range(500):
            put(memtable, b"%05d" % (len(found) * 7 % 3000 + number), b"new")
    assert found == expected


def test_a_memtable_that_is_dropped_frees_its_entries_some_at_a_time() -> None:
    """Between one line and the next other threads may run."""
    count = 5 * FREED_AT_ONCE
    memtable, freed = Memtable([1]), list[object]()
    values = [set[bytes]() for _ in range(count)]
    watched = [weakref.ref(value, freed.append) for value in values]
    for seq in range(1, count + 1):
        memtable.put(seq, b"%d" % seq, cast("bytes", values.pop()), 1)
    at_each_line = [0]

    def look(_frame: FrameType, _event: str, _argument: object) -> Any:
        at_each_line.append(len(freed))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    del memtable
    sys.settrace(before)
    at_each_line.append(len(freed))
    assert len(freed) == len(watched)
    assert max(later - earlier for earlier, later in pairwise(at_each_line)) <= FREED_AT_ONCE


def test_what_many_operands_made_on_the_way_is_let_go() -> None:
    memtable = Memtable([1], BUILT_IN["append"])
    put(memtable, b"k", b"")
    before = [apply(memtable, batch_of([("merge", b"k", b"x" * 100)])) for _ in range(50)]
    found = memtable.find(b"k", MAX_SEQ)
    assert found is not None
    assert show(b"k", found, memtable.operator, second=0) == (51, b"x" * 5000)
    held = [value for value in memtable.values if value is not GONE]
    assert (len(held), len(memtable.values)) == (1, 51)
    assert memtable.find(b"k", before[7]) is None, "no snapshot was taken then"


def test_what_a_snapshot_may_need_of_them_stays() -> None:
    memtable = Memtable([1], BUILT_IN["append"])
    put(memtable, b"k", b"a")
    memtable.pinned = apply(memtable, batch_of([("merge", b"k", b"b")]))
    for operand in (b"c", b"d"):
        apply(memtable, batch_of([("merge", b"k", operand)]))
    assert memtable.find(b"k", memtable.pinned) == (2, b"ab")
    assert memtable.find(b"k", MAX_SEQ) == (4, b"abcd")


def test_a_reader_who_was_led_to_a_version_that_went_looks_again() -> None:
    memtable = Memtable([1], BUILT_IN["append"])
    put(memtable, b"k", b"a")

    class Meddled(dict[bytes, int]):
        led = False

        def get(self, key: bytes, default: Any = None) -> Any:
            place = super().get(key, default)
            if not self.led:
                self.led = True
                apply(memtable, batch_of([("merge", b"k", b"b")]))
            return place

    memtable.newest = Meddled(memtable.newest)
    assert memtable.find(b"k", MAX_SEQ) == (2, b"ab")


@given(
    batches=st.lists(st.lists(OPERATIONS, min_size=1, max_size=5), max_size=8),
    pins=st.sets(st.integers(1, 8)),
)
def test_every_pinned_moment_stays_readable(batches: list[list[Operation]], pins: set[int]) -> None:
    memtable = Memtable([1])
    history: dict[int, dict[bytes, Version]] = {}
    newest: dict[bytes, Version] = {}
    for operations in batches:
        batch = batch_of(operations).normalised()
        seq = apply(memtable, batch)
        for operation, key, value in zip(batch.kinds, batch.keys, batch.values, strict=True):
            if operation != 3:
                newest[key] = (seq, value if operation == 1 else None)
        if seq in pins:
            memtable.pinned = seq
            history[seq] = dict(newest)
    history[MAX_SEQ] = newest
    for at, versions in history.items():
        for key in (b"a", b"b", b"c", b"d", b"d\0"):
            assert memtable.find(key, at) == versions.get(key)
        expected = [(key, *version) for key, version in sorted(versions.items())]
        assert rows(memtable, at=at) == expected
        assert rows(memtable, at=at, reverse=True) == expected[::-1]
        assert rows(memtable, b"b", b"d", at=at) == [r for r in expected if b"b" <= r[0] < b"d"]
